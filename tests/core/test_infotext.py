"""The 'parameters' text: written as the AUTOMATIC1111 web UI writes it, read as it reads it."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.infotext import build, parse, settings_from
from instruct_pix2pix.settings import RANDOMIZE_CFG, SPEEDS, EditSettings

HORSE = EditSettings("Turn the horse into a dragon", "blurry, low quality", size="512x384")


def written(settings: EditSettings, **given: Any) -> str:
    model = {"model_name": "instruct-pix2pix", "model_hash": "fbc31a67aa"}
    known: dict = {"seed": 1, "size": (512, 384), **model}
    return build(settings, **(known | given))


def last_line_read_letter_by_letter(text: str) -> dict[str, str]:
    """A reader of the last line that shares nothing with the library's: one letter at a time."""
    fields: dict[str, str] = {}
    line = text.split("\n")[-1]
    place = 0
    while place < len(line):
        colon = line.index(":", place)
        name, place = line[place:colon].strip(), colon + 1
        while place < len(line) and line[place] == " ":
            place += 1
        value = ""
        if line[place : place + 1] == '"':
            place += 1
            while line[place] != '"':
                if line[place] == "\\":
                    place += 1
                    letter = line[place]
                    if letter == "u":
                        letter = chr(int(line[place + 1 : place + 5], 16))
                        place += 4
                    elif letter in "ntrbf":
                        letter = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}[letter]
                    value += letter
                else:
                    value += line[place]
                place += 1
            place += 1
            assert line[place : place + 1] in ("", ",")
        else:
            comma = line.find(",", place)
            comma = len(line) if comma < 0 else comma
            value, place = line[place:comma], comma
        fields[name] = value
        place += 1
    return fields


def test_the_text_is_the_web_uis():
    assert written(HORSE) == (
        "Turn the horse into a dragon\n"
        "Negative prompt: blurry, low quality\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, Image CFG scale: 1.5, "
        "Seed: 1, Size: 512x384, Model hash: fbc31a67aa, Model: instruct-pix2pix, Denoising strength: 1"
    )


def test_without_a_negative_prompt_its_line_is_left_out():
    assert written(replace(HORSE, negative="")).split("\n")[1].startswith("Steps: 20")


def test_numbers_have_no_trailing_zeros():
    text = written(replace(HORSE, text_cfg=7, image_cfg=1.25, denoise=0.6))
    assert "CFG scale: 7, Image CFG scale: 1.25," in text
    assert "Denoising strength: 0.6" in text


def test_a_knob_that_is_not_the_web_uis_appears_when_it_is_turned():
    assert "Guidance rescale: 0.7" in written(replace(HORSE, rescale=0.7))
    assert "Guidance rescale" not in written(HORSE)
    assert "Speed: fast" in written(replace(HORSE, speed="fast"))
    assert "Speed" not in written(HORSE)


def test_the_size_to_edit_at_is_told_apart_from_the_size_of_the_picture():
    text = written(replace(HORSE, size="auto"))
    assert "Size: 512x384," in text and "Edit size: auto" in text
    assert settings_from(text)[0].size == "auto"


def test_an_unknown_model_is_left_out_and_extra_fields_come_last():
    text = written(HORSE, model_name=None, model_hash="", extra={"RNG": "CPU", "Mask blur": None})
    assert "Model" not in text and "Mask blur" not in text
    assert text.endswith(", RNG: CPU")


def test_what_randomize_cfg_drew_is_what_is_written():
    job = replace(HORSE, randomize_cfg="both", count=4)
    drawn = job.for_image(77)
    read, left_out = settings_from(written(job, seed=77))
    assert (read.text_cfg, read.image_cfg, read.seed, left_out) == (drawn.text_cfg, drawn.image_cfg, 77, ())
    assert read.randomize_cfg == "off"


