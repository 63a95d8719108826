"""What SDXL checkpoints that edit ask of a host: its config, noise levels and labels, and what is put on its model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from instruct_pix2pix.engine.loading.config import load_config
from instruct_pix2pix.engine.sampling.schedules import ContinuousSchedule
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.hosts import job
from instruct_pix2pix.hosts.a1111 import FIRST, SDXL_CONFIG, A1111Host, know_sdxl
from instruct_pix2pix.hosts.job import Controls
from instruct_pix2pix.hosts.sdxl import SDXL, Levels, sdxl_of, swapped
from tests.helpers.host_stand_ins import P


@pytest.fixture
def configs() -> Any:
    """A1111's module that chooses configs."""

    def guess(state: dict[str, Any], filename: str) -> str:
        return "sd_xl_base.yaml" if "conditioner" in state else "v1-inference.yaml"

    return SimpleNamespace(config_sdxl="sd_xl_base.yaml", guess_model_config_from_state_dict=guess)


@pytest.mark.parametrize(
    ("channels", "state", "expected"),
    [
        (8, {"conditioner": 1}, str(SDXL_CONFIG)),
        (4, {"conditioner": 1}, "sd_xl_base.yaml"),
        (8, {}, "v1-inference.yaml"),
    ],
)
def test_a_host_gives_the_config_of_8_channels_to_sdxl_files_that_have_them_and_to_no_others(
    configs: Any, channels: int, state: dict[str, Any], expected: str
) -> None:
    own = configs.guess_model_config_from_state_dict
    take_off = know_sdxl(configs)
    state = {**state, FIRST: torch.zeros(2, channels, 3, 3)}
    assert configs.guess_model_config_from_state_dict(state, "any") == expected
    take_off()
    assert configs.guess_model_config_from_state_dict is own


def test_what_another_extension_put_before_our_choice_of_config_stays(configs: Any) -> None:
    take_off = know_sdxl(configs)
    configs.guess_model_config_from_state_dict = others = lambda state, filename: "theirs"
    take_off()
    assert configs.guess_model_config_from_state_dict is others


def test_that_config_is_sdxl_with_8_channels() -> None:
    config = load_config(SDXL_CONFIG)
    assert (config.unet.in_channels, config.unet.adm_in_channels, config.unet.context_dim) == (8, 2816, 2048)
    assert config.scale_factor == 0.13025


def test_places_in_a_hosts_table_stand_for_the_levels_of_cosxl() -> None:
    levels, engine = Levels(0.004, 100.0), ContinuousSchedule(0.004, 100.0)
    torch.testing.assert_close(levels.sigmas(), engine.sigmas, rtol=1e-5, atol=0)
    between = torch.tensor([0.004, 0.0123, 1.0, 7.7, 100.0])
    places = levels.place(between)
    torch.testing.assert_close(levels.sigma(places), between, rtol=1e-4, atol=0)
    torch.testing.assert_close(levels.time(places), engine.sigma_to_t(between), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(levels.place(levels.sigmas()), torch.arange(1000.0), rtol=0, atol=1e-2)


def test_a_blank_negative_prompt_has_the_instructions_pooled_vector_and_its_own_sizes() -> None:
    own, full = {"crossattn": torch.ones(2, 77, 2048), "vector": torch.zeros(2, 1300)}, torch.ones(2, 1300)
    row = SDXL().negative_row(own, full, ["", "rain"])
    assert row["vector"][:, 0].tolist() == [1, 0]
    assert row["vector"][:, -1].tolist() == [0, 0]
    assert torch.equal(row["crossattn"], own["crossattn"])
    assert torch.equal(SDXL(Levels(0.002, 120)).negative_row(own, full, ["", "rain"])["vector"], own["vector"])


@pytest.mark.parametrize("levels", [None, Levels(0.002, 120)])
def test_or_zeros_for_both_with_the_sizes_left(levels: Levels | None) -> None:
    own = {"crossattn": torch.ones(2, 77, 2048), "vector": torch.ones(2, 1300)}
    row = SDXL(levels, "zeros").negative_row(own, torch.full((2, 1300), 2.0), [" ", "rain"])
    assert row["crossattn"].mean(dim=(1, 2)).tolist() == [0, 1]
    assert row["vector"][:, :1280].mean(dim=1).tolist() == [0, 1]
    assert row["vector"][:, 1280:].eq(1).all()


@pytest.mark.parametrize("name", ["module", "buffer", "plain", "method", "absent"])
def test_what_is_swapped_is_back_after_it_however_it_ends(name: str) -> None:
    class Owner(nn.Module):
        def method(self) -> str:
            return "own"

    owner = Owner()
    owner.module = nn.Identity()
    vars(owner)["plain"] = 1
    owner.register_buffer("buffer", torch.ones(1))
    before, keys = getattr(owner, name, None), set(vars(owner))
    value = nn.ReLU() if name == "module" else torch.zeros(1)
    with pytest.raises(ZeroDivisionError), swapped(owner, name, value):
        assert getattr(owner, name) is value
        raise ZeroDivisionError
    assert getattr(owner, name, None) == before
    assert set(vars(owner)) == keys


def checkpoint(path: Path, **more: torch.Tensor) -> Path:
    """Write what tells of an SDXL file of 8 channels."""
    unet = "model.diffusion_model."
    save_file(
        {
            FIRST: torch.zeros(320, 8, 3, 3),
            f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 2048),
            f"{unet}label_emb.0.0.weight": torch.zeros(1, 2816),
            **more,
        },
        path,
    )
    return path


