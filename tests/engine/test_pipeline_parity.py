"""Whole edits with the demo model: against diffusers' pipeline, and what a user may rely on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instruct_pix2pix.conditioning import to_images, to_tensor
from instruct_pix2pix.engine import free_memory
from instruct_pix2pix.engine.edit import Edited, Progress, edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.tokenizer import Tokenizer
from instruct_pix2pix.errors import Interrupted, UserError
from instruct_pix2pix.settings import EditSettings
from tests.helpers.diffusers_edit import pipeline
from tools.demo_model import scenes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

SETTINGS = EditSettings(instruction="make it winter", sampler="Euler", schedule="Uniform", steps=10, seed=42)
QUICK = replace(SETTINGS, steps=3, size="64", result_size="model")
LONG = "make it winter, " + ", ".join(["with snow on the house and on the trees"] * 12)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.asarray(scenes.draw(scenes.scene(900_000)), dtype=np.uint8))


@pytest.fixture
def rows(model: EditModel):
    """Count the rows that the UNet returns."""
    counted: list[int] = []
    handle = model.unet.register_forward_hook(lambda module, inputs, output: counted.append(len(output)))
    yield counted
    handle.remove()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def run(model: EditModel, image: Image.Image, settings: EditSettings, **options) -> list[Edited]:
    return list(edit(model, image, settings, **options))


def one(model: EditModel, image: Image.Image, settings: EditSettings, **options) -> np.ndarray:
    (edited,) = run(model, image, settings, **options)
    return pixels(edited.image)


# --- diffusers ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("negative", "text_cfg", "image_cfg"), [("", 7.5, 1.5), ("a red house, blurry", 7.5, 1.5), ("", 3.0, 2.2)]
)
def test_an_edit_is_that_of_diffusers_from_the_same_seed(
    model, picture, tmp_path, negative, text_cfg, image_cfg, monkeypatch
):
    """Ten steps from 999 to 0 fall on whole timesteps, which is all that the pipeline's scheduler can do."""
    pipe = pipeline(model, tmp_path)
    theirs = pipe(
        prompt=SETTINGS.instruction,
        image=picture,
        negative_prompt=negative,
        num_inference_steps=10,
        guidance_scale=text_cfg,
        image_guidance_scale=image_cfg,
        generator=torch.Generator().manual_seed(42),
        output_type="pt",
    ).images
    decoded: list[Tensor] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent: decoded.append(decode(latent)) or decoded[-1])
    settings = replace(SETTINGS, negative=negative, text_cfg=text_cfg, image_cfg=image_cfg)
    ours = one(model, picture, settings)
    assert float(((decoded[0] / 2 + 0.5).clamp(0, 1) - theirs).abs().max()) < 1e-3
    # and what is handed out is that, to the nearest of 256 levels
    levels = theirs[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - levels).max() <= 0.5 + 1e-3 * 255
    assert np.abs(ours - pixels(picture)).mean() > 2  # it did edit


def test_the_pipelines_tokenizer_reads_as_ours(model, tmp_path):
    pipe = pipeline(model, tmp_path)
    ours = Tokenizer(model.config.text.vocab_size)
    for text in ("make it winter", "Replace the HOUSE's roof, 3 trees!?", "", "größer 木"):
        theirs = pipe.tokenizer(text, truncation=True, max_length=77).input_ids
        assert theirs == [ours.bos, *ours.encode(text), ours.eos]


# --- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg", "expected"), [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.5, 1.5, 2), (1.0, 1.0, 1)]
)
def test_the_unet_evaluates_only_rows_that_count(model, picture, rows, text_cfg, image_cfg, expected):
    (edited,) = run(model, picture, replace(QUICK, text_cfg=text_cfg, image_cfg=image_cfg))
    assert rows == [expected] * 3
    assert edited.rows == sum(rows)


def test_each_part_of_an_and_is_a_row_and_changes_the_picture(model, picture, rows):
    both = one(model, picture, replace(QUICK, instruction="make it winter AND make it night"))
    assert rows == [4] * 3
    for alone in ("make it winter", "make it night"):
        assert np.abs(both - one(model, picture, replace(QUICK, instruction=alone))).max() > 8