@pytest.mark.parametrize("name", ["a,b", "a: b", 'say "x"', '"quoted"', " outer ", "back\\slash", "two\nlines", "日本"])
def test_any_name_of_a_model_is_read_back(name: str):
    text = written(HORSE, model_name=name)
    assert parse(text).fields["Model"] == name
    assert last_line_read_letter_by_letter(text)["Model"] == name


@pytest.mark.parametrize("name", ["", "x", "a:b", "a,b", "two\nlines", " outer"])
def test_a_field_name_that_could_not_be_read_back_is_refused(name: str):
    with pytest.raises(ValueError, match="field name"):
        written(HORSE, extra={name: 1})


def test_a_seed_out_of_range_is_explained():
    with pytest.raises(UserError, match="Seed is -2"):
        written(HORSE, seed=-2)


def test_the_seed_of_a_text_is_the_one_that_was_used():
    assert "Seed: 4294967295," in written(HORSE, seed=2**64 - 1)
    settings, notes = settings_from("Steps: 20, Sampler: Euler, Seed: 18446744073709551615")
    assert settings.seed == 2**32 - 1
    assert len(notes) == 1 and "18446744073709551615" in notes[0] and "4294967295 was used" in notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "make it winter: snow, add: a tree, sky: blue",
        "Model: a tall woman, Size: large, Colour: red",
        "Steps: of stone, Seed: in the earth, Size: small",
        "Steps: 20, Sampler: Euler a, Seed: 5\nmake it winter",
    ],
)
def test_plain_text_with_colons_is_all_instruction(text: str):
    assert (parse(text).instruction, parse(text).fields) == (text, {})


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_an_extension_writes_below_the_settings_is_no_prompt(end: str):
    lines = [
        "a cat",
        "Negative prompt: a dog",
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 512x512",
        "Template: a {cat|cow},",
        "on grass",
        "Negative Template: a dog",
    ]
    read = parse(end.join(lines))
    assert (read.instruction, read.negative) == ("a cat", "a dog")
    assert read.fields["Seed"] == "3" and read.fields["Size"] == "512x512"
    assert read.fields["Template"] == "a {cat|cow},\non grass" and read.fields["Negative Template"] == "a dog"


@pytest.mark.parametrize(
    "prompt",
    [
        "two\nlines",
        "a blank\n\nbetween",
        "\n leading and trailing \n",
        "Negative prompt: none",
        "first\nNegative prompt: second",
        "Steps: 20, Sampler: Euler a, Seed: 1",
        "say\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 1x1",
        'Exact prompt: "x"',
        '"quoted"',
        "emoji 🐉 and (weights:1.2), [brackets]",
        "\u2028\x85\x1c",
    ],
)
def test_awkward_prompts_survive(prompt: str):
    for made in (replace(HORSE, instruction=prompt), replace(HORSE, negative=prompt)):
        read = parse(written(made))
        assert (read.instruction, read.negative) == (made.instruction, made.negative)
        assert last_line_read_letter_by_letter(written(made))["Seed"] == "1"


def test_an_ordinary_prompt_is_not_written_twice():
    made = replace(HORSE, instruction="two\nlines, (weights:1.2)", negative="one, two")
    assert "Exact" not in written(made)


TEXT = st.text(max_size=60).filter(lambda text: "\0" not in text) | st.lists(
    st.sampled_from(["Negative prompt:", "Steps: 2, ab: c, de: f", "\n", " ", ",", ":", '"', "\\", "word"]),
    max_size=8,
).map("".join)
NAME = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(
    settings=st.builds(
        EditSettings,
        instruction=TEXT,
        negative=TEXT,
        text_cfg=st.floats(1, 30),
        image_cfg=st.floats(0, 5),
        steps=st.integers(1, 150),
        sampler=NAME,
        schedule=NAME,
        count=st.integers(1, 1000),
        rescale=st.floats(0, 1),
        speed=st.sampled_from(SPEEDS),
        denoise=st.floats(0, 1),
        size=st.sampled_from(["auto", "512", "512x768", "64x64"]),
        randomize_cfg=st.sampled_from(RANDOMIZE_CFG),
    ),
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    model=TEXT,
)
def test_every_edit_can_be_repeated_from_its_text(
    settings: EditSettings, seed: int, width: int, height: int, model: str
):
    size = (width, height)
    text = written(settings, seed=seed, size=size, model_name=model, extra={"Note": model})
    read, left_out = settings_from(text)
    assert left_out == ()
    assert read == replace(settings.for_image(seed), count=1, batch_size=1)
    assert parse(text).fields.get("Model", "") == model
    fields = last_line_read_letter_by_letter(text)
    assert fields["Size"] == f"{width}x{height}" and fields["Note"] == model