def processing(path: Path) -> P:
    network = SimpleNamespace(input_blocks=[[SimpleNamespace(weight=torch.zeros(320, 8, 3, 3))]])
    model = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=network),
        is_sdxl=True,
        sd_checkpoint_info=SimpleNamespace(filename=str(path)),
    )
    return P(model, [], torch.zeros(0))


def test_the_file_says_which_noise_levels_a_model_has(tmp_path: Path) -> None:
    assert sdxl_of(processing(checkpoint(tmp_path / "a.safetensors")), "empty") == SDXL()
    ends = {"edm_vpred.sigma_min": torch.tensor(0.5), "edm_vpred.sigma_max": torch.tensor(64.0)}
    cosxl = processing(checkpoint(tmp_path / "b.safetensors", **ends))
    assert sdxl_of(cosxl, "zeros") == SDXL(Levels(0.5, 64), "zeros")
    p = processing(tmp_path / "b.safetensors")
    p.sd_model.is_sdxl = False
    assert sdxl_of(p, "empty") is None


def test_levels_that_cannot_be_used_end_the_job_with_a_sentence(tmp_path: Path) -> None:
    ends = {"edm_vpred.sigma_min": torch.tensor(3.0), "edm_vpred.sigma_max": torch.tensor(2.0)}
    with pytest.raises(UserError, match="noise levels that cannot be used"):
        sdxl_of(processing(checkpoint(tmp_path / "a.safetensors", **ends)), "empty")


def begun(p: P) -> job.HostJob:
    made = job.job_of(p)
    assert made is not None
    return made


@pytest.mark.parametrize("error", [None, ValueError])
def test_what_a_sampling_puts_on_the_model_is_taken_off_after_it(
    tmp_path: Path, error: type[Exception] | None
) -> None:
    p = processing(checkpoint(tmp_path / "a.safetensors"))
    on_model: list[str] = []

    def sample(*_: object) -> str:
        on_model.append("ours")
        begun(p).on_model.callback(on_model.clear)  # as a host's `sample` calls our hook
        if error:
            raise error
        return "made"

    p.sample = sample
    job.begin(A1111Host(), p, Controls(), is_img2img=True)
    begun(p).guided = True
    for _ in range(2):  # two batches
        if error:
            with pytest.raises(error):
                p.sample()
        else:
            assert p.sample() == "made"
        assert on_model == []


def test_a_blank_negative_prompt_is_encoded_and_no_zeros(tmp_path: Path) -> None:
    """Hosts take zeros for a negative prompt that is ''. The infotext keeps it as it was typed."""
    seen: list[list[str]] = []
    p = processing(checkpoint(tmp_path / "a.safetensors"))
    p.setup_conds = lambda: seen.append(p.negative_prompts)
    p.negative_prompts = ["", "rain"]
    job.begin(A1111Host(), p, Controls(), is_img2img=True)
    p.setup_conds()
    assert seen == [[" ", "rain"]]
    assert p.negative_prompts == ["", "rain"]
