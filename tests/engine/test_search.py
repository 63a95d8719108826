"""Candidates in lockstep: each gives the picture of an edit by itself, and costs what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from instruct_pix2pix.engine.candidates import PAIRS, Glimpse, Search, steadiest, strongest, with_pairs
from instruct_pix2pix.engine.edit import edit_each, fitted, resolved
from instruct_pix2pix.engine.edit_batch import Edited, FittedPicture, Progress
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.search import MOST_CANDIDATES, edit_together, find_each, race
from instruct_pix2pix.errors import Interrupted, UserError
from instruct_pix2pix.settings import SEEDS, EditSettings

HOUSE = Image.open(Path(__file__).parents[2] / "examples" / "house.png").convert("RGB")
STEPS = 5
BASE = EditSettings("make the house blue", steps=STEPS, seed=3, size="64", result_size="model")
PAIRS_OF_SEEDS = [(3, 7.5, 1.5), (3, 3.0, 1.0), (4, 7.5, 1.5), (3, 1.5, 1.5), (4, 12.0, 2.0)]


def candidates(base: EditSettings) -> list[EditSettings]:
    return [replace(base, seed=seed, text_cfg=text, image_cfg=image) for seed, text, image in PAIRS_OF_SEEDS]


def shown(model: EditModel, settings: EditSettings, mask: Image.Image | None = None) -> FittedPicture:
    return fitted(model, HOUSE, settings, mask)


def apart(one: Edited, other: Edited) -> int:
    """The greatest difference of two results, of 255."""
    return int(np.abs(np.asarray(one.image, dtype=int) - np.asarray(other.image, dtype=int)).max())


def left_half() -> Image.Image:
    mask = Image.new("L", (96, 96))
    ImageDraw.Draw(mask).rectangle((0, 0, 47, 95), fill=255)
    return mask


@contextmanager
def counted(model: EditModel) -> Iterator[list[int]]:
    """Count the rows of each call of the network."""
    rows: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[2].text)))
    try:
        yield rows
    finally:
        hook.remove()


def test_a_result_does_not_depend_on_those_that_are_decoded_beside_it(
    model: EditModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16, torch's group norm sums an odd number of pictures in another order: here it shows in any format."""
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent: decode(latent) + 0.1 * (len(latent) - 1))
    made = edit_together(model, shown(model, BASE), candidates(BASE))
    for found, settings in zip(made, candidates(BASE), strict=True):
        (alone,) = edit_together(model, shown(model, BASE), [settings])
        assert apart(found, alone) <= 1


@pytest.mark.parametrize("sampler", ["Euler a", "Heun", "DPM++ 2M SDE", "DPM++ SDE", "LMS", "UniPC"])
def test_each_candidate_gives_the_picture_of_an_edit_by_itself(model: EditModel, sampler: str) -> None:
    asked = candidates(resolved(replace(BASE, sampler=sampler)))
    picture = shown(model, BASE)
    together = list(edit_together(model, picture, asked, together=2))
    alone = list(edit_each(model, picture, asked))
    assert [one.settings for one in together] == asked
    assert max(map(apart, together, alone)) <= 1
    assert [one.rows for one in together] == [one.rows for one in alone]


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_rest": "automatic"},
        {"keep_rest": "always", "text_cfg": 1.5},
        {"instruction": "make the house blue AND make it night :0.5"},
        {"instruction": "make the house blue AND make it night", "speed": "fast", "steps": 9},
        {"speed": "balanced", "steps": 9},
        {"denoise": 0.7},
        {"rescale": 0.5, "apg_eta": 0.0, "apg_threshold": 15.0, "apg_momentum": -0.5},
        {"guidance": "instruct-diffusion"},
        {"negative": "blurry", "result_size": "own"},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_so_it_does_whatever_else_is_asked_for(model: EditModel, changes: dict, masked: bool) -> None:
    asked = candidates(resolved(replace(BASE, **changes)))
    picture = shown(model, BASE, left_half() if masked else None)
    for one, other in zip(edit_together(model, picture, asked), edit_each(model, picture, asked), strict=True):
        assert one.image.size == other.image.size and apart(one, other) <= 1


