"""The extension's hooks, called by stand-ins for web GUIs around the demo model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from copy import copy
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instruct_pix2pix.conditioning import to_images, to_tensor
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.guidance.cached import whole_steps
from instruct_pix2pix.guidance.rows import Scales, rows
from instruct_pix2pix.hosts import job
from instruct_pix2pix.hosts.a1111 import on_denoiser
from instruct_pix2pix.hosts.axes import add_axes, remove_axes
from instruct_pix2pix.hosts.forge import ForgeHost, pass_errors_on
from instruct_pix2pix.hosts.job import Controls
from instruct_pix2pix.settings import SPEEDS, random_scales
from tests.helpers.host_stand_ins import A1111, Classic, Concat, Forge, P, ReForge, Shape, compile_conditions, evaluate

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "modules" / "instruct_pix2pix" / "data" / "demo" / "demo.safetensors"
LONG = "make it winter and " + ", ".join(["paint the house red"] * 30)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return to_tensor(Image.open(ROOT / "examples" / "house.png").resize((64, 64)))


@pytest.fixture(params=[A1111, Forge, ReForge, Classic], ids=lambda shape: shape.__name__)
def host(request: pytest.FixtureRequest, model: EditModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shape]:
    shape = request.param(model)
    backend = ModuleType("backend.sampling.condition")
    vars(backend)["compile_conditions"] = compile_conditions
    monkeypatch.setitem(sys.modules, "backend.sampling.condition", backend)
    with shape.modules():
        yield shape


def say(model: EditModel, *texts: str) -> list[Tensor]:
    return [model.encode_text(text, "", 1)[0][0].schedule[-1][1] if text else empty(model) for text in texts]


def empty(model: EditModel) -> Tensor:
    return model.encode_text("a", "", 1)[1].schedule[-1][1]


def draw(batch: int, seed: int = 0) -> Tensor:
    return torch.randn((batch, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def three_rows(
    host: Shape, p: P, x: Tensor, sigma: Tensor, picture: Tensor, text_cfg: float, image_cfg: float
) -> Tensor:
    """Return the paper's formula, from one call of the model for each row of each picture."""
    seen = host.model.encode_image(picture)
    answers = []
    for i, parts in enumerate(p.parts):
        one, level = x[i : i + 1], sigma[i : i + 1]
        image_only = evaluate(host.model, one, level, p.negative, seen)
        null = evaluate(host.model, one, level, p.negative, torch.zeros_like(seen))
        guided = null + image_cfg * (image_only - null)
        for text, weight in parts:
            guided = guided + text_cfg * weight * (evaluate(host.model, one, level, text, seen) - image_only)
        answers.append(guided)
    return torch.cat(answers)


CASES = {
    "plain": (["make it winter"], "", 1, (1.0,)),
    "negative": (["make it winter"], "night", 1, (1.0,)),
    "long": ([LONG], "night", 1, (1.0,)),
    "long negative": (["make it winter"], LONG, 1, (1.0,)),
    "AND": (["make it winter", "make it night"], "", 1, (1.0, 0.5)),
    "AND to one": (["make it winter", "make it night"], "", 1, (0.6, 0.4)),
    "batch": (["make it winter"], "night", 2, (1.0,)),
}


@pytest.mark.parametrize(("text_cfg", "image_cfg"), list(product((1.0, 1.5, 7.5), (0.5, 1.0, 1.5, 3.0))))
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_papers_formula(
    host: Shape, picture: Tensor, case: str, text_cfg: float, image_cfg: float
) -> None:
    texts, negative, batch, weights = CASES[case]
    prompts = [list(zip(say(host.model, *texts), weights, strict=True)) for _ in range(batch)]
    p = host.p(prompts, say(host.model, negative)[0], cfg_scale=text_cfg, image_cfg_scale=image_cfg)
    denoise = host.begin(p, picture, draw(batch), Controls())
    for step, level in enumerate([10.0, 0.7]):
        x, sigma = draw(batch, 7) * level, torch.full((batch,), level)
        expected = three_rows(host, p, x, sigma, picture, text_cfg, image_cfg)
        error = (denoise(x, sigma, step) - expected).abs().max() / expected.abs().max()
        assert error < 1e-4


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg", "speed"), [(7.5, 1.5, "exact"), (1.0, 0.5, "exact"), (7.5, 0.5, "fast")]
)
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_formula_of_instruct_diffusion_where_that_is_chosen(
    host: Shape, picture: Tensor, case: str, text_cfg: float, image_cfg: float, speed: str
) -> None:
    """With AND, the terms of the picture are means over the sub-prompts."""
    texts, negative, batch, weights = CASES[case]
    prompts = [list(zip(say(host.model, *texts), weights, strict=True))] * batch
    p = host.p(prompts, say(host.model, negative)[0], cfg_scale=text_cfg, image_cfg_scale=image_cfg)
    denoise = host.begin(p, picture, draw(batch), Controls(guidance="instruct-diffusion", speed=speed))
    x, sigma = draw(batch, 7) * 3, torch.full((batch,), 3.0)
    guided = denoise(x, sigma, 0)
    seen = host.model.encode_image(picture)
    for one, found in zip(x.split(1), guided.split(1), strict=True):
        image_only = evaluate(host.model, one, sigma[:1], p.negative, seen)
        expected = image_only / 2
        for text, weight in prompts[0]:
            full = evaluate(host.model, one, sigma[:1], text, seen)
            text_only = evaluate(host.model, one, sigma[:1], text, torch.zeros_like(seen))
            expected = expected + text_cfg * weight * (full - image_only)
            expected = expected + (text_only / 2 + image_cfg * (full - text_only)) / len(texts)
        assert (found - expected).abs().max() / expected.abs().max() < 1e-4


