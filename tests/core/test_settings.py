"""Every knob: its default, its range, and the sentence a person reads when a value does not fit."""

import argparse
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_pix2pix.cli.arguments import add_settings, settings_of
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import KNOBS, EditSettings, seed_notes
from instruct_pix2pix.text import number_text

NUMBERS = [name for name, knob in KNOBS.items() if knob.minimum is not None]


def made(**values: Any) -> EditSettings:
    """Settings of values of any kind: what a door passes on is not typed."""
    return EditSettings(**values)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="edit")
    options.add_argument("instruction")
    add_settings(options)
    return options


def test_the_defaults_are_those_agreed_for_all_doors():
    one = EditSettings()
    assert (one.text_cfg, one.image_cfg, one.steps, one.sampler, one.seed) == (7.5, 1.5, 20, "Euler a", -1)
    assert (one.schedule, one.count, one.batch_size, one.size) == ("Automatic", 1, 1, "auto")
    assert (one.rescale, one.denoise, one.randomize_cfg, one.instruction, one.speed) == (0, 1, "off", "", "exact")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("text_cfg", 1, 30),
        ("image_cfg", 0, 5),
        ("steps", 1, 150),
        ("count", 1, 1000),
        ("batch_size", 1, 64),
        ("rescale", 0, 1),
        ("denoise", 0, 1),
    ],
)
def test_both_ends_of_a_range_are_taken_and_nothing_beyond_them(name: str, low: int, high: int):
    assert getattr(made(**{name: low}), name) == low
    assert getattr(made(**{name: high}), name) == high
    for beyond in (low - 1, high + 1, 10**400, -math.inf, math.inf):
        with pytest.raises(UserError, match=rf"^{KNOBS[name].label} is .* between {low} and {high}"):
            made(**{name: beyond})


@pytest.mark.parametrize("seed", [2**32, 2**32 + 5, 2**64 - 1, float(2**40), 10**400])
def test_a_seed_of_another_program_is_taken_by_its_lowest_32_bits(seed: float):
    assert EditSettings(seed=seed).seed == int(seed) % 2**32  # pyright: ignore[reportArgumentType]
    (note,) = seed_notes(seed)
    assert f": {int(seed) % 2**32} was used" in note and note.startswith(f"Seed {str(seed)[:40]} ")


def test_a_seed_that_is_used_as_it_is_needs_no_note():
    for seed in (None, -1, 0, 2**32 - 1, "7", "none"):
        assert seed_notes(seed) == []


@pytest.mark.parametrize("seed", [-2, 0.5, math.inf, -math.inf, True, "5"])
def test_a_seed_that_is_none_is_refused(seed: Any):
    with pytest.raises(UserError, match="Seed is "):
        EditSettings(seed=seed)


def test_a_value_out_of_range_is_named_with_its_label_and_its_range():
    with pytest.raises(UserError) as caught:
        EditSettings(text_cfg=99)
    assert str(caught.value) == "Text CFG is 99, but must lie between 1 and 30: choose a value in that range."


