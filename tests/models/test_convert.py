"""Converting: the same numbers in another file, smaller where asked; what is not a model is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.checkpoints import ema_twin
from instruct_pix2pix.models.convert import Conversion, convert
from instruct_pix2pix.models.stored_model import stored_file
from instruct_pix2pix.models.weights_files import SAFETENSORS_DTYPE, header, read_weights
from tests.helpers.hostile_files import HOSTILE
from tests.helpers.to_merge import FIRST, edit_state, moved

UNET = "model.diffusion_model."


def converted(path: Path, out: Path, **asked: Any):
    return convert(stored_file(path), out, Conversion(**asked), lambda *_: None)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)), name


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return edit_state()


def write(path: Path, state: dict[str, Tensor], how: str) -> Path:
    if how == "zip":
        torch.save({"state_dict": state, "optimizer_states": [{"state": {0: state}}], "epoch": 3}, path)
    elif how == "legacy":
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    elif how == "wrapped":
        optimizer = {f"{name}.exp_avg": value for name, value in state.items()}
        torch.save({"model": {f"module.{name}": v for name, v in state.items()}, "optimizer": optimizer}, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("how", ["zip", "legacy", "wrapped", "safetensors"])
def test_the_same_bits_lie_in_the_new_file_and_nothing_of_the_training(tmp_path, state, how):
    path, checkpoint, notes = converted(write(tmp_path / "in", state, how), tmp_path / "out")
    assert path == tmp_path / "out.safetensors" and checkpoint.editable and not notes
    same(load_file(path), state)


def test_every_kind_of_number_and_every_shape_is_written_as_the_package_reads_it(tmp_path):
    state = {
        f"a.{dtype}{list(shape)}": torch.randint(0, 2, shape).to(getattr(torch, dtype))
        for dtype in SAFETENSORS_DTYPE.values()
        for shape in ((), (0,), (3,), (2, 0, 3), (5, 3, 1))
    }
    state["large"] = torch.rand(3001, 3001)  # more than is computed at once
    state["part of another"] = state["large"].T[7:, ::3]
    state["\u00e4 \u2603 \" \\"] = torch.ones(1)
    torch.save(state, tmp_path / "in.pt")
    path, _, _ = converted(tmp_path / "in.pt", tmp_path / "out.safetensors")
    same(load_file(path), {name: value.contiguous() for name, value in state.items()})
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert length % 8 == 0  # so that numbers lie at multiples of their size


def test_a_tensor_of_the_header_s_own_name_is_refused(tmp_path):
    torch.save({"__metadata__": torch.ones(1)}, tmp_path / "in.pt")
    with pytest.raises(UserError, match="no place"):
        converted(tmp_path / "in.pt", tmp_path / "out")


@pytest.mark.parametrize("word", ["fp16", "bf16", "fp32"])
def test_networks_change_their_precision_and_nothing_else(tmp_path, state, word):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[word]
    stored = {**state, "edm_vpred.sigma_min": torch.tensor(0.002)}
    path, _, _ = converted(write(tmp_path / "in", stored, "zip"), tmp_path / "out", precision=word)
    keeps = ("alphas_cumprod", "edm_vpred.sigma_min")
    wanted = {n: v.to(dtype) if v.is_floating_point() and n not in keeps else v for n, v in stored.items()}
    same(load_file(path), wanted)


def test_a_vae_alone_is_converted_as_well(tmp_path, state):
    vae = {n.removeprefix("first_stage_model."): v for n, v in state.items() if n.startswith("first_stage_model.")}
    torch.save({"state_dict": {**vae, "loss.logvar": torch.ones(1)}}, tmp_path / "vae.pt")
    path, checkpoint, _ = converted(tmp_path / "vae.pt", tmp_path / "out", precision="fp16")
    assert checkpoint.kind == "VAE"
    same(load_file(path), {name: value.half() for name, value in vae.items()})


def test_a_number_too_large_for_half_precision_is_refused(tmp_path, state):
    write(tmp_path / "in", {**state, f"{UNET}out.2.bias": torch.tensor([1.0, 7e4, 0, 0])}, "safetensors")
    with pytest.raises(UserError, match=r"out\.2\.bias.*float16"):
        converted(tmp_path / "in", tmp_path / "out", precision="fp16")
    assert [*tmp_path.iterdir()] == [tmp_path / "in"]
    converted(tmp_path / "in", tmp_path / "out", precision="bf16")


def test_packed_weights_are_copied_as_they_are_and_not_converted(tmp_path, state):
    packed = {**state, f"{UNET}out.2.weight": state[f"{UNET}out.2.weight"].to(torch.float8_e4m3fn)}
    packed[f"{UNET}out.2.scale_weight"] = torch.tensor(2.0)
    write(tmp_path / "in", packed, "safetensors")
    with pytest.raises(UserError, match="packed"):
        converted(tmp_path / "in", tmp_path / "out", precision="fp16")
    same(load_file(converted(tmp_path / "in", tmp_path / "out")[0]), packed)


# --- moving averages ---


@pytest.mark.parametrize(
    ("distance", "ema", "weights", "kept", "told"),
    [
        (1e-3, "use", "average", False, "takes the place"),
        (1e-3, "drop", "weights", False, "left out"),
        (1e-3, "keep", "weights", True, None),
        (3.0, "use", "weights", False, "not that of its weights"),
        (3.0, "keep", "weights", True, None),
    ],
)
def test_moving_averages_become_the_weights_go_or_stay(tmp_path, state, distance, ema, weights, kept, told):
    unet = [name for name in state if name.startswith(UNET)]
    averages = {ema_twin(n): v for n, v in moved({n: state[n] for n in unet}, distance, 1).items()}
    extra = {**averages, "model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(5)}
    write(tmp_path / "in", {**state, **extra}, "zip")
    path, checkpoint, notes = converted(tmp_path / "in", tmp_path / "out", ema=ema)
    wanted = {**state, **(extra if kept else {})}
    if weights == "average":
        wanted |= {name: averages[ema_twin(name)] for name in unet}
    same(load_file(path), wanted)
    assert checkpoint.has_ema == kept
    assert len(notes) == (told is not None) and all(str(told) in note for note in notes)


# --- beside the tensors ---


def test_metadata_stay_but_for_hashes_of_the_old_file(tmp_path, state):
    texts = {"modelspec.title": "Ours \u00fc", "modelspec.hash_sha256": "0x1", "note": "1"}
    save_file(state, tmp_path / "in.safetensors", texts)
    path, _, _ = converted(tmp_path / "in.safetensors", tmp_path / "out")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "modelspec.title": "Ours \u00fc", "note": "1"}


# --- files that lie ---


@pytest.mark.parametrize("name", [name for name in HOSTILE if "." in name])
def test_a_hostile_file_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, name):
    HOSTILE[name](tmp_path / name)
    with pytest.raises(UserError) as caught:
        converted(tmp_path / name, tmp_path / "out.safetensors")
    assert str(caught.value).endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_cut_short_and_a_pickle_that_names_code_are_refused(tmp_path, state):
    whole = write(tmp_path / "in", state, "safetensors").read_bytes()
    (tmp_path / "in").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="100 bytes are missing"):
        converted(tmp_path / "in", tmp_path / "out")
    (tmp_path / "code").write_bytes(b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00true\x85R.")
    with pytest.raises(UserError, match=r"wants to run code \('os.system'\)"):
        converted(tmp_path / "code", tmp_path / "out")
    assert not (tmp_path / "out.safetensors").exists()


# --- the reading of a part of a file ---


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_some_tensors_can_be_read_without_the_others(tmp_path, state, how):
    path = write(tmp_path / "in", state, how)
    found = read_weights(path, {FIRST, "alphas_cumprod", "not there"})
    same(found, {name: state[name] for name in (FIRST, "alphas_cumprod")})
    assert header(path).keys() == state.keys()
