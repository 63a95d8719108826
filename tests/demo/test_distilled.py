"""The LoRA that was distilled from the demo model makes good edits of it in few steps, without guidance."""

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import distill, evaluate, scenes

TAG = "<lora:demo-lcm:1>"


@pytest.fixture(scope="module")
def model():
    return EditModel.load(DEMO, choose_machine())


def test_edits_of_unseen_scenes_come_out_right_in_four_steps(model):
    wanted = evaluate.cases(300_000, 5, kinds=scenes.ALL_KINDS)
    settings = EditSettings(TAG, sampler="LCM", steps=4, text_cfg=1, image_cfg=1)
    edited = evaluate.run(model, wanted, settings)
    verdicts = [evaluate.judge(c, e) for c, e in zip(wanted, edited, strict=True)]
    assert np.mean([verdict.success for verdict in verdicts]) >= 0.9
    assert evaluate.summary(verdicts)["local"]["outside"] < 6


def test_in_a_single_step_it_is_nearer_to_the_truth_than_the_model_without_it(model):
    wanted = evaluate.cases(310_000, 4)
    errors = []
    for tag in (TAG, ""):
        settings = EditSettings(tag, sampler="LCM", steps=1, text_cfg=1, image_cfg=1)
        edited = evaluate.run(model, wanted, settings)
        errors.append(np.mean([evaluate.judge(c, e).error for c, e in zip(wanted, edited, strict=True)]))
    assert errors[0] < 0.95 * errors[1]


def test_a_person_asks_for_it_in_the_instruction_and_needs_no_set_up(model):
    for case in evaluate.cases(320_000, 1):
        typed = f"{case.instruction} {TAG}"
        settings = EditSettings(typed, sampler="LCM", steps=4, text_cfg=1, image_cfg=1, seed=1)
        (result,) = edit(model, Image.fromarray(case.before), settings)
        assert evaluate.judge(case, np.asarray(result.image)).success, case.instruction
        assert result.rows == 4
        assert result.beside.fields["Lora hashes"].startswith("demo-lcm: ")


def test_what_it_is_taught_on_is_never_evaluated():
    lessons = [distill.lesson(number) for number in range(30)]
    assert min(lesson.seed for lesson in lessons) >= 10_000_000
    assert {lesson.kind for lesson in lessons} >= {"time", "colour", "add", "two", "absent"}
