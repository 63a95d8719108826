"""Other extensions beside an edit: ControlNet in AUTOMATIC1111 is helped, and what cannot work is refused."""

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
from instruct_pix2pix.hosts.job import Controls
from instruct_pix2pix.hosts.other_extensions import require_able, show_latents
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


class Script:
    """One that a job calls; its arguments begin at a place among all."""

    def __init__(self, title: str, args_from: int = 0, **state: Any) -> None:
        self.title, self.args_from = lambda: title, args_from
        vars(self).update(state)


def job_with(*scripts: Script, arguments: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(scripts=SimpleNamespace(alwayson_scripts=scripts), script_args=arguments)


def units(network: nn.Module | None, kind: str = "ControlNet") -> list[Script]:
    """ControlNet in AUTOMATIC1111 with a unit in use, and another script like it."""
    unit = SimpleNamespace(
        control_model=network, control_model_type=SimpleNamespace(name=kind), preprocessor={"name": "reference_only"}
    )
    used = SimpleNamespace(control_params=[unit])
    return [Script("Other"), Script("idle", latest_network=None), Script("ControlNet", latest_network=used)]


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
        vars(p).update(vars(job_with(*units(host.network))))
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
        show_latents(job_with(*units(network)), on_model)
        network(x=torch.zeros(1, 8, 2, 2))
    with pytest.raises(RuntimeError, match="8 channels"):
        network(x=torch.zeros(1, 8, 2, 2))


def forges_units(name: str, tag: str) -> Script:
    preprocessor = SimpleNamespace(name=name, tags=[tag])
    return Script("ControlNet", current_params={0: SimpleNamespace(preprocessor=preprocessor, model=None)})


@pytest.mark.parametrize(
    "job",
    [
        job_with(*units(None, "AttentionInjection")),
        job_with(forges_units("reference_only", "Reference")),
        job_with(Script("Other"), Script("StyleAlign Integrated", 2), arguments=(None, False, True, 1.0)),
    ],
    ids=["AUTOMATIC1111", "Forge", "StyleAlign"],
)
def test_what_takes_two_rows_for_granted_is_refused_with_a_sentence(job: Any) -> None:
    with pytest.raises(UserError, match=r"(StyleAlign Integrated|'reference_only') does not work with a model that ed"):
        require_able(job)


@pytest.mark.parametrize(
    "job",
    [
        job_with(*units(None)),
        job_with(forges_units("canny", "Canny")),
        job_with(Script("StyleAlign Integrated", 1), arguments=(True, False, 1.0)),
        SimpleNamespace(scripts=None),
        SimpleNamespace(),
    ],
)
def test_what_is_idle_or_works_is_let_through(job: Any) -> None:
    require_able(job)