@pytest.mark.parametrize("pairs", [[(7.5, 1.5), (1.0, 1.0), (3.0, 1.0)], [(1.0, 1.0), (7.5, 1.5)]])
def test_at_speed_fast_those_with_and_those_without_guidance_are_as_they_are_alone(
    model: EditModel, pairs: list[tuple[float, float]]
) -> None:
    base = resolved(replace(BASE, speed="fast", steps=9))
    asked = [replace(base, text_cfg=text, image_cfg=image) for text, image in pairs]
    picture = shown(model, BASE)
    together = edit_together(model, picture, asked)
    assert max(map(apart, together, edit_each(model, picture, asked))) <= 1


def test_candidates_may_differ_in_their_texts(model: EditModel) -> None:
    texts = [("make it night", 3), ("make it winter", 5), ("make it night", 7)]
    asked = [replace(resolved(BASE), instruction=text, text_cfg=cfg) for text, cfg in texts]
    picture = shown(model, BASE)
    together = edit_together(model, picture, asked, together=2)
    assert max(map(apart, together, edit_each(model, picture, asked))) <= 1


def test_the_first_step_is_shared_by_those_that_begin_alike(model: EditModel) -> None:
    asked = candidates(resolved(BASE))  # of two seeds, of which each has one with all three rows
    with counted(model) as rows:
        list(edit_together(model, shown(model, BASE), asked, together=2))
    assert sum(rows) == 3 + 3 + (STEPS - 1) * (3 + 2 + 3 + 2 + 3)


def test_after_each_step_there_is_a_coarse_picture_of_each(model: EditModel) -> None:
    told: list[Progress] = []
    asked = candidates(resolved(BASE))
    list(edit_together(model, shown(model, BASE), asked, told.append, together=2))
    steps = [one for one in told if not one.within]
    assert [one.step for one in steps] == [1, 2, 3, 4, 5]
    assert all(len(one.denoised) == len(asked) and one.steps == STEPS for one in told)
    assert any(0 < one.within < 1 and one.step == 2 for one in told)


def test_it_can_be_ended_between_two_calls_of_the_model(model: EditModel) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 1 and progress.within:
            raise Interrupted

    asked = candidates(resolved(BASE))
    with counted(model) as rows, pytest.raises(Interrupted):
        list(edit_together(model, shown(model, BASE), asked, stop, together=1))
    assert len(rows) == 2 + 1  # the first step of two seeds, and one picture of the second


def test_the_winner_of_a_race_is_an_ordinary_edit_and_the_others_cost_no_more(model: EditModel) -> None:
    asked = [replace(resolved(BASE), seed=seed) for seed in range(4)]
    picture = shown(model, BASE)
    with counted(model) as rows:
        found = race(model, picture, asked, lambda looks: 2)
    assert sum(rows) == 3 * (4 * 2 + 3)  # all of them for two fifths of five steps
    assert found.cost == pytest.approx(11 / 5)
    [alone] = edit_each(model, picture, [asked[2]])
    assert found.edited.settings == asked[2] and apart(found.edited, alone) <= 1
    assert found.edited.rows == alone.rows == 3 * STEPS
    assert [look.settings for look in found.looks] == asked
    assert all(look.picture.size == found.edited.image.size for look in found.looks)


def test_progress_is_that_of_all_candidates_and_then_of_the_one_that_goes_on(model: EditModel) -> None:
    told: list[Progress] = []
    asked = [replace(resolved(BASE), seed=seed) for seed in range(4)]
    race(model, shown(model, BASE), asked, lambda looks: 2, told.append, together=2)
    steps = [one for one in told if not one.within]
    assert [one.seeds for one in steps] == [(0, 1, 2, 3)] * 2 + [(2,)] * 3
    assert all(len(one.denoised) == len(one.seeds) for one in told) and steps[-1].step == STEPS
    assert sum(len(one.seeds) for one in steps) == Search(best_of=4).steps(STEPS) == 4 * 2 + 3
    assert Search().steps(STEPS) == STEPS and Search(best_of=4).steps(STEPS, again=STEPS) == 4 * 2 + STEPS


