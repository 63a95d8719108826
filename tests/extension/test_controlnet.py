"""ControlNet beside an edit in AUTOMATIC1111: its networks see the latent alone, and its marks are no text."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.hosts.controlnet import show_latents
from instruct_pix2pix.hosts.job import Controls
from tests.helpers.analytic_rows import noise
from tests.helpers.host_stand_ins import A1111, evaluate

HOUSE = Path(__file__).parents[2] / "examples" / "house.png"
POSITIVE, NEGATIVE = 1024.0, -1024.0


class ControlNet(nn.Module):
    """What it adds depends on the latent alone, and it can be given no more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, *, x: Tensor) -> Tensor:
        return self.inner(x)


class ControlledA1111(A1111):
    """With the extension: before each text stands a mark, and the network sees all that the UNet does."""

    def __init__(self, model: EditModel) -> None:
        super().__init__(model)
        self.network = ControlNet().requires_grad_(False)

    def evaluate(self, x: Tensor, sigma: Tensor, text: Tensor, picture: Tensor) -> Tensor:
        assert torch.equal(text[:, 0].abs(), torch.full_like(text[:, 0], POSITIVE))
        assert not (text[:, 1:].abs() == POSITIVE).any()
        own = super().evaluate(x, sigma, text[:, 1:], picture)
        return own + self.network(x=torch.cat([x, picture], dim=1))


def units(network: nn.Module | None, kind: str = "ControlNet") -> Any:
    """A job's scripts, one of which has a unit in use."""
    unit = SimpleNamespace(
        control_model=network, control_model_type=SimpleNamespace(name=kind), preprocessor={"name": "reference_only"}
    )
    used = SimpleNamespace(latest_network=SimpleNamespace(control_params=[unit]))
    unused = SimpleNamespace(latest_network=None)
    return SimpleNamespace(alwayson_scripts=[SimpleNamespace(), unused, used])


def say(model: EditModel, text: str, mark: float) -> Tensor:
    said = model.encode_text(text, "", 1)[0][0].schedule[-1][1]
    return torch.cat([torch.full_like(said[:, :1], mark), said], dim=1)


LONG = "a quiet harbour at dusk with boats, " * 14
TEXTS = {"short": ("make it winter", "night"), "long": (LONG, "night"), "long negative": ("make it winter", LONG)}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(7.5, 1.5), (7.5, 1.0), (1.0, 1.5)])
def test_an_edit_is_the_papers_formula_of_rows_with_control(
    model: EditModel, texts: tuple[str, str], text_cfg: float, image_cfg: float
) -> None:
    host, picture = ControlledA1111(model), to_tensor(Image.open(HOUSE).resize((64, 64)))
    seen, x, sigma = model.encode_image(picture), noise(2, 4, 8, 8) * 3, torch.full((2,), 3.0)
    full, negative = say(model, texts[0], POSITIVE), say(model, texts[1], NEGATIVE)
    with host.modules():
        p = host.p([[(full, 1.0)]] * 2, negative, cfg_scale=text_cfg, image_cfg_scale=image_cfg)
        vars(p)["scripts"] = units(host.network)
        guided = host.begin(p, picture, noise(2, 4, 8, 8, seed=1), Controls())(x, sigma, 0)
    shown = {True: seen.expand(2, -1, -1, -1), False: torch.zeros_like(x)}
    c, i, u = (
        evaluate(model, x, sigma, text[:, 1:].expand(2, -1, -1), shown[sees])
        for text, sees in ((full, True), (negative, True), (negative, False))
    )
    expected = u + image_cfg * (i - u) + text_cfg * (c - i) + host.network.inner(x)
    assert float((guided - expected).abs().max() / expected.abs().max()) < 1e-4


def test_nothing_is_left_on_a_network() -> None:
    network = ControlNet()
    with ExitStack() as on_model:
        show_latents(SimpleNamespace(scripts=units(network)), on_model)  # pyright: ignore[reportArgumentType]
        network(x=torch.zeros(1, 8, 2, 2))
    with pytest.raises(RuntimeError, match="8 channels"):
        network(x=torch.zeros(1, 8, 2, 2))


def test_a_kind_that_runs_the_unet_itself_is_refused_with_a_sentence() -> None:
    scripts = units(None, "AttentionInjection")
    with pytest.raises(UserError, match="'reference_only' does not work with a model that edits: switch it off"):
        show_latents(SimpleNamespace(scripts=scripts), ExitStack())  # pyright: ignore[reportArgumentType]