def test_pictures_of_a_batch_may_differ_in_their_sub_prompts(model: EditModel, picture: Tensor) -> None:
    """As with AUTOMATIC1111's prompts from a file. The first picture alone needs no 'image only' row."""
    winter, night = say(model, "make it winter", "make it night")
    prompts = [[(winter, 0.2)], [(night, 0.5), (winter, 0.25), (night, 1.0)]]
    host = A1111(model)
    with host.modules():
        p = host.p(prompts, empty(model), cfg_scale=7.5, image_cfg_scale=1.5)
        denoise = host.begin(p, picture, draw(2), Controls())
        x, sigma = draw(2, 7) * 3, torch.full((2,), 3.0)
        guided = denoise(x, sigma, 0)
        assert sum(host.rows) == 4 + 2 + 2
        torch.testing.assert_close(guided, three_rows(host, p, x, sigma, picture, 7.5, 1.5), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.5), (0.3, 0.1, 0.7)])
@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(7.5, 1.5), (7.5, 1.0), (1.5, 1.5), (1.0, 1.0)])
def test_the_rows_are_added_up_by_the_weights_of_the_formula_and_no_others(
    model: EditModel, picture: Tensor, weights: tuple[float, ...], text_cfg: float, image_cfg: float
) -> None:
    host = A1111(model)
    with host.modules():
        prompts = [[(empty(model), weight) for weight in weights]]
        p = host.p(prompts, empty(model), cfg_scale=text_cfg, image_cfg_scale=image_cfg)
        denoise = host.begin(p, picture, draw(1), Controls())
        denoise(draw(1), torch.ones(1), 0)
        needed = rows(Scales(text_cfg, image_cfg), weights)
        x_out = draw(len(needed), 5)
        guided = p.sampler.model_wrap_cfg.combine_denoised(x_out, [list(enumerate(weights))], None, text_cfg)
    expected = torch.zeros(1, 4, 8, 8)
    for row, one in zip(needed, x_out, strict=True):
        expected = expected + one * row.weight
    assert torch.equal(guided, expected)


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg", "rows"),
    [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.5, 1.5, 2), (1.0, 1.5, 3), (1.0, 1.0, 1)],
)
def test_only_rows_that_count_are_evaluated(
    host: Shape, picture: Tensor, text_cfg: float, image_cfg: float, rows: int
) -> None:
    prompts = [[(say(host.model, "make it winter")[0], 1.0)]] * 2
    p = host.p(prompts, empty(host.model), cfg_scale=text_cfg, image_cfg_scale=image_cfg)
    denoise = host.begin(p, picture, draw(2), Controls())
    denoise(draw(2), torch.ones(2), 1)
    assert sum(host.rows) == rows * 2


def test_a_sampler_that_takes_a_step_at_another_size_sees_the_picture_at_that_size(
    host: Shape, picture: Tensor, model: EditModel
) -> None:
    text, negative = say(model, "make it winter")[0], empty(model)
    p = host.p([[(text, 1.0)]], negative, image_cfg_scale=2.0)
    denoise = host.begin(p, picture, draw(1), Controls())
    x, sigma = draw(1)[..., ::2, ::2] * 3, torch.tensor([3.0])
    small = denoise(x, sigma, 1)  # as the samplers with 'Dy' in their names
    seen = torch.nn.functional.interpolate(model.encode_image(picture), size=(4, 4), mode="bilinear")
    null = evaluate(model, x, sigma, negative, torch.zeros_like(seen))
    image_only, full = evaluate(model, x, sigma, negative, seen), evaluate(model, x, sigma, text, seen)
    expected = null + 2.0 * (image_only - null) + 7.5 * (full - image_only)
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-4)
    assert denoise(draw(1) * 3, sigma, 1).shape == (1, 4, 8, 8)


