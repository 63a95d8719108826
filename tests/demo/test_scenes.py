"""The drawn world keeps its promises: same seed, same picture; an edit changes what it says and no more."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from tools.demo_model import scenes

SEEDS = range(120)
# as they were when the model that ships was judged: figures stay comparable
FIRST = [
    "let it be dusk",
    "i want it to be winter",
    "give the car the colour orange",
    "there should be no ball",
    "i want a pink cube in place of the car",
]


def _edits(held_out: bool = False) -> list[tuple[scenes.Scene, scenes.Edit]]:
    drawn = [scenes.scene(seed) for seed in SEEDS]
    return [
        (scene, edit) for seed, scene in enumerate(drawn) for edit in scenes.edits(scene, random.Random(seed), held_out)
    ]


def _changed(before: scenes.Scene, after: scenes.Scene) -> np.ndarray:
    return (scenes.draw(before) != scenes.draw(after)).any(axis=2)


def test_a_seed_gives_the_same_scene_picture_and_edits_each_time() -> None:
    for seed in range(10):
        assert scenes.scene(seed) == scenes.scene(seed)
        assert np.array_equal(scenes.draw(scenes.scene(seed)), scenes.draw(scenes.scene(seed)))
        scene = scenes.scene(seed)
        assert scenes.edits(scene, random.Random(seed)) == scenes.edits(scene, random.Random(seed))


def test_different_seeds_give_different_scenes_and_pictures() -> None:
    assert len({scenes.scene(seed) for seed in SEEDS}) == len(SEEDS)
    assert len({scenes.draw(scenes.scene(seed)).tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [96, 384])
def test_a_picture_has_the_asked_size(size: int) -> None:
    picture = scenes.draw(scenes.scene(1), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_a_large_picture_is_the_same_drawing_as_a_small_one() -> None:
    large = scenes.draw(scenes.scene(2), 384).astype(float)
    averaged = large.reshape(96, 4, 96, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - scenes.draw(scenes.scene(2))).mean() < 1.5


def test_scenes_hold_one_to_three_things_of_different_kinds_in_different_slots() -> None:
    seen: set[str] = set()
    for seed in SEEDS:
        things = scenes.scene(seed).things
        seen |= {thing.kind for thing in things} | {thing.colour for thing in things}
        assert 1 <= len(things) <= 3
        assert len({thing.kind for thing in things}) == len({thing.slot for thing in things}) == len(things)
    assert seen == {*scenes.THINGS, *scenes.COLOURS}


@pytest.mark.parametrize("held_out", [False, True])
def test_every_kind_of_edit_appears_at_most_once_for_a_scene(held_out: bool) -> None:
    assert {edit.kind for _, edit in _edits(held_out)} == set(scenes.KINDS)
    for seed in SEEDS:
        kinds = [edit.kind for edit in scenes.edits(scenes.scene(seed), random.Random(seed), held_out)]
        assert kinds == [kind for kind in scenes.KINDS if kind in kinds]


def test_numpy_and_standard_random_generators_both_serve() -> None:
    assert scenes.edits(scenes.scene(3), np.random.default_rng(3))


def test_a_full_scene_takes_no_more_and_an_empty_one_only_gains() -> None:
    full = next(s for s in map(scenes.scene, range(100)) if len(s.things) == 3)
    assert "add" not in {edit.kind for edit in scenes.edits(full, random.Random(0))}
    empty = replace(full, things=())
    assert [edit.kind for edit in scenes.edits(empty, random.Random(0))] == ["time", "season", "add"]


def test_every_thing_in_every_light_stays_inside_its_slot() -> None:
    for seed in range(12):
        for time in scenes.TIMES:
            bare = replace(scenes.scene(seed), time=time, things=())
            for kind in scenes.THINGS:
                slot = seed % 3
                changed = _changed(bare, replace(bare, things=(scenes.Thing(kind, "red", slot),)))
                width = np.flatnonzero(changed.any(axis=0))
                assert 24 <= width[-1] - width[0] + 1 <= 32
                changed[:, scenes.slot_columns(slot)] = False
                assert not changed.any()


def test_edits_of_one_thing_change_its_slot_and_nothing_else() -> None:
    for before, edit in _edits():
        slots = {thing.slot for thing in set(before.things) ^ set(edit.after.things)}
        if edit.kind in ("time", "season"):
            assert before.things == edit.after.things
            continue
        assert len(slots) == 1
        changed = _changed(before, edit.after)
        assert changed.any()
        changed[:, scenes.slot_columns(slots.pop())] = False
        assert not changed.any()


def test_a_new_colour_leaves_the_shape_and_all_around_it_alone() -> None:
    checked = 0
    for before, edit in _edits():
        if edit.kind == "colour":
            (old,) = set(before.things) - set(edit.after.things)
            bare = replace(before, things=tuple(thing for thing in before.things if thing != old))
            silhouette = _changed(bare, before) | _changed(bare, edit.after)
            assert not (_changed(before, edit.after) & ~silhouette).any()
            checked += 1
    assert checked > 50


def test_a_change_of_season_leaves_the_open_sky_alone_and_a_change_of_time_does_not() -> None:
    for before, edit in _edits():
        sky = _changed(before, edit.after)[:24]
        if edit.kind == "season":
            assert not sky.any()
        if edit.kind == "time":
            assert sky.mean() > 0.9


def test_removing_what_was_added_gives_the_first_picture_back() -> None:
    for before, edit in _edits():
        if edit.kind == "add":
            (new,) = set(edit.after.things) - set(before.things)
            back = replace(edit.after, things=tuple(t for t in edit.after.things if t != new))
            assert np.array_equal(scenes.draw(back), scenes.draw(before))


def test_an_added_thing_goes_to_the_named_place_or_to_the_leftmost_free_slot() -> None:
    named = 0
    for before, edit in _edits():
        if edit.kind == "add":
            (new,) = set(edit.after.things) - set(before.things)
            places = [i for i, place in enumerate(scenes.PLACES) if place in edit.instruction]
            named += bool(places)
            free = [i for i in range(3) if all(thing.slot != i for thing in before.things)]
            assert new.slot == (places[0] if places else free[0])
    assert named > 10


@pytest.mark.parametrize("held_out", [False, True])
def test_the_sentence_says_what_the_scene_becomes(held_out: bool) -> None:
    for before, edit in _edits(held_out):
        words = edit.instruction.split()
        gone, come = set(before.things) - set(edit.after.things), set(edit.after.things) - set(before.things)
        if edit.kind in ("remove", "replace", "colour"):
            assert next(iter(gone)).kind in words
        if edit.kind in ("add", "replace"):
            (new,) = come
            assert new.kind in words
            assert new.kind == "tree" or new.colour in words
        if edit.kind == "colour":
            assert next(iter(come)).colour in words


def test_the_mask_holds_the_edited_region_and_a_little_more() -> None:
    before = np.zeros((96, 96, 3), np.uint8)
    after = before.copy()
    after[40, 50, 1] = 9
    after[10, 10] = 8
    mask = scenes.mask(before, after)
    assert mask.dtype == np.bool_
    assert mask.shape == (96, 96)
    assert mask[38:43, 48:53].all()
    assert mask.sum() == 25
    assert not scenes.mask(before, before).any()


@pytest.mark.parametrize("held_out", [False, True])
def test_an_edit_of_something_absent_changes_nothing(held_out: bool) -> None:
    for seed in SEEDS:
        scene = scenes.scene(seed)
        edit = scenes.absent_edit(scene, random.Random(seed), held_out)
        assert edit.kind == "absent"
        assert edit.after == scene
        assert not {thing.kind for thing in scene.things} & set(edit.instruction.split())


def _twos(held_out: bool) -> list[tuple[scenes.Scene, scenes.Edit]]:
    drawn = [scenes.scene(seed) for seed in SEEDS]
    return [(scene, scenes.two_edit(scene, random.Random(seed), held_out)) for seed, scene in enumerate(drawn)]


@pytest.mark.parametrize("held_out", [False, True])
def test_two_instructions_in_one_sentence_are_both_said_and_both_done(held_out: bool) -> None:
    for before, edit in _twos(held_out):
        one, two = edit.halves
        assert {one.kind, two.kind} <= set(scenes.KINDS)
        first, second = (edit.instruction.find(half.instruction) for half in (one, two))
        assert 0 <= first < first + len(one.instruction) < second
        assert len({before, one.after, two.after, edit.after}) == 4
        for half in (one, two):
            for part in ("time", "season"):
                if getattr(half.after, part) != getattr(before, part):
                    assert getattr(edit.after, part) == getattr(half.after, part)
            assert set(half.after.things) - set(before.things) <= set(edit.after.things)
            assert not (set(before.things) - set(half.after.things)) & set(edit.after.things)


@pytest.mark.parametrize("held_out", [False, True])
def test_two_instructions_in_one_sentence_are_about_different_things(held_out: bool) -> None:
    for before, edit in _twos(held_out):
        slots = [{thing.slot for thing in set(before.things) ^ set(half.after.things)} for half in edit.halves]
        assert not slots[0] & slots[1]
        assert slots[0] or slots[1]
        kinds = [thing.kind for thing in edit.after.things]
        assert len(set(kinds)) == len(kinds)


def test_some_pairs_of_kinds_are_only_joined_where_training_does_not_see_it() -> None:
    def joined(held_out: bool) -> set[frozenset[str]]:
        return {frozenset(half.kind for half in edit.halves) for _, edit in _twos(held_out)}

    aside = joined(True) - joined(False)
    assert {frozenset(("time", "replace")), frozenset(("season", "colour"))} <= aside
    assert {frozenset(("time", "colour")), frozenset(("season", "replace"))} <= joined(False)


def test_black_and_white_keeps_the_light_and_drops_the_colours() -> None:
    for seed in range(6):
        scene = scenes.scene(seed)
        grey = scenes.draw(replace(scene, style="black and white")).astype(float)
        assert (grey == grey[..., :1]).all()
        luminance = scenes.draw(scene).astype(float) @ [0.299, 0.587, 0.114]
        assert np.abs(grey[..., 0] - luminance).max() < 2


@pytest.mark.parametrize("time", scenes.TIMES)
def test_a_sketch_is_grey_and_mostly_paper_with_dark_lines_around_every_thing(time: str) -> None:
    for seed in range(6):
        scene = replace(scenes.scene(seed), time=time, style="sketch")
        sketch = scenes.draw(scene)
        assert (sketch == sketch[..., :1]).all()
        assert np.median(sketch) > 120
        for thing in scene.things:
            around = sketch[:, scenes.slot_columns(thing.slot), 0][48:]
            assert (around < 100).mean() > 0.02
            bare = replace(scene, things=tuple(other for other in scene.things if other != thing))
            assert _changed(bare, scene)[:, scenes.slot_columns(thing.slot)].mean() > 0.05


@pytest.mark.parametrize("held_out", [False, True])
def test_an_edit_of_style_names_the_style_and_leaves_the_scene(held_out: bool) -> None:
    seen = set()
    for seed in SEEDS:
        scene = scenes.scene(seed)
        edit = scenes.style_edit(scene, random.Random(seed), held_out)
        assert replace(edit.after, style="plain") == scene
        assert ("black and white" in edit.instruction) == (edit.after.style == "black and white")
        seen.add(edit.after.style)
    assert seen == {"black and white", "sketch"}


def test_new_kinds_of_edit_leave_those_of_old_seeds_alone() -> None:
    for seed in range(20):
        scene = scenes.scene(seed)
        every = scenes.every_edit(scene, seed)
        assert [edit for edit in every if edit.kind in scenes.KINDS] == scenes.edits(scene, random.Random(seed))
        assert [edit.kind for edit in every[-3:]] == ["style", "two", "absent"]
    assert [edit.instruction for edit in scenes.edits(scenes.scene(0), random.Random(0))] == FIRST


def test_training_and_held_out_phrasings_are_many_and_never_the_same() -> None:
    assert scenes.TRAINING.keys() == scenes.HELD_OUT.keys()
    for kind, phrasings in scenes.TRAINING.items():
        assert len(set(phrasings)) >= 8
        assert len(set(scenes.HELD_OUT[kind])) >= 3
    train = {said for phrasings in scenes.TRAINING.values() for said in phrasings}
    assert not train & {said for phrasings in scenes.HELD_OUT.values() for said in phrasings}
    spoken = {edit.instruction for _, edit in _edits()}
    assert not spoken & {edit.instruction for _, edit in _edits(held_out=True)}


def test_sentences_as_people_type_them_keep_every_word_that_says_something() -> None:
    ways = {scenes.casual("paint the car red", random.Random(seed)) for seed in range(200)}
    assert {"paint the car red", "paint car red", "please paint the car red", "paint the car red."} < ways
    assert all(word in way for way in ways for word in ("paint", "car", "red"))


def test_held_out_phrasings_use_only_words_known_from_training() -> None:
    def words(phrasings: dict[str, tuple[str, ...]]) -> set[str]:
        return {word for group in phrasings.values() for said in group for word in said.split()}

    assert words(scenes.HELD_OUT) <= words(scenes.TRAINING)


@pytest.mark.parametrize("held_out", [False, True])
def test_instructions_are_plain_lower_case_words(held_out: bool) -> None:
    for _, edit in _edits(held_out):
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", edit.instruction)
        assert not re.search(r"\ba (orange|[aeiou])", edit.instruction)