def test_a_batch_is_evaluated_together(model, picture, rows):
    edited = run(model, picture, replace(QUICK, count=3, batch_size=2))
    assert rows == [6] * 3 + [3] * 3
    assert [one.rows for one in edited] == [9, 9, 9]


def test_rows_one_at_a_time_give_the_same_picture_in_less_memory(model, picture, rows, monkeypatch):
    base = one(model, picture, replace(QUICK, count=1))
    assert rows == [3] * 3
    rows.clear()
    monkeypatch.setattr(free_memory, "available", lambda device: 1_000_000)
    apart = one(model, picture, replace(QUICK, count=1))
    assert rows == [1] * 9
    assert np.abs(apart - base).max() <= 1


def test_rows_are_computed_at_once_where_nobody_tells_what_is_free(monkeypatch):
    monkeypatch.setattr(free_memory, "available", lambda device: None)
    assert free_memory.is_room_for(1e15, torch.float32, torch.device("cpu"))


# --- seeds and batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_a_picture_depends_on_its_seed_and_not_on_its_batch(model, picture, sampler):
    settings = replace(QUICK, sampler=sampler, count=3)
    apart = run(model, picture, settings)
    together = run(model, picture, replace(settings, batch_size=3))
    assert [edited.settings.seed for edited in apart] == [42, 43, 44]
    assert [edited.settings.seed for edited in together] == [42, 43, 44]
    for a, b in zip(apart, together, strict=True):
        assert np.abs(pixels(a.image) - pixels(b.image)).max() <= 1
    assert np.abs(pixels(apart[0].image) - pixels(apart[1].image)).max() > 8
    alone = one(model, picture, replace(settings, seed=44, count=1))
    assert np.abs(alone - pixels(together[2].image)).max() <= 1


def test_randomized_scales_are_those_of_each_seed(model, picture):
    drawn = run(model, picture, replace(QUICK, count=2, batch_size=2, randomize_cfg="both"))
    scales = {(edited.settings.text_cfg, edited.settings.image_cfg) for edited in drawn}
    assert len(scales) == 2
    for edited in drawn:
        again = one(model, picture, replace(edited.settings, count=1))
        assert np.abs(again - pixels(edited.image)).max() <= 1


# --- stopping -----------------------------------------------------------------------------------------


def test_an_interrupt_ends_within_the_step_and_keeps_the_pictures_before_it(model, picture, rows):
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.seeds == (43,) and progress.step == 2:
            raise Interrupted

    kept: list[Edited] = []
    with pytest.raises(Interrupted):
        kept.extend(edit(model, picture, replace(QUICK, count=3), on_step=stop))
    assert [edited.settings.seed for edited in kept] == [42]
    assert [(p.step, p.seeds) for p in seen] == [(1, (42,)), (2, (42,)), (3, (42,)), (1, (43,)), (2, (43,))]
    assert {p.steps for p in seen} == {3}
    assert len(rows) == 5  # no step was begun after it