def test_the_condition_is_the_vaes_mode_unscaled(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    expected = host.model.encode_image(picture)
    assert torch.allclose(p.img2img_image_conditioning(picture, torch.zeros_like(expected)), expected, atol=1e-5)


def test_the_condition_has_the_size_of_a_latent_that_was_resized(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    assert p.img2img_image_conditioning(picture, torch.zeros(2, 4, 12, 10)).shape == (2, 4, 12, 10)


def test_a_step_that_the_host_leaves_without_guidance_shows_the_instruction_alone(host: Shape, picture: Tensor) -> None:
    host.opts.skip_early_cond = 0.3
    text = say(host.model, "make it winter")[0]
    p = host.p([[(text, 1.0)]], empty(host.model), image_cfg_scale=1.5)
    denoise = host.begin(p, picture, draw(1), Controls())
    x, sigma = draw(1) * 10, torch.full((1,), 10.0)
    expected = evaluate(host.model, x, sigma, text, host.model.encode_image(picture))
    assert torch.allclose(denoise(x, sigma, 0), expected, atol=1e-4)
    assert host.rows == [1]


def test_an_edit_starts_from_noise_alone(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    noise = draw(1)
    drawn = noise.clone()
    host.begin(p, picture, noise, Controls())
    start = host.model.encode_image(picture) * host.model.config.scale_factor + noise * host.sigmas[0]
    assert torch.allclose(start, drawn * host.sigmas[0], atol=1e-4)
    assert p.denoising_strength == 1.0


def test_or_from_the_picture_by_the_tabs_denoising_strength(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), denoising_strength=0.6)
    noise = draw(1)
    drawn = noise.clone()
    host.begin(p, picture, noise, Controls(from_noise=False))
    assert torch.equal(noise, drawn)
    assert p.denoising_strength == 0.6


def test_rescaled_guidance_has_the_deviation_of_the_full_row(host: Shape, picture: Tensor) -> None:
    text = say(host.model, "make it winter")[0]
    p = host.p([[(text, 1.0)]], empty(host.model), image_cfg_scale=1.5)
    denoise = host.begin(p, picture, draw(1), Controls(rescale=1.0))
    x, sigma = draw(1) * 10, torch.full((1,), 10.0)
    full = evaluate(host.model, x, sigma, text, host.model.encode_image(picture))
    assert torch.isclose((x - denoise(x, sigma, 1)).std(), (x - full).std(), rtol=1e-3)
    assert p.extra_generation_params["Guidance rescale"] == 1.0


def test_a_sampler_whose_rows_are_noise_has_the_noise_rescaled(model: EditModel, picture: Tensor) -> None:
    host = A1111(model)
    with host.modules():
        text = say(model, "make it winter")[0]
        p = host.p([[(text, 1.0)]], empty(model), image_cfg_scale=1.5)
        denoise = host.begin(p, picture, draw(1), Controls(rescale=1.0))
        p.sampler.model_wrap_cfg.mask_before_denoising = True
        x, sigma = draw(1) * 10, torch.full((1,), 10.0)
        full = evaluate(model, x, sigma, text, model.encode_image(picture))
        assert torch.isclose(denoise(x, sigma, 1).std(), full.std(), rtol=1e-3)


@pytest.mark.parametrize("text_cfg", [1.0, 7.5])
def test_projected_guidance_is_the_formula_of_three_rows(host: Shape, picture: Tensor, text_cfg: float) -> None:
    """D = (guided - full) / (s_T - 1), shortened to the threshold, without its part along the full row."""
    text = say(host.model, "make it winter")[0]
    p = host.p([[(text, 1.0)]], empty(host.model), cfg_scale=text_cfg, image_cfg_scale=1.5)
    denoise = host.begin(p, picture, draw(1), Controls(apg_eta=0.0, apg_threshold=2.0))
    x, sigma = draw(1) * 10, torch.full((1,), 10.0)
    guided = three_rows(host, p, x, sigma, picture, text_cfg, 1.5)
    if text_cfg != 1:
        full = evaluate(host.model, x, sigma, text, host.model.encode_image(picture))
        pull = (guided - full) / (text_cfg - 1)
        pull = pull * min(1.0, 2.0 / float(pull.norm()))
        pull = pull - full * float((full * pull).sum() / full.square().sum())
        guided = full + (text_cfg - 1) * pull
        assert p.extra_generation_params["APG norm threshold"] == 2.0
    torch.testing.assert_close(denoise(x, sigma, 1), guided, rtol=1e-3, atol=1e-3)


def sampled(host: Shape, p: P, picture: Tensor, controls: Controls, steps: int) -> Tensor:
    """Walk a whole sampling as Euler's method does -> the latent at the end."""
    p.steps, levels = steps, torch.linspace(10, 0, steps + 1)
    host.sigmas = levels
    denoise = host.begin(p, picture, draw(len(p.parts)), controls)
    x = draw(len(p.parts), 7) * 10
    for step in range(steps):
        denoised = denoise(x, levels[step : step + 1].expand(len(x)), step)
        x = denoised + (x - denoised) * float(levels[step + 1] / levels[step])
    return x


@pytest.mark.parametrize("image_cfg", [1.5, 1.0, 3.0])
def test_the_rest_is_kept_in_the_latent_and_in_the_picture(host: Shape, picture: Tensor, image_cfg: float) -> None:
    text = say(host.model, "paint the house blue")[0]
    p = host.p([[(text, 1.0)]] * 2, empty(host.model), image_cfg_scale=image_cfg)
    made = sampled(host, p, picture, Controls(keep_rest="always", keep_amount=0.6), 10)
    start = host.model.encode_image(picture) * host.model.config.scale_factor
    held = (made - start).abs().amax(dim=1) < 1e-4
    assert 0.2 < held.float().mean() < 0.95
    assert p.extra_generation_params["Keep the rest"] == "always"
    painted = SimpleNamespace(image=Image.new("RGB", (64, 64), "red"))
    before = np.asarray(to_images(picture)[0])
    for _ in range(2):
        pp = SimpleNamespace(image=painted.image)
        job.finish_picture(p, pp)
        same = (np.asarray(pp.image) == before).all(axis=2)
        red = (np.asarray(pp.image) == (255, 0, 0)).all(axis=2)
        assert same.mean() > 0.1 and red.mean() > 0.01
    larger = SimpleNamespace(image=Image.new("RGB", (128, 128), "red"))
    job.finish_picture(p, larger)
    assert np.asarray(larger.image)[0, 0].tolist() == [255, 0, 0]


def test_what_a_painted_mask_keeps_does_not_make_an_edit_one_of_the_whole_picture(
    host: Shape, picture: Tensor
) -> None:
    def held(nmask: Tensor | None) -> float:
        p = host.p([[(say(host.model, "make it winter")[0], 1.0)]], empty(host.model), image_cfg_scale=1.0)
        p.nmask = nmask
        made = sampled(host, p, picture, Controls(keep_rest="automatic"), 10)
        start = host.model.encode_image(picture) * host.model.config.scale_factor
        return float(((made - start).abs().amax(dim=1) < 1e-4).float().mean())

    assert held(None) == held(torch.ones(4, 8, 8)) == 0  # winter is everywhere
    assert held(torch.zeros(4, 8, 8)) > 0.2


def test_without_keeping_a_picture_is_left_alone(host: Shape, picture: Tensor) -> None:
    p = host.p([[(say(host.model, "make it winter")[0], 1.0)]], empty(host.model))
    sampled(host, p, picture, Controls(), 4)
    image = Image.new("RGB", (64, 64), "red")
    pp = SimpleNamespace(image=image)
    job.finish_picture(p, pp)
    assert pp.image is image
    plain = SimpleNamespace(image=image)
    job.finish_picture(P(None, [], draw(1)), plain)
    assert plain.image is image


def test_keeping_asks_for_no_row_that_the_guidance_does_not_have(host: Shape, picture: Tensor) -> None:
    def rows_of(controls: Controls) -> list[int]:
        host.rows.clear()
        p = host.p([[(say(host.model, "make it winter")[0], 1.0)]], empty(host.model), image_cfg_scale=1.5)
        sampled(host, p, picture, controls, 10)
        return list(host.rows)

    assert rows_of(Controls(keep_rest="automatic")) == rows_of(Controls())


def test_a_sampler_whose_rows_are_noise_cannot_keep_the_rest(model: EditModel, picture: Tensor) -> None:
    host = A1111(model)
    with host.modules():
        p = host.p([[(say(model, "make it winter")[0], 1.0)]], empty(model))
        make = host.make_sampler

        def noisy(p: P) -> Any:
            sampler = make(p)
            sampler.model_wrap_cfg.mask_before_denoising = True
            return sampler

        host.make_sampler = noisy
        with pytest.raises(UserError, match="Keep the rest and APG do not work with this sampler here"):
            host.begin(p, picture, draw(1), Controls(keep_rest="automatic"))


def taken(host: Shape, denoise: Any, xs: list[Tensor], levels: list[float]) -> tuple[list[Tensor], list[int]]:
    """Take the steps of a sampling -> what each gave, and the rows that the UNet was asked for in it."""
    found, counts = [], []
    for step, (x, level) in enumerate(zip(xs, levels, strict=True)):
        host.rows.clear()
        found.append(denoise(x, torch.full((len(x),), level), step))
        counts.append(sum(host.rows))
    return found, counts


LEVELS = [14.6 * 0.7**step for step in range(20)]


@pytest.mark.parametrize(
    ("case", "speed"), [("plain", "balanced"), ("long", "fast"), ("AND", "fast"), ("batch", "fast")]
)
def test_a_speed_adds_the_cached_guidance_of_an_earlier_step_to_the_full_row(
    host: Shape, picture: Tensor, case: str, speed: str
) -> None:
    texts, negative, batch, weights = CASES[case]
    prompts = [list(zip(say(host.model, *texts), weights, strict=True)) for _ in range(batch)]
    p = host.p(prompts, say(host.model, negative)[0], image_cfg_scale=1.5, steps=20)
    denoise = host.begin(p, picture, draw(batch), Controls(speed=speed))
    whole, xs = whole_steps(speed, 20), [draw(batch, step) * level for step, level in enumerate(LEVELS)]
    found, counts = taken(host, denoise, xs, LEVELS)
    assert counts == [batch * (len(texts) + 2 * (step in whole)) for step in range(20)]
    # In hosts that weight the sub-prompts themselves, the full row is their weighted mean.
    shares = torch.ones(len(texts)) if isinstance(host, A1111) else torch.tensor(weights)
    seen, cached = host.model.encode_image(picture).expand(batch, -1, -1, -1), torch.empty(0)
    for step, (x, level) in enumerate(zip(xs, LEVELS, strict=True)):
        sigma = torch.full((batch,), level)
        rows = [evaluate(host.model, x, sigma, text.expand(batch, -1, -1), seen) for text, _ in prompts[0]]
        full = torch.tensordot(shares / shares.sum(), torch.stack(rows), dims=1)
        if step in whole:
            cached = (three_rows(host, p, x, sigma, picture, 7.5, 1.5) - full) / level
        expected = full + level * cached
        assert (found[step] - expected).abs().max() / expected.abs().max() < 2e-4, step
    assert p.extra_generation_params["Speed"] == speed


def test_a_speed_looks_at_all_rows_when_the_text_changes_or_the_noise_rises(host: Shape, picture: Tensor) -> None:
    winter, night = say(host.model, "make it winter", "make it night")
    p = host.p([[(winter, 1.0)]], empty(host.model), image_cfg_scale=1.5, steps=20)
    denoise = host.begin(p, picture, draw(1), Controls(speed="fast"))
    levels = [*LEVELS[:3], LEVELS[1], *LEVELS[4:]]  # the fourth is above the third, but not above the first
    levels[13:] = [20.0, *levels[14:]]
    xs = [draw(1, step) * level for step, level in enumerate(levels)]
    found, counts = [], []
    for step in range(20):
        p.parts = [[(night if step >= 9 else winter, 1.0)]]
        host.rows.clear()
        found.append(denoise(xs[step], torch.tensor([levels[step]]), step))
        counts.append(sum(host.rows))
    whole = whole_steps("fast", 20) | {9, 13}
    assert counts == [3 if step in whole else 1 for step in range(20)]
    expected = three_rows(host, p, xs[9], torch.tensor([levels[9]]), picture, 7.5, 1.5)
    torch.testing.assert_close(found[9], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(7.5, 1.0), (1.5, 1.5), (1.0, 1.0), (1.0, 1.5), (7.5, 3.0)])
def test_no_speed_asks_the_unet_for_more_rows(host: Shape, picture: Tensor, text_cfg: float, image_cfg: float) -> None:
    totals = []
    for speed in SPEEDS:
        prompts = [[(say(host.model, "make it winter")[0], 1.0)]]
        p = host.p(prompts, empty(host.model), cfg_scale=text_cfg, image_cfg_scale=image_cfg, steps=20)
        denoise = host.begin(p, picture, draw(1), Controls(speed=speed))
        _, counts = taken(host, denoise, [draw(1) * level for level in LEVELS], LEVELS)
        totals.append(sum(counts))
    assert totals == sorted(totals, reverse=True)
    if text_cfg > 1:
        assert totals[0] > totals[1] > totals[2]


def test_a_speed_and_a_rescale_go_together(host: Shape, picture: Tensor) -> None:
    text = say(host.model, "make it winter")[0]
    p = host.p([[(text, 1.0)]], empty(host.model), image_cfg_scale=1.5, steps=20)
    denoise = host.begin(p, picture, draw(1), Controls(rescale=1.0, speed="fast"))
    xs = [draw(1, step) * level for step, level in enumerate(LEVELS)]
    found, counts = taken(host, denoise, xs, LEVELS)
    assert counts[2] == 1
    full = evaluate(host.model, xs[2], torch.tensor([LEVELS[2]]), text, host.model.encode_image(picture))
    assert torch.isclose((xs[2] - found[2]).std(), (xs[2] - full).std(), rtol=1e-3)


def test_a_speed_and_a_host_that_leaves_cfg_out_of_some_steps(host: Shape, picture: Tensor) -> None:
    host.opts.skip_early_cond = 0.3
    text = say(host.model, "make it winter")[0]
    p = host.p([[(text, 1.0)]], empty(host.model), image_cfg_scale=1.5, steps=20)
    denoise = host.begin(p, picture, draw(1), Controls(speed="fast"))
    xs = [draw(1, step) * level for step, level in enumerate(LEVELS)]
    found, counts = taken(host, denoise, xs, LEVELS)
    assert counts[:9] == [1] * 7 + [3, 1]  # at the first step with CFG nothing is cached
    expected = three_rows(host, p, xs[7], torch.tensor([LEVELS[7]]), picture, 7.5, 1.5)
    torch.testing.assert_close(found[7], expected, rtol=1e-4, atol=1e-3)


def test_a_step_at_another_size_uses_no_guidance_cached_at_the_first(host: Shape, picture: Tensor) -> None:
    p = host.p([[(say(host.model, "make it winter")[0], 1.0)]], empty(host.model), steps=20)
    denoise = host.begin(p, picture, draw(1), Controls(speed="fast"))
    xs = [draw(1, step) * level for step, level in enumerate(LEVELS)]
    xs[2] = xs[2][..., ::2, ::2]
    found, counts = taken(host, denoise, xs, LEVELS)
    assert counts[:4] == [3, 1, 3, 3]
    assert [x.shape for x in found] == [x.shape for x in xs]


def test_a_speed_of_no_name_is_refused(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    with pytest.raises(UserError, match="Speed is 'warp', but must be one of exact, balanced, fast"):
        job.begin(host.adapter, p, Controls(speed="warp"), is_img2img=True)


@pytest.mark.parametrize(
    ("args", "controls"),
    [
        ([], Controls()),
        ([False, True, 0.5, "fast"], Controls(False, True, 0.5, "fast")),
        ([False, True], Controls(False, True)),
        ([{}], Controls()),
        ([{"speed": "fast", "from_noise": False}], Controls(from_noise=False, speed="fast")),
        ([{"rescale": 1, "randomize": True, "speed": None}, False, 0.0, "exact"], Controls(True, "both", 1.0)),
        ([{"from_noise": False}, False, 0.5, "balanced"], Controls(False, False, 0.5, "balanced")),  # of an infotext
    ],
)
def test_script_arguments_come_by_place_or_by_name(args: list[Any], controls: Controls) -> None:
    assert Controls.from_args(*args) == controls


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"rescail": 0.5}, "There is no control 'rescail': did you mean 'rescale'?"),
        ({"mask": 1}, "There is no control 'mask': the controls are from_noise, randomize, "),
        ({3: True}, "There is no control '3': the controls are"),
        ({"from_noise": 1}, "Start from noise is 1, but must be true or false"),
        ({"randomize": "yes"}, "Randomize CFG is 'yes', but must be one of off, text, image, both"),
        ({"rescale": "0.5"}, "Guidance rescale is '0.5', but must be a number between 0 and 1"),
        ({"rescale": float("nan")}, "Guidance rescale is nan, but must lie between 0 and 1"),
        ({"speed": ["fast"]}, "Speed is ['fast'], but must be text"),
        ({"speed": "warp"}, "Speed is 'warp', but must be one of exact, balanced, fast"),
    ],
)
def test_a_named_argument_that_is_wrong_is_refused_with_a_sentence(named: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Controls.from_args(named, False, 0.0, "exact")


def test_named_arguments_reach_the_job(host: Shape, picture: Tensor) -> None:
    p = host.p([[(say(host.model, "make it winter")[0], 1.0)]], empty(host.model), image_cfg_scale=1.5, steps=20)
    controls = Controls.from_args({"speed": "fast", "from_noise": False}, False, 0.0, "exact")
    denoise = host.begin(p, picture, draw(1), controls)
    _, counts = taken(host, denoise, [draw(1) * level for level in LEVELS[:3]], LEVELS[:3])
    assert counts == [3, 1, 1]
    assert p.extra_generation_params["Speed"] == "fast"
    assert p.denoising_strength == 0.75


def test_random_scales_follow_from_the_seed_and_are_written_down(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), seeds=[42])
    host.begin(p, picture, draw(1), Controls(randomize="both"))
    assert (p.cfg_scale, p.extra_generation_params["Image CFG scale"]) == random_scales(42, 7.5, 1.5, "both")