@pytest.mark.parametrize("changes", [{"keep_rest": "automatic"}, {"keep_rest": "always"}, {"sampler": "Heun"}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_winner_is_that_edit_with_a_mask_and_the_rest_kept_too(
    model: EditModel, changes: dict, masked: bool
) -> None:
    asked = [replace(resolved(replace(BASE, **changes)), seed=seed) for seed in range(3)]
    picture = shown(model, BASE, left_half() if masked else None)
    found = race(model, picture, asked, lambda looks: 1)
    [alone] = edit_each(model, picture, [asked[1]])
    assert apart(found.edited, alone) <= 1
    assert (found.edited.relevance is None) == (alone.relevance is None)


def test_a_candidate_is_told_by_what_it_does_to_the_rest_and_to_what_is_meant(model: EditModel) -> None:
    """One that follows the picture less closely does more to the rest; one that is told nothing does nothing."""
    base = resolved(replace(BASE, instruction="paint the house blue", size="96"))
    asked = [base, replace(base, image_cfg=0.0), replace(base, instruction="")]
    plain, loose, still = race(model, shown(model, base), asked, steadiest).looks
    assert loose.outside > plain.outside > still.outside
    assert plain.inside > 3 * plain.outside
    assert still.inside < plain.inside / 2


def test_an_unchanged_picture_never_wins(model: EditModel) -> None:
    base = resolved(replace(BASE, instruction="make it night", size="96"))
    asked = [replace(base, instruction=""), base]
    assert race(model, shown(model, base), asked, steadiest).edited.settings == base


def looks(pairs: list[tuple[float, float]]) -> list[Glimpse]:
    return [Glimpse(BASE, outside, inside, Image.new("RGB", (1, 1))) for outside, inside in pairs]


def test_the_one_that_spares_the_rest_goes_on_unless_it_changes_nothing() -> None:
    assert steadiest(looks([(4, 40), (2, 36), (3, 50)])) == 1
    assert steadiest(looks([(4, 40), (0.1, 1), (3, 50)])) == 2
    assert steadiest(looks([(4, 40), (2, 36), (2.01, 50)])) == 2
    assert steadiest(looks([(1, 0)])) == 0
    assert steadiest(looks([(10, 60), (8, 58), (54, 90)])) == 1  # the last has burnt, and is no measure for the others
    assert steadiest(looks([(30, 30), (0.5, 0.5), (24, 24)])) == 2  # an edit of the whole picture has no rest


change = st.floats(0, 255, allow_nan=False)


@given(st.lists(st.tuples(change, change), min_size=1, max_size=8))
def test_there_is_always_one_that_goes_on(pairs: list[tuple[float, float]]) -> None:
    assert 0 <= steadiest(looks(pairs)) < len(pairs)


@given(st.lists(st.tuples(change, change), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_more_strength_never_changes_less(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    found = looks(pairs)
    less, more = sorted((one, other))
    assert found[strongest(found, less)].inside <= found[strongest(found, more)].inside
    assert found[strongest(found, 1.0)].inside == max(look.inside for look in found)


@pytest.mark.parametrize("base", [BASE, replace(BASE, text_cfg=30.0, image_cfg=5.0), replace(BASE, text_cfg=1.0)])
def test_scales_that_are_tried_are_scales_that_one_can_set(base: EditSettings) -> None:
    tried = with_pairs(base)
    assert len(tried) == len(PAIRS)
    assert [one.text_cfg for one in tried] == sorted(one.text_cfg for one in tried)
    assert [one.image_cfg for one in tried] == sorted((one.image_cfg for one in tried), reverse=True)
    assert tried[0].text_cfg <= base.text_cfg <= tried[-1].text_cfg


def test_every_result_is_the_best_of_seeds_of_its_own() -> None:
    base = replace(BASE, seed=SEEDS - 3, count=2)
    begun = [[one.seed for one in some] for some in Search(best_of=2).begun(base)]
    assert begun == [[SEEDS - 3, SEEDS - 2], [SEEDS - 1, 0]]
    assert [{one.seed for one in some} for some in Search(strength=0.5).begun(base)] == [{SEEDS - 3}, {SEEDS - 2}]


def test_a_search_is_reproduced_by_the_settings_of_its_result(model: EditModel) -> None:
    picture = shown(model, BASE)
    for search in (Search(best_of=3), Search(strength=0.5)):
        [found] = find_each(model, picture, resolved(BASE), search)
        assert len(found.looks) == search.candidates and found.cost > 1
        [again] = edit_each(model, picture, [found.edited.settings])
        assert apart(again, found.edited) <= 1
    [plain] = find_each(model, picture, resolved(BASE), Search())
    assert plain.looks == () and plain.cost == 1


def test_each_result_has_candidates_that_depend_on_no_other() -> None:
    asked = EditSettings("make it {night|winter}", seed=SEEDS - 2, count=2, randomize_cfg="text")
    for search in (Search(), Search(best_of=3), Search(strength=0.2)):
        begun = [search.tried(asked, index) for index in range(4)]
        assert begun == list(search.begun(asked))
        texts = [{one.instruction for one in some} for some in begun]
        assert texts == [{"make it night"}] * 2 + [{"make it winter"}] * 2
    seeds = [[one.seed for one in some] for some in Search(best_of=3).begun(asked)]
    assert seeds[:2] == seeds[2:] == [[SEEDS - 2, SEEDS - 1, 0], [1, 2, 3]]


def test_only_the_region_of_the_winner_is_edited(model: EditModel) -> None:
    base = resolved(replace(BASE, zoom=True, result_size="own"))
    mask = Image.new("L", (96, 96))
    ImageDraw.Draw(mask).rectangle((30, 30, 60, 60), fill=255)
    picture = shown(model, base, mask)
    asked = [replace(base, seed=seed) for seed in range(2)]
    with counted(model) as rows:
        found = race(model, picture, asked, lambda looks: 1)
    [alone] = edit_each(model, picture, [asked[1]])
    assert np.array_equal(np.asarray(found.edited.image), np.asarray(alone.image))
    assert found.edited.settings == asked[1] and found.cost == pytest.approx(sum(rows) / alone.rows)
    with pytest.raises(UserError, match="Only the region"):
        list(edit_together(model, picture, asked))


def test_what_cannot_be_is_refused_in_a_sentence(model: EditModel) -> None:
    with pytest.raises(UserError, match="too many"):
        list(edit_together(model, shown(model, BASE), [BASE] * (MOST_CANDIDATES + 1)))
    with pytest.raises(UserError, match="cannot be combined"):
        Search(best_of=4, strength=0.5)
    for settings, asked in (
        (BASE, {"text_cfg"}),
        (replace(BASE, randomize_cfg="image"), set()),
        (replace(BASE, guidance="instruct-diffusion"), set()),
    ):
        with pytest.raises(UserError, match="How much to change"):
            Search(strength=0.5).settled(settings, asked)
        Search(best_of=3).settled(settings, asked)


@pytest.mark.parametrize("search", [Search(best_of=2), Search(strength=0.2)])
def test_what_is_found_keeps_the_rest_unless_it_is_asked_not_to(search: Search) -> None:
    off, amount = replace(BASE, keep_rest="off"), replace(BASE, keep_rest="always", keep_amount=0.5)
    assert search.settled(off, set()) == replace(BASE, keep_rest="automatic")
    assert search.settled(off, {"keep_rest"}) == off
    assert search.settled(amount, set()) == amount
    assert Search().settled(off, set()) == off