def test_progress_shows_what_the_picture_becomes(model, picture):
    last: list[Tensor] = []
    ours = one(model, picture, QUICK, on_step=lambda progress: last.append(progress.denoised))
    shown = ((model.decode(last[-1])[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(shown - ours).max() <= 1  # Euler's last step arrives at the last estimate


# --- where to begin, and where to change -----------------------------------------------------------------


def test_a_lower_denoising_strength_stays_nearer_to_the_input(model, picture, rows):
    def moved(edited: np.ndarray) -> float:
        return np.abs(edited - pixels(picture)).mean()

    night = replace(SETTINGS, instruction="make it night")
    least, less, free = (moved(one(model, picture, replace(night, denoise=d))) for d in (0.0, 0.2, 1.0))
    assert len(rows) == 1 + 3 + 10  # int(strength * steps) + 1 steps, as AUTOMATIC1111 counts
    # at 0 there is one step from next to no noise: hardly more than the autoencoder stands between input and result
    (through,) = to_images(model.decode(model.encode_image(to_tensor(picture)) * model.config.scale_factor))
    assert least == pytest.approx(moved(pixels(through)), abs=2)
    assert least < less < free / 2


def test_outside_the_mask_nothing_changes(model, picture):
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[20:60, 30:90] = 255
    edited = one(model, picture, replace(SETTINGS, steps=5), mask=Image.fromarray(mask))
    changed = np.abs(edited - pixels(picture)).max(axis=2)
    assert changed[mask == 0].max() == 0
    assert changed[mask > 0].mean() > 2
    free = one(model, picture, replace(SETTINGS, steps=5))
    assert np.abs(free - pixels(picture)).max(axis=2)[mask == 0].mean() > 2  # the mask was needed


def test_the_kept_part_is_the_input_while_sampling_too(model, picture):
    """So what is edited meets its real surroundings, and not what the model would make of them."""
    mask = Image.new("L", (96, 96), 0)
    mask.paste(255, (32, 32, 64, 64))  # in latents of 8 pixels a side: 4..8
    steps: list[Tensor] = []
    one(model, picture, replace(SETTINGS, steps=3), mask=mask, on_step=lambda p: steps.append(p.denoised))
    start = model.encode_image(to_tensor(picture)) * model.config.scale_factor
    kept = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    kept[..., 4:8, 4:8] = False
    for denoised in steps:
        difference = (denoised - start).abs().amax(dim=1, keepdim=True)
        assert float(difference[kept].max()) < 1e-5 and float(difference[~kept].min()) > 1e-3


def test_an_empty_mask_keeps_everything_and_a_full_one_nothing(model, picture):
    free = one(model, picture, QUICK)
    assert np.array_equal(one(model, picture, QUICK, mask=Image.new("L", (10, 10), 255)), free)
    shown = picture.resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(one(model, picture, QUICK, mask=Image.new("1", (96, 96), 0)), pixels(shown))


# --- prompts ------------------------------------------------------------------------------------------


def test_an_instruction_longer_than_75_tokens_meets_a_short_negative(model, picture):
    assert Tokenizer(model.config.text.vocab_size).count(LONG) > 75
    long = replace(QUICK, instruction=LONG, negative="rain")
    edited = one(model, picture, long)
    assert edited.shape == (64, 64, 3)
    # what is said after the 75th token counts
    cut = replace(long, instruction=LONG.rsplit(",", 4)[0])
    assert np.abs(edited - one(model, picture, cut)).max() > 0
    swapped = one(model, picture, replace(QUICK, instruction="make it winter", negative=LONG))
    assert np.abs(swapped - one(model, picture, QUICK)).max() > 0


def test_a_scheduled_instruction_changes_on_the_way(model, picture):
    """The texts before and after the change are those of a plain edit, for as long as each holds."""
    seen: dict[str, list[Tensor]] = {}
    for text in ("make it winter", "make it night", "[make it winter:make it night:1]"):
        seen[text] = []
        settings = replace(QUICK, steps=4, instruction=text)
        run(model, picture, settings, on_step=lambda progress, text=text: seen[text].append(progress.denoised))
    winter, night, both = seen.values()
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(both, winter, strict=True)]
    assert same == [True, True, False, False]
    assert not torch.allclose(both[-1], night[-1], atol=1e-2)
    never = one(model, picture, replace(QUICK, instruction="[make it winter:make it night:99]"))
    assert np.abs(never - one(model, picture, QUICK)).max() <= 1


def test_weights_negatives_and_rescale_each_change_the_picture(model, picture):
    base = one(model, picture, QUICK)
    for changed in (
        replace(QUICK, instruction="make it (winter:1.5)"),
        replace(QUICK, negative="winter"),
        replace(QUICK, rescale=0.7),
        replace(QUICK, text_cfg=4),
        replace(QUICK, image_cfg=2),
    ):
        assert np.abs(one(model, picture, changed) - base).max() > 4


# --- sizes and errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((1, 1), "64", (64, 64)),
        ((2000, 10), "64", (64, 1)),
        ((277, 321), "auto", (83, 96)),
        ((100, 50), "72x72", (72, 72)),
    ],
)
def test_every_size_of_picture_is_edited_in_its_framing(model, picture, size, wanted, expected):
    image = picture.resize(size)
    assert run(model, image, replace(QUICK, steps=1, size=wanted))[0].image.size == expected


@pytest.mark.parametrize(
    "changes",
    [{"instruction": " "}, {"sampler": "Oiler"}, {"schedule": "Carrots"}],
    ids=["text", "sampler", "schedule"],
)
def test_what_cannot_be_done_is_told_before_anything_is_computed(model, picture, rows, changes):
    with pytest.raises(UserError):
        run(model, picture, replace(QUICK, **changes))
    assert rows == []