def test_scales_are_drawn_around_those_that_were_asked_for_in_every_file_of_a_folder(
    host: Shape, picture: Tensor
) -> None:
    """A host runs one `p` for every file: its scale after the first file is one that was drawn."""
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), seeds=[42], image_cfg_scale=2.0, cfg_scale=4.0)
    for seed in (42, 43, 44):
        p.seeds = [seed]
        host.begin(p, picture, draw(1), Controls(randomize="text"))
        assert (p.cfg_scale, p.extra_generation_params["Image CFG scale"]) == random_scales(seed, 4.0, 2.0, "text")
    host.begin(p, picture, draw(1), Controls())
    assert p.cfg_scale == 4.0


def test_the_scale_that_was_asked_for_lasts_for_all_files_of_a_folder(host: Shape, picture: Tensor) -> None:
    """A host runs one `p` for every file, and removes the scale from it on the way."""
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), image_cfg_scale=2.25)
    for _ in range(3):
        host.begin(p, picture, draw(1), Controls(randomize="off"))
        assert p.extra_generation_params["Image CFG scale"] == 2.25


def test_without_a_word_through_the_api_the_image_cfg_is_the_default(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    host.begin(p, picture, draw(1), Controls())
    assert p.extra_generation_params["Image CFG scale"] == 1.5


@pytest.mark.parametrize("value", [float("nan"), -1.0, 9.0])
def test_a_scale_out_of_range_is_refused_with_its_name(host: Shape, value: float) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), image_cfg_scale=value)
    with pytest.raises(UserError, match="Image CFG is"):
        job.begin(host.adapter, p, Controls(), is_img2img=True)