@pytest.mark.parametrize("name", NUMBERS)
def test_nan_is_refused_for_every_number(name: str):
    with pytest.raises(UserError, match=f"{KNOBS[name].label} is nan"):
        made(**{name: math.nan})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 20.5}, "Steps is 20.5, but must be a whole number between 1 and 150"),
        ({"steps": True}, "Steps is True, but must be a whole number"),
        ({"text_cfg": "7"}, "Text CFG is '7', but must be a number between 1 and 30"),
        ({"image_cfg": None}, "Image CFG is None, but must be a number between 0 and 5"),
        ({"image_cfg": [1.5] * 99}, "Image CFG is .{60}, but must be a number"),
        ({"randomize_cfg": 1}, "Randomize CFG is 1, but must be one of off, text, image, both"),
        ({"instruction": 5}, "Instruction is 5, but must be text"),
        ({"instruction": "x" * 10_001}, "Instruction is 10001 characters long"),
        ({"instruction": "a\0b"}, "Instruction holds bytes that are not text"),
        ({"negative": "\udcff"}, "Negative prompt holds bytes that are not text"),
        ({"sampler": "  "}, "Sampler is empty: choose one by name, for example 'Euler a'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_explained(values: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        made(**values)


def test_an_image_cfg_below_one_stays_what_it_is():
    assert EditSettings(image_cfg=0.9).image_cfg == 0.9


def test_whole_floats_serve_as_integers_and_integers_as_floats():
    settings = made(steps=30.0, text_cfg=8)
    assert (settings.steps, type(settings.steps)) == (30, int)
    assert (settings.text_cfg, type(settings.text_cfg)) == (8.0, float)


def test_numpy_numbers_are_numbers():
    settings = made(steps=np.int64(30), image_cfg=np.float32(1.25))
    assert (settings.steps, type(settings.steps)) == (30, int)
    assert (settings.image_cfg, type(settings.image_cfg)) == (1.25, float)


@pytest.mark.parametrize(
    ("written", "stored", "target"),
    [
        ("auto", "auto", None),
        (" AUTO ", "auto", None),
        ("512", "512", 512),
        (512, "512", 512),
        ("512x768", "512x768", (512, 768)),
        ("512 X 768", "512x768", (512, 768)),
        ("64×4096", "64x4096", (64, 4096)),
        ("0512", "512", 512),
    ],
)
def test_a_size_may_be_written_in_several_ways(written: object, stored: str, target: object):
    settings = made(size=written)
    assert (settings.size, settings.target_size) == (stored, target)


@pytest.mark.parametrize(
    "written",
    ["", "63", "4097", "63x512", "512x4097", "512x", "x512", "1x2x3", "-512", "9" * 5000, 5.5, True],
)
def test_a_size_that_makes_no_sense_is_explained(written: object):
    with pytest.raises(UserError, match=r"^Size is .* auto, .* 512, .* 512x768.* between 64 and 4096\.$"):
        made(size=written)


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_an_empty_instruction_is_asked_for(blank: str):
    with pytest.raises(UserError, match="instruction is empty: say what to change"):
        EditSettings(instruction=blank).require_instruction()


def test_a_given_instruction_passes():
    settings = EditSettings(instruction="make it winter")
    assert settings.require_instruction() is settings


def test_line_ends_of_every_system_become_newlines():
    assert EditSettings(instruction="a\r\nb\rc\nd").instruction == "a\nb\nc\nd"


def test_settings_cannot_be_changed_behind_a_job_that_holds_them():
    with pytest.raises(AttributeError):
        EditSettings().steps = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mapping_may_leave_values_open():
    assert EditSettings.from_mapping({"steps": 5, "text_cfg": None}) == EditSettings(steps=5)


def test_an_unknown_name_is_met_with_the_nearest_one():
    with pytest.raises(UserError, match=r"no setting 'text_cgf': did you mean 'text_cfg'\?"):
        EditSettings.from_mapping({"text_cgf": 5})
    with pytest.raises(UserError, match=r"no setting 'zzzz': the settings are instruction, .*steps"):
        EditSettings.from_mapping({"zzzz": 5})


def test_one_seed_per_picture_counting_on_and_over_the_end():
    assert EditSettings(seed=7, count=3).seeds() == [7, 8, 9]
    assert EditSettings(seed=2**32 - 1, count=3).seeds() == [2**32 - 1, 0, 1]


def test_a_seed_of_minus_one_draws_another_each_time():
    drawn = {EditSettings().seeds()[0] for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)
    first, second = EditSettings(count=2).seeds()
    assert second == (first + 1) % 2**32


def test_randomize_cfg_draws_in_the_ranges_of_the_authors_demo_from_the_seed_alone():
    settings = EditSettings(randomize_cfg="both", count=50)
    drawn = [settings.for_image(seed) for seed in range(200)]
    assert drawn == [settings.for_image(seed) for seed in range(200)]
    assert all(6 <= one.text_cfg <= 9 and 1.2 <= one.image_cfg <= 1.8 for one in drawn)
    assert len({(one.text_cfg, one.image_cfg) for one in drawn}) > 150
    assert max(one.text_cfg for one in drawn) > 8.8 and min(one.image_cfg for one in drawn) < 1.23
    # Two decimals: what the infotext says is what was used, and it can be asked for again.
    assert all(float(f"{one.text_cfg:.2f}") == one.text_cfg for one in drawn)
    assert {one.randomize_cfg for one in drawn} == {"off"}
    assert [one.seed for one in drawn] == list(range(200))


def test_each_scale_has_a_switch_of_its_own_and_is_drawn_around_what_is_set():
    settings = EditSettings(text_cfg=3, image_cfg=2)  # SDXL's are lower
    for which, text_drawn, image_drawn in (("text", True, False), ("image", False, True), ("both", True, True)):
        drawn = [replace(settings, randomize_cfg=which).for_image(seed) for seed in range(100)]
        assert (len({one.text_cfg for one in drawn}) > 50, len({one.image_cfg for one in drawn}) > 30) == (
            text_drawn,
            image_drawn,
        )
        assert all(2.4 <= one.text_cfg <= 3.6 and 1.6 <= one.image_cfg <= 2.4 for one in drawn)
    highest = [EditSettings(text_cfg=30, image_cfg=5, randomize_cfg="both").for_image(seed) for seed in range(50)]
    assert max(one.text_cfg for one in highest) == 30 and max(one.image_cfg for one in highest) == 5


def test_a_switch_stands_for_both_scales_as_in_older_programs():
    assert EditSettings.from_mapping({"randomize_cfg": True}).randomize_cfg == "both"
    assert EditSettings.from_mapping({"randomize_cfg": False}).randomize_cfg == "off"
    assert settings_of(parser().parse_args(["winter", "--randomize-cfg", "image"])).randomize_cfg == "image"


def test_without_randomize_cfg_a_picture_has_the_settings_of_its_job():
    assert EditSettings(text_cfg=4, count=2).for_image(9) == EditSettings(text_cfg=4, count=2, seed=9)


def test_every_option_of_the_command_line_reaches_its_setting():
    line = (
        "winter --negative blurry --text-cfg 8 --image-cfg 1.25 --steps 30 --sampler DDIM --schedule Karras "
        "--seed -1 --count 2 --batch-size 2 --rescale 0.5 --denoise 0.75 --size 512x768 --randomize-cfg --speed fast"
    )
    settings = settings_of(parser().parse_args(line.split()))
    assert settings == EditSettings(
        "winter", "blurry", 8.0, 1.25, 30, "DDIM", "Karras", -1, 2, 2, 0.5, 0.75, "512x768", "both", "fast"
    )


def test_options_not_given_are_the_defaults():
    assert settings_of(parser().parse_args(["winter"])) == EditSettings("winter")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--text-cfg", "99", "Text CFG is 99, but must lie between 1 and 30"),
        ("--text-cfg", "nan", "Text CFG is nan"),
        ("--steps", "many", "Steps is 'many', but must be a whole number between 1 and 150"),
        ("--size", "10x10", "Size is '10x10'"),
    ],
)
def test_a_bad_option_is_bad_usage_in_the_same_words(option: str, value: str, sentence: str, capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["winter", option, value])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_help_of_the_command_line_tells_range_and_default():
    text = " ".join(parser().format_help().split())
    assert "higher changes more. (default 7.5, or what suits the model; between 1 and 30)" in text
    assert "higher changes less. (default 1.5, or what suits the model; between 0 and 5)" in text


def test_every_knob_tells_a_door_what_it_needs_once():
    for name, knob in KNOBS.items():
        assert knob.label and knob.help.endswith("."), name
        assert knob.check(knob.default) == knob.default, name
    for names in ([k.flag for k in KNOBS.values()], [k.infotext for k in KNOBS.values()]):
        given = [name for name in names if name]
        assert len(given) == len(set(given))


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.0, "7"), (7.5, "7.5"), (0.05, "0.05"), (2**32 - 1, "4294967295"), (-1, "-1"), (1 / 3, repr(1 / 3))],
)
def test_a_number_is_written_without_trailing_zeros_and_exactly(value: float, text: str):
    assert number_text(value) == text


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
)


@given(st.sampled_from(sorted(KNOBS)), ANYTHING)
def test_any_value_at_all_is_either_stored_within_its_range_or_explained(name: str, value: object):
    try:
        stored = getattr(made(**{name: value}), name)
    except UserError as error:
        assert str(error).startswith(KNOBS[name].label) and str(error).endswith(".")
        return
    knob = KNOBS[name]
    assert type(stored) is type(knob.default)
    if knob.minimum is not None and knob.maximum is not None:
        assert knob.minimum <= stored <= knob.maximum