def test_a_picture_of_the_web_ui_itself_is_read():
    text = (
        "swap the (sky:1.2) with stars, <lora:night:0.6>\n"
        "second line\n"
        "Negative prompt: ugly, (deformed:1.3)\n"
        "text, watermark\n"
        "Steps: 25, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7, Image CFG scale: 1.35, "
        "Seed: 4242424242, Size: 512x768, Model hash: fbc31a67aa, Model: instruct-pix2pix-00-22000, "
        'Denoising strength: 0.75, Clip skip: 2, Lora hashes: "night: 0a1b2c3d4e5f, day: ffffffffffff", '
        "Mask blur: 4, Version: v1.10.1"
    )
    read = parse(text)
    assert read.instruction == "swap the (sky:1.2) with stars, <lora:night:0.6>\nsecond line"
    assert read.negative == "ugly, (deformed:1.3)\ntext, watermark"
    assert read.fields["Lora hashes"] == "night: 0a1b2c3d4e5f, day: ffffffffffff"
    assert read.fields["Version"] == "v1.10.1"
    settings, left_out = settings_from(text)
    assert left_out == ()
    assert settings == EditSettings(
        instruction=read.instruction,
        negative=read.negative,
        text_cfg=7,
        image_cfg=1.35,
        steps=25,
        sampler="DPM++ 2M SDE",
        schedule="Karras",
        seed=4242424242,
        denoise=0.75,
        size="512x768",
    )


def test_an_old_picture_names_its_schedule_within_the_sampler():
    settings, _ = settings_from("cat\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 9")
    assert (settings.sampler, settings.schedule, settings.image_cfg) == ("DPM++ 2M", "Karras", 1.5)


def test_text_without_settings_is_all_instruction():
    text = "make it winter, with snow: deep\nand ice"
    read = parse(text)
    assert (read.instruction, read.negative, read.fields) == (text, "", {})


def test_settings_alone_leave_the_instruction_empty():
    settings, _ = settings_from("Steps: 30, Sampler: Euler, CFG scale: 6, Seed: 3, Size: 512x512")
    assert (settings.instruction, settings.steps, settings.sampler) == ("", 30, "Euler")


def test_values_that_do_not_fit_are_left_out_and_named():
    settings, left_out = settings_from(
        "cat\nSteps: many, Sampler: Euler, CFG scale: 99, Image CFG scale: nan, Seed: 5, Size: 1x1, Other: 7"
    )
    assert settings == EditSettings(instruction="cat", sampler="Euler", seed=5)
    assert [sentence.split(" is ")[0] for sentence in left_out] == ["Text CFG", "Image CFG", "Steps", "Size"]


@given(st.text(max_size=300))
def test_any_text_at_all_gives_settings(text: str):
    settings, left_out = settings_from(text)
    assert isinstance(settings, EditSettings) and all(sentence.endswith(".") for sentence in left_out)


@pytest.mark.parametrize(
    "piece", ["word ", " -", "ab:", 'ab:"', 'ab:"\\', "ab:x,", "\n", "Negative prompt:\n", '"', "\\", " "]
)
def test_a_megabyte_of_hostile_text_is_read_at_once(piece: str):
    start = time.perf_counter()
    settings_from(piece * (2**20 // len(piece)))
    assert time.perf_counter() - start < 5