def test_an_edit_sees_what_is_under_the_mask(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), image_mask=object())
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    assert p.inpainting_fill == 1
    assert "original" in p.comments[0]


def test_a_hosts_parser_gets_the_prompts_as_this_program_reads_them_and_the_infotext_as_they_were_typed(
    host: Shape,
) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    p.prompts, p.negative_prompts = ["make the clock show 10:30"], ["a clock (see 3:4)"]
    parsed: list[list[str]] = []
    p.setup_conds = lambda: parsed.extend([p.prompts, p.negative_prompts])
    job.begin(host.adapter, p, Controls(), True)
    p.setup_conds()
    assert parsed == [["make the clock show 10:30 :1"], ["a clock (see 3:4:1.1)"]]
    assert (p.prompts, p.negative_prompts) == (["make the clock show 10:30"], ["a clock (see 3:4)"])
    p.prompts = ["night AND winter :99"]
    with pytest.raises(UserError, match="weight of a sub-prompt"):
        p.setup_conds()


def test_a_refiner_is_left_out_with_a_word(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), refiner_checkpoint="other")
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    assert p.refiner_checkpoint is None and p.refiner_checkpoint_info is None
    assert "refiner" in p.comments[0]


def test_txt2img_says_where_to_go(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    with pytest.raises(UserError, match="img2img tab"):
        job.begin(host.adapter, p, Controls(), is_img2img=False)


def test_a_page_without_a_picture_says_what_to_drop_where(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), init_images=[None])
    with pytest.raises(UserError, match="drop one in the img2img tab"):
        job.begin(host.adapter, p, Controls(), is_img2img=True)


