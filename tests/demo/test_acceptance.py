"""The acceptance test of the demo model says what holds and what does not."""

import numpy as np
import pytest

from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import acceptance, evaluate, scenes

OTHERS = len(SAMPLERS) - len(acceptance.UNSUITED) - 1
"""Samplers beside the standard one that must do as well."""


def _ideal(settings: EditSettings, count: int, unseen: bool) -> acceptance.Figures:
    """A model for which all is well: always right, and moving as the scales say."""
    moved = 20 + settings.text_cfg - settings.image_cfg
    figures = {kind: {"exact": 1.0, "outside": 3.0, "rms": moved} for kind in scenes.ALL_KINDS}
    return {**figures, "local": figures["add"], "all": figures["add"]}


def _failing(measure: acceptance.Measure) -> list[str]:
    return [line for holds, line in acceptance.promises(measure, 8) if not holds]


def test_a_model_that_is_always_right_keeps_every_promise():
    lines = list(acceptance.promises(_ideal, 8))
    assert all(holds for holds, _ in lines)
    assert len(lines) == 3 * len(scenes.ALL_KINDS) + 1 + OTHERS + 2


@pytest.mark.parametrize("kind", scenes.ALL_KINDS)
def test_a_kind_that_is_too_seldom_right_fails_by_name(kind):
    def measure(settings, count, unseen):
        figures = _ideal(settings, count, unseen)
        return {**figures, kind: {**figures[kind], "exact": 0.5}}

    failing = _failing(measure)
    assert failing[0].startswith(kind)
    assert len(failing) == 1 + OTHERS


@pytest.mark.parametrize(
    ("unseen", "steps", "sampler"), [(True, 20, "Euler a"), (False, 10, "Euler a"), (False, 20, "DDIM")]
)
def test_what_is_worse_in_other_words_fewer_steps_or_another_sampler_fails(unseen, steps, sampler):
    def measure(settings, count, told_unseen):
        figures = _ideal(settings, count, told_unseen)
        if (told_unseen, settings.steps, settings.sampler) == (unseen, steps, sampler):
            figures["time"] = {**figures["time"], "exact": 0.91}
        return figures

    assert len(_failing(measure)) == 1


@pytest.mark.parametrize("scale", ["text_cfg", "image_cfg"])
def test_a_scale_whose_last_step_changes_nothing_fails(scale):
    def measure(settings, count, unseen):
        figures = _ideal(settings, count, unseen)
        last = getattr(settings, scale) == {"text_cfg": 10.0, "image_cfg": 2.5}[scale]
        moved = {"text_cfg": 26.0, "image_cfg": 25.5}[scale]
        return {**figures, "all": {**figures["all"], "rms": moved}} if last else figures

    assert len(_failing(measure)) == 1


def test_doing_only_one_of_two_things_is_no_success():
    checked = 0
    for case in evaluate.cases(600_000, 8, kinds=["two"]):
        assert evaluate.judge(case, case.after).exact
        for half in case.halves:
            assert not evaluate.judge(case, half).success
            checked += 1
    assert checked == 16


def test_an_edit_of_something_absent_must_leave_the_picture_alone():
    for case in evaluate.cases(600_000, 4, kinds=["absent"]):
        assert evaluate.judge(case, case.before).exact
        assert not evaluate.judge(case, 255 - case.before).success


def test_the_sheet_shows_every_kind_of_edit():
    wanted = evaluate.cases(600_000, 6, kinds=scenes.ALL_KINDS)
    shown = evaluate.examples(wanted, 2)
    assert [wanted[i].kind for i in shown] == [kind for kind in scenes.ALL_KINDS for _ in range(2)]
    page = evaluate.sheet([wanted[i] for i in shown], [wanted[i].after for i in shown])
    assert len(np.unique(np.asarray(page).reshape(-1, 3), axis=0)) > 1000