def test_another_checkpoint_is_left_alone(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model), image_cfg_scale=1.5)
    blocks = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Conv2d(4, 96, 3)])])
    plain = torch.nn.Module()
    plain.input_blocks = blocks
    if isinstance(host, A1111):
        p.sd_model.model.diffusion_model = plain
    else:
        p.sd_model.forge_objects.unet.model.diffusion_model = plain
    before = dict(vars(p))
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    job.begin_batch(p)
    noise = draw(1)
    drawn = noise.clone()
    job.begin_sampling(host.adapter, p, noise, noise, None)
    job.begin_sampling(host.adapter, p, x=noise)  # as ersatzForge does when the refiner takes over
    assert vars(p) == before
    assert torch.equal(noise, drawn)


@pytest.mark.parametrize(("sigmas", "told"), [([0.0, 0.0], "0.0"), ([float("nan"), 0.0], "nan"), ([1e400, 0.0], "inf")])
def test_a_sampler_that_would_begin_nowhere_is_refused_and_not_drawn_in_black(
    host: Shape, picture: Tensor, sigmas: list[float], told: str
) -> None:
    host.sigmas = torch.tensor([*sigmas, 0.0, 0.0, 0.0])
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    with pytest.raises(UserError, match=f"noise level {told}.*'Start from noise'"):
        host.begin(p, picture, draw(1), Controls())


def test_a_host_that_counts_the_first_step_too_starts_from_the_same_noise(
    host: Shape, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ersatzForge's `setup_img2img_steps` returns as many steps to take as there are."""
    common, starts = sys.modules["modules.sd_samplers_common"], []
    for more in (0, 1):
        monkeypatch.setattr(common, "setup_img2img_steps", lambda p, steps, more=more: (p.steps, p.steps - 1 + more))
        noise = draw(1)
        host.begin(host.p([[(empty(host.model), 1.0)]], empty(host.model)), picture, noise, Controls())
        starts.append(noise)
    assert torch.equal(*starts)


def test_a_script_that_samples_in_its_own_way_is_refused_and_stays_for_other_checkpoints(
    host: Shape, picture: Tensor
) -> None:
    """'img2img alternative test' puts a sampling of its own on the job: no hook runs in it."""
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    vars(p)["sample"] = own = lambda *_: "made without guidance"
    for _ in range(2):  # the same `p`, as for the next file of a folder
        job.begin(host.adapter, p, Controls(), is_img2img=True)
        with pytest.raises(UserError, match="choose no script"):
            p.sample()
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    host.begin(p, picture, draw(1), Controls())  # one that goes through the host's own sampling
    assert p.sample() == "made without guidance"
    host.adapter.input_channels = lambda p: 4  # another checkpoint was chosen
    job.begin(host.adapter, p, Controls(), is_img2img=True)
    del host.adapter.input_channels
    assert p.sample is own


def test_a_tiny_vae_without_a_posterior_gives_what_it_gives() -> None:
    """TAESD, which a host may have in the VAE's place: its encoder gives latents."""
    encoder = torch.nn.Conv2d(3, 4, 8, stride=8)
    tiny = SimpleNamespace(encoder=encoder)
    vae = SimpleNamespace(first_stage_model=tiny, encode=lambda pixels: encoder(pixels.movedim(-1, 1)))
    p: Any = SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(vae=vae)))
    pixels = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(ForgeHost().encode(p, pixels * 2 - 1), encoder(pixels), atol=1e-6)
    assert not encoder._forward_hooks  # nothing is left on it


@pytest.mark.parametrize("args", [("yes",), (True, "no")], ids=["from noise", "randomize"])
def test_a_word_in_the_place_of_a_switch_is_refused(model: EditModel, picture: Tensor, args: tuple[Any, ...]) -> None:
    host = A1111(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        with pytest.raises(UserError, match=r"must be (true or false|one of off, text, image, both)"):
            host.begin(p, picture, draw(1), Controls.from_args(*args))


def test_an_argument_that_is_null_is_the_default() -> None:
    """What clients send for an argument that they leave out."""
    assert Controls.from_args(None) == Controls.from_args(None, None, None, None) == Controls()
    assert Controls.from_args(False, None, 0.5) == Controls(from_noise=False, rescale=0.5)


@pytest.mark.parametrize("error", [UserError("Say this."), ValueError("odd")])
def test_an_error_ends_the_job_and_the_next_one_works(host: Shape, picture: Tensor, error: Exception) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    job.stop(p, error)
    with pytest.raises(UserError, match=r"Say this\.|odd"):
        p.init()
    host.begin(p, picture, draw(1), Controls())  # the same `p`, as for the next file of a folder


def test_a_plot_that_goes_on_after_an_error_says_on_the_page_why_a_cell_is_black(host: Shape) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    cell = copy(p)  # a plot runs each cell on a copy, catches its error, and shows the comments of the whole
    cell.cfg_scale = 99
    with pytest.raises(UserError) as refused:
        job.begin(host.adapter, cell, Controls(), is_img2img=True)
    job.stop(cell, refused.value)
    assert p.comments == ["Text CFG is 99, but must lie between 1 and 30: choose a value in that range."]


def test_a_sampler_that_is_there_already_is_stopped_too(host: Shape, picture: Tensor) -> None:
    p = host.p([[(empty(host.model), 1.0)]], empty(host.model))
    host.begin(p, picture, draw(1), Controls())
    job.stop(p, UserError("Say this."))
    with pytest.raises(UserError, match="Say this"):
        p.sampler.sample_img2img()


class Thread:
    """The thread of reForge and Forge Classic that runs jobs, and prints what they raise."""

    @staticmethod
    def run_and_wait_result(function: Any, *args: object) -> object:
        try:
            return function(*args)
        except Exception:
            return None


def test_what_ends_a_job_in_another_thread_is_said_where_it_was_asked_for() -> None:
    class Host(Thread):
        pass

    before = Host.run_and_wait_result
    take_off, again = (pass_errors_on(Host) for _ in range(2))  # the UI was reloaded, and nothing unloaded

    def fail(text: str) -> object:
        raise UserError(text)

    with pytest.raises(UserError, match="Say this"):
        Host.run_and_wait_result(fail, "Say this.")
    assert Host.run_and_wait_result(lambda a, b: a + b, 1, 2) == 3
    again()
    with pytest.raises(UserError, match="Say this"):
        Host.run_and_wait_result(fail, "Say this.")
    take_off()
    assert Host.run_and_wait_result is before
    pass_errors_on(None)()  # a host without such a thread


def test_what_another_extension_put_before_ours_stays_when_ours_is_unloaded() -> None:
    class Host(Thread):
        pass

    def others(function: Any, *args: object) -> object:
        return function(*args)

    take_off = pass_errors_on(Host)
    Host.run_and_wait_result = others
    take_off()
    assert Host.run_and_wait_result is others


def test_a_host_that_passes_errors_on_by_itself_is_left_alone() -> None:
    class Forge(Thread):
        last_exception = None

    before = Forge.run_and_wait_result
    pass_errors_on(Forge)
    assert Forge.run_and_wait_result is before


def test_what_a_callback_swallows_is_said_by_the_step(model: EditModel, picture: Tensor) -> None:
    host = A1111(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        denoise = host.begin(p, picture, draw(1), Controls())
        p.sampler.sampler_extra_args.clear()
        with pytest.raises(KeyError):
            denoise(draw(1), torch.ones(1), 0)


@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(7.5, 1.0), (7.5, 1.5), (3.0, 3.0)])
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_another_extensions_way_of_adding_up_sees_the_texts_guidance_alone(
    model: EditModel, picture: Tensor, monkeypatch: pytest.MonkeyPatch, text_cfg: float, image_cfg: float, speed: str
) -> None:
    """The picture's guidance comes on top: with a function that halves the text's, it is the formula at half of it."""
    host = A1111(model)
    text, negative = say(model, "make it winter", "night")
    with host.modules():
        p = host.p([[(text, 1.0)]] * 2, negative, cfg_scale=text_cfg, image_cfg_scale=image_cfg)
        make_sampler = host.make_sampler

        def halving_sampler(p: P) -> Any:
            sampler = make_sampler(p)
            denoiser = sampler.model_wrap_cfg
            original = denoiser.combine_denoised
            denoiser.combine_denoised = lambda x, prompts, uncond, scale: original(x, prompts, uncond, scale / 2)
            return sampler

        monkeypatch.setattr(host, "make_sampler", halving_sampler)
        denoise = host.begin(p, picture, draw(2), Controls(speed=speed))
        x, sigma = draw(2), torch.full((2,), 2.0)
        expected = three_rows(host, p, x, sigma, picture, text_cfg / 2, image_cfg)
        torch.testing.assert_close(denoise(x, sigma, 0), expected, rtol=1e-4, atol=1e-4)


def test_an_extension_that_puts_its_way_of_adding_up_there_at_every_step_does_not_undo_the_pictures_guidance(
    model: EditModel, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = A1111(model)
    text, negative = say(model, "make it winter", "night")

    def put_another(params: Any) -> None:
        on_denoiser(params)
        original = params.denoiser.combine_denoised
        params.denoiser.combine_denoised = lambda x, prompts, uncond, scale: original(x, prompts, uncond, scale / 2)

    monkeypatch.setattr("instruct_pix2pix.hosts.a1111.on_denoiser", put_another)
    with host.modules():
        p = host.p([[(text, 1.0)]], negative, cfg_scale=7.5, image_cfg_scale=1.5)
        denoise = host.begin(p, picture, draw(1), Controls())
        x, sigma = draw(1), torch.full((1,), 2.0)
        expected = three_rows(host, p, x, sigma, picture, 3.75, 1.5)
        torch.testing.assert_close(denoise(x, sigma, 0), expected, rtol=1e-4, atol=1e-4)


def test_the_batches_of_a_job_share_a_sampler(model: EditModel, picture: Tensor) -> None:
    host = A1111(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        denoise = host.begin(p, picture, draw(1), Controls())
        first = denoise(draw(1), torch.ones(1), 0)
        job.begin_sampling(host.adapter, p, draw(1), draw(1), p.negative)
        assert torch.equal(denoise(draw(1), torch.ones(1), 0), first)
        assert sum(host.rows) == 2 * 3


def test_a_step_while_the_host_has_forgotten_our_callback_ends_the_job(
    model: EditModel, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = A1111(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        denoise = host.begin(p, picture, draw(1), Controls())
        denoise(draw(1), torch.ones(1), 0)
        monkeypatch.setattr("instruct_pix2pix.hosts.a1111.on_denoiser", lambda params: None)  # as its UI is reloaded
        with pytest.raises(UserError, match="reloaded during this edit"):
            denoise(draw(1), torch.ones(1), 1)


def test_a_picture_that_the_host_dropped_is_missed(model: EditModel, picture: Tensor) -> None:
    host = Forge(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        host.begin(p, picture, draw(1), Controls())
        modifier = p.sd_model.forge_objects.unet.model_options["conditioning_modifiers"][0]
        without: list[dict[str, Any]] = [{"model_conds": {"c_crossattn": Concat(empty(model))}}]
        with pytest.raises(UserError, match="different sizes"):
            modifier(None, draw(1), torch.ones(1), without, without, 7.5, {}, 0)


def test_nothing_is_left_on_the_hosts_unet_when_a_job_has_ended(model: EditModel, picture: Tensor) -> None:
    host = Forge(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model))
        own = p.sd_model.forge_objects.unet
        host.begin(p, picture, draw(1), Controls())
        assert own.model_options == {"conditioning_modifiers": [], "post_cfg": []}
        assert p.sd_model.forge_objects.unet is not own
        left = job.job_of(p)
        assert left is not None
        left.on_model.close()  # as at the end of a sampling
        assert p.sd_model.forge_objects.unet is own


def test_a_checkpoint_that_is_chosen_in_mid_job_does_not_take_the_edit_away(model: EditModel, picture: Tensor) -> None:
    def first_step(host: Forge) -> Tensor:
        p = host.p([[(text, 1.0)]], empty(model))
        return host.begin(p, picture, draw(1), Controls())(draw(1), torch.ones(1), 0)

    class Switched(Forge):
        def make_sampler(self, p: P) -> Any:
            sampler = super().make_sampler(p)
            p.sd_model = self.sd_model()  # what a host calls the loaded one
            return sampler

    [text] = say(model, "make it winter")
    with Forge(model).modules():
        torch.testing.assert_close(first_step(Switched(model)), first_step(Forge(model)), rtol=1e-4, atol=1e-4)


class Option:
    """The plot's `AxisOption`: the order of its arguments is that of AUTOMATIC1111's scripts/xyz_grid.py."""

    def __init__(
        self, label: str, kind: type, apply: Any, format_value: Any = None, confirm: Any = None, cost: float = 0.0,
        choices: Any = None, prepare: Any = None,
    ) -> None:  # fmt: skip
        self.label, self.kind, self.apply, self.confirm, self.choices = label, kind, apply, confirm, choices


def plotted() -> dict[str, Option]:
    """The axes of a plot to which ours were added."""
    plot = ModuleType("xyz_grid.py")
    vars(plot).update(axis_options=[Option("Steps", int, None)], AxisOption=Option)
    other = ModuleType("other.py")
    scripts = [type("Data", (), {"module": module}) for module in (other, plot)]
    add_axes(scripts)
    add_axes(scripts)  # the page is built again
    assert len({option.label for option in plot.axis_options}) == len(plot.axis_options)
    return {option.label: option for option in plot.axis_options}


@pytest.mark.parametrize(
    ("name", "good", "bad", "told"),
    [
        ("Speed", ["exact", "fast"], ["exact", "warp"], "'warp'"),
        ("Text CFG", [1.0, 30.0], [7.5, 31.0], "31"),
        ("Image CFG", [0.0, 1.5], [1.5, float("nan")], "nan"),
        ("Guidance rescale", [0.0, 1.0], [-0.1], "-0.1"),
    ],
)
def test_a_plot_says_before_its_first_picture_which_value_it_cannot_use(
    name: str, good: list[Any], bad: list[Any], told: str
) -> None:
    axis = plotted()[f"[Instruct Pix2Pix] {name}"]
    axis.confirm(None, good)
    with pytest.raises(UserError, match=f"{name}.*{told}"):
        axis.confirm(None, bad)
    assert (axis.choices and axis.choices()) == (["exact", "balanced", "fast"] if name == "Speed" else None)


def test_an_extension_that_is_unloaded_leaves_the_hosts_own_axes() -> None:
    plot = ModuleType("xyz_grid.py")
    own = [Option("Steps", int, None), Option("Seed", int, None)]
    vars(plot).update(axis_options=own, AxisOption=Option)
    scripts = [type("Data", (), {"module": plot})]
    add_axes(scripts)
    assert len(own) > 2
    remove_axes(scripts)
    assert [one.label for one in own] == ["Steps", "Seed"]


def test_the_axes_of_a_plot_set_what_a_job_reads(model: EditModel, picture: Tensor) -> None:
    axes = plotted()
    assert len(axes) == 1 + 2 + len(job.SETTINGS)  # the host's own, the scales, and the panel's
    host = A1111(model)
    with host.modules():
        p = host.p([[(empty(model), 1.0)]], empty(model), image_cfg_scale=1.5)
        for name, value in (("Text CFG", 5.0), ("Image CFG", 2.0), ("Guidance rescale", 0.5), ("Speed", "fast")):
            axes[f"[Instruct Pix2Pix] {name}"].apply(p, value, [value])
        host.begin(p, picture, draw(1), Controls())
    assert p.cfg_scale == 5.0
    assert p.extra_generation_params["Image CFG scale"] == 2.0
    assert p.extra_generation_params["Guidance rescale"] == 0.5
    assert p.extra_generation_params["Speed"] == "fast"
    axes["[Instruct Pix2Pix] Speed"].apply(p, "exact", ["exact"])  # in a copy of `p` that shares its parameters
    with host.modules():
        host.begin(p, picture, draw(1), Controls(speed="fast"))
    assert "Speed" not in p.extra_generation_params


def test_conditions_hold_numbers_that_a_host_can_print() -> None:
    """The infotext is written by the host's own rules: a NumPy number would read 'np.float64(1.5)' there."""
    assert not isinstance(random_scales(3, 7.5, 1.5, "both")[1], np.floating)
