"""Merging by AUTOMATIC1111's formulas, against the formulas in float64; what cannot be merged is a sentence."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models import saved_model
from instruct_pix2pix.models.checkpoints import ema_twin, inspect
from instruct_pix2pix.models.merge import Merge, merge
from instruct_pix2pix.models.stored_model import stored_file
from tests.helpers.to_merge import FIRST, NOT_IN_BASE, ONLY_IN_EDIT, TEXT, moved, states, write_models

UNET = "model.diffusion_model."
POSITIONS = f"{TEXT}text_model.embeddings.position_ids"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def merged(paths: list[Path], out: Path, **asked: Any) -> dict[str, Tensor]:
    """Merge, check that the file is what an edit needs, and return its tensors."""
    path, checkpoint, _ = run(paths, out, **asked)
    assert path == out and checkpoint == inspect(out) and checkpoint.editable
    return load_file(out)


def run(paths: list[Path], out: Path, **asked: Any):
    return merge([stored_file(path) for path in paths], out, Merge(**asked), lambda *_: None)


def refused(paths: list[Path], out: Path, **asked: Any) -> str:
    """Return the sentence that a person is told; nothing new is written."""
    before = {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
    with pytest.raises(UserError) as caught:
        run(paths, out, **asked)
    assert {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()} == before
    told = str(caught.value)
    assert told.endswith(".") and "\n" not in told
    return told


def expected(m: float, *names: str, dtype: torch.dtype = torch.float32, own: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The formulas of A1111's merger, in float64, on the numbers that the files hold."""
    stored = [
        {
            name.replace("transformer.embeddings", "transformer.text_model.embeddings")
            .replace("transformer.encoder", "transformer.text_model.encoder")
            .replace("transformer.final", "transformer.text_model.final"): value.to(dtype).double()
            if value.is_floating_point()
            else value
            for name, value in states()[one].items()
        }
        for one in names
    ]
    a, b, *rest = stored
    result = dict(a)
    for name, value in a.items():
        if "model" not in name or name == POSITIONS or name in own:
            continue
        if any(name not in other for other in (b, *rest)):
            continue
        target = value[:, :4] if name == FIRST else value
        new = target + m * (b[name] - rest[0][name]) if rest else (1 - m) * target + m * b[name]
        result[name] = torch.cat([new, value[:, 4:]], 1) if name == FIRST else new
    return result


def agree(found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert found.keys() == wanted.keys()
    # one rounding of the result, and float32's in between
    spacing = torch.finfo(dtype).eps
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        if value.is_floating_point():
            assert found[name].dtype == dtype
            torch.testing.assert_close(found[name].double(), value, rtol=spacing, atol=4e-7)
        else:
            assert torch.equal(found[name], value)


# --- the formulas ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("m", [None, 0.4], ids=["default", "0.4"])
def test_a_style_is_added_to_an_edit_model(tmp_path, dtype, m):
    paths = write_models(tmp_path, dtype)
    found = merged([*paths.values()], tmp_path / "out.safetensors", multiplier=m)
    wanted = expected(1.0 if m is None else m, "edit", "style", "base", dtype=dtype)
    agree(found, wanted, dtype)
    edit = load_file(paths["edit"])
    assert torch.equal(found[FIRST][:, 4:], edit[FIRST][:, 4:])  # the channels of the picture
    assert not torch.equal(found[FIRST][:, :4], edit[FIRST][:, :4])
    for name in (ONLY_IN_EDIT, NOT_IN_BASE, POSITIONS, "alphas_cumprod"):
        assert torch.equal(found[name], edit[name]), name


def test_two_models_are_mixed(tmp_path, originals):
    found = merged([originals["edit"], originals["style"]], tmp_path / "out.safetensors", multiplier=0.25)
    agree(found, expected(0.25, "edit", "style"), torch.float32)


def test_two_models_that_edit_are_mixed_in_all_their_channels(tmp_path, originals):
    other = moved(states()["edit"], 0.1, 5)
    save_file(other, tmp_path / "other.safetensors")
    found = merged([originals["edit"], tmp_path / "other.safetensors"], tmp_path / "out.safetensors", multiplier=0.5)
    assert torch.equal(found[FIRST], 0.5 * states()["edit"][FIRST] + 0.5 * other[FIRST])


def test_the_text_encoder_and_the_vae_can_stay_those_of_the_edit_model(tmp_path, originals):
    found = merged([*originals.values()], tmp_path / "out.safetensors", unet_only=True)
    edit = states()["edit"]
    own = tuple(name for name in edit if not name.startswith(UNET))
    agree(found, expected(1.0, "edit", "style", "base", own=own), torch.float32)


def test_an_inpainting_model_takes_a_style_as_well(tmp_path, originals):
    edit = states()["edit"]
    fills = {**edit, FIRST: torch.cat([edit[FIRST], edit[FIRST][:, :1]], 1)}
    save_file(fills, tmp_path / "fills.safetensors")
    out = tmp_path / "out.safetensors"
    _, checkpoint, _ = run([tmp_path / "fills.safetensors", originals["style"], originals["base"]], out)
    assert checkpoint.kind == "inpainting"
    found = load_file(out)[FIRST]
    difference = load_file(originals["style"])[FIRST] - load_file(originals["base"])[FIRST]
    assert torch.equal(found, torch.cat([edit[FIRST][:, :4] + difference, fills[FIRST][:, 4:]], 1))


def test_a_matrix_and_a_convolution_of_one_pixel_are_the_same_layer(tmp_path, originals):
    flat = {
        name: value[:, :, 0, 0].contiguous() if value.ndim == 4 and value.shape[2:] == (1, 1) else value
        for name, value in load_file(originals["style"]).items()
    }
    save_file(flat, tmp_path / "flat.safetensors")
    paths = [originals["edit"], tmp_path / "flat.safetensors", originals["base"]]
    agree(merged(paths, tmp_path / "out.safetensors"), expected(1.0, "edit", "style", "base"), torch.float32)


def test_the_result_can_be_written_in_another_precision(tmp_path, originals):
    found = merged([*originals.values()], tmp_path / "out.safetensors", precision="fp16")
    exact = load_file(run([*originals.values()], tmp_path / "exact.safetensors")[0])
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        keeps = not value.is_floating_point() or name == "alphas_cumprod"  # half of it would move the noise levels
        assert torch.equal(found[name], value if keeps else value.half()), name


def test_a_torch_file_is_merged_as_a_safetensors_file_is(tmp_path, originals):
    style = load_file(originals["style"])
    torch.save({"state_dict": style, "optimizer_states": [style]}, tmp_path / "style.ckpt")
    torch.save(load_file(originals["base"]), tmp_path / "base.pt", _use_new_zipfile_serialization=False)
    paths = [originals["edit"], tmp_path / "style.ckpt", tmp_path / "base.pt"]
    agree(merged(paths, tmp_path / "out.safetensors"), expected(1.0, "edit", "style", "base"), torch.float32)


# --- moving averages ---


def with_averages(state: dict[str, Tensor], distance: float) -> dict[str, Tensor]:
    averages = moved({name: value for name, value in state.items() if name.startswith(UNET)}, distance, 9)
    twins = {ema_twin(name): value for name, value in averages.items()}
    return {**state, **twins, "model_ema.decay": torch.tensor(0.9)}


@pytest.mark.parametrize(
    ("distance", "ema", "used"),
    [(1e-3, "use", True), (1e-3, "drop", False), (3.0, "use", False)],
    ids=["its own", "dropped", "of another model"],
)
def test_the_moving_average_is_merged_where_an_edit_would_use_it(tmp_path, originals, distance, ema, used):
    full = with_averages(states()["edit"], distance)
    save_file(full, tmp_path / "full.safetensors")
    paths = [tmp_path / "full.safetensors", originals["style"], originals["base"]]
    _, checkpoint, notes = run(paths, tmp_path / "out.safetensors", ema=ema)
    found = load_file(tmp_path / "out.safetensors")
    assert not checkpoint.has_ema and not checkpoint.stray_ema
    assert not any(name.startswith("model_ema") for name in found)
    assert len(notes) == 1 and "full.safetensors" in notes[0]
    style, base = load_file(originals["style"]), load_file(originals["base"])
    for name in (name for name in found if name.startswith(UNET) and name != FIRST):
        mine = full[ema_twin(name)] if used else full[name]
        assert torch.equal(found[name], mine + (style[name] - base[name])), name


# --- what cannot be merged ---


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (["style", "edit"], ["edit.safetensors", "first"]),
        (["style", "edit", "base"], ["edit.safetensors", "first"]),
        (["edit", "edit"], ["twice"]),
        (["edit", "style", "style"], ["twice"]),
        (["edit", "edit2", "base"], ["trained from"]),
        (["edit", "style", "edit2"], ["trained from"]),
        (["edit", "vae", "base"], ["VAE", "whole checkpoints"]),
        (["edit", "wide"], ["wide.safetensors", "one family"]),
        (["edit", "wider", "base"], ["wider.safetensors", "does not fit", "input_blocks"]),
        (["edit", "part", "base"], ["part.safetensors", "lacks", "out.2.weight"]),
        (["edit", "style", "part"], ["part.safetensors", "lacks", "out.2.weight"]),
        (["edit", "packed", "base"], ["packed.safetensors", "fp16"]),
    ],
)
def test_models_that_do_not_fit_each_other_are_refused(tmp_path, originals, order, words):
    all_states = states()
    style = all_states["style"]
    changed = {
        "edit2": moved(all_states["edit"], 0.1, 4),
        "vae": {n.split(".", 1)[1]: v for n, v in style.items() if n.startswith("first_stage_model.")},
        "wide": {n: torch.zeros(v.shape[0], 40) if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else v
                 for n, v in style.items()},
        "wider": {**style, f"{UNET}input_blocks.1.0.in_layers.2.weight": torch.zeros(64, 32, 3, 3)},
        "part": {n: v for n, v in style.items() if n != f"{UNET}out.2.weight"},
        "packed": {**style, f"{UNET}out.2.weight_scale": torch.ones(1)},
    }  # fmt: skip
    paths = dict(originals)
    for name, state in changed.items():
        if name in order:
            paths[name] = tmp_path / f"{name}.safetensors"
            save_file(state, paths[name])
    told = refused([paths[name] for name in order], tmp_path / "out.safetensors")
    assert all(word in told for word in words), told


@pytest.mark.parametrize("m", [float("nan"), float("inf"), 11.0])
def test_a_multiplier_that_makes_no_model_is_refused(tmp_path, originals, m):
    assert "multiplier" in refused([*originals.values()], tmp_path / "out.safetensors", multiplier=m)


def test_a_number_too_large_for_the_format_is_refused_by_name(tmp_path, originals):
    state = load_file(originals["edit"])
    state[f"{UNET}out.2.bias"][0] = 1e6
    save_file(state, tmp_path / "large.safetensors")
    paths = [tmp_path / "large.safetensors", originals["style"], originals["base"]]
    told = refused(paths, tmp_path / "out.safetensors", precision="fp16")
    assert "out.2.bias" in told and "float16" in told


# --- the file that is written ---


def test_the_result_says_what_it_was_merged_from_as_a1111_says_it(tmp_path, originals):
    run([*originals.values()], tmp_path / "one.safetensors", multiplier=0.7)
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        texts = file.metadata()
    assert texts["modelspec.title"] == "edit" and texts["format"] == "pt"
    assert "modelspec.hash_sha256" not in texts  # it was that of the first model
    hashes = {name: sha256(path.read_bytes()).hexdigest() for name, path in originals.items()}
    recipe = json.loads(texts["sd_merge_recipe"])
    assert recipe["interp_method"] == "Add difference" and recipe["multiplier"] == 0.7
    assert recipe["is_instruct_pix2pix"] and not recipe["is_inpainting"]
    found = [recipe[f"{which}_model_hash"] for which in ("primary", "secondary", "tertiary")]
    assert found == [hashes["edit"], hashes["style"], hashes["base"]]
    listed = json.loads(texts["sd_merge_models"])
    assert {key: value["name"] for key, value in listed.items()} == {
        value: f"{name}.safetensors" for name, value in hashes.items()
    }
    # a merge of a merge tells of all of them
    run([tmp_path / "one.safetensors", originals["edit"]], tmp_path / "two.safetensors")
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        again = json.loads(file.metadata()["sd_merge_models"])
    first = sha256((tmp_path / "one.safetensors").read_bytes()).hexdigest()
    assert again.keys() == {first, *hashes.values()}
    assert again[first]["sd_merge_recipe"] == recipe


def test_a_hostile_recipe_does_no_harm(tmp_path, originals):
    state = load_file(originals["edit"])
    save_file(state, tmp_path / "odd.safetensors", {"sd_merge_recipe": "[" * 5000, "sd_merge_models": '["a", 1]'})
    run([tmp_path / "odd.safetensors", originals["style"]], tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        listed = json.loads(file.metadata()["sd_merge_models"])
    assert len(listed) == 2 and all(one["sd_merge_recipe"] is None for one in listed.values())


def test_the_config_beside_the_edit_model_goes_along(tmp_path, originals):
    run([*originals.values()], tmp_path / "out.safetensors")
    assert (tmp_path / "out.yaml").read_bytes() == originals["edit"].with_suffix(".yaml").read_bytes()
    (tmp_path / "out.safetensors").unlink()
    (tmp_path / "out.yaml").write_text("another")
    assert "out.yaml" in refused([*originals.values()], tmp_path / "out.safetensors")
    run([*originals.values()], tmp_path / "out.safetensors", overwrite=True)
    assert "another" not in (tmp_path / "out.yaml").read_text()


def test_a_config_of_another_model_is_not_left_beside_the_result(tmp_path, originals):
    shutil.copy(originals["edit"], tmp_path / "edit.safetensors")
    (tmp_path / "out.yaml").write_text("another")
    paths = [tmp_path / "edit.safetensors", originals["style"]]
    assert "out.yaml" in refused(paths, tmp_path / "out.safetensors", overwrite=True)


def test_a_file_that_is_there_is_replaced_on_wish_alone(tmp_path, originals):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    assert "--overwrite" in refused([*originals.values()], out)
    merged([*originals.values()], out, overwrite=True)


def test_a_model_is_never_replaced_by_what_is_made_of_it(tmp_path):
    paths = write_models(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(paths["style"])
    for out in (paths["base"], tmp_path / "link.safetensors"):
        assert "made of" in refused([*paths.values()], out, overwrite=True)


def test_names_that_cannot_be_written_are_refused(tmp_path, originals):
    assert ".safetensors" in refused([*originals.values()], tmp_path / "out.ckpt")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder.safetensors", "folder"):
        assert "folder" in refused([*originals.values()], tmp_path / name)
    assert run([*originals.values()], tmp_path / "new" / "v1.5")[0] == tmp_path / "new" / "v1.5.safetensors"


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, originals, monkeypatch):
    free = namedtuple("free", "total used free")(10, 9, 1)
    monkeypatch.setattr(saved_model.shutil, "disk_usage", lambda _: free)
    assert "1 bytes free" in refused([*originals.values()], tmp_path / "out.safetensors")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_merge_that_is_stopped_leaves_nothing(tmp_path, originals, error):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")

    def stop(what: str, done: int, total: int) -> None:
        if what == "Writing" and done > total / 2:
            assert len(list(tmp_path.iterdir())) == 2
            raise error

    models = [stored_file(path) for path in originals.values()]
    with pytest.raises((KeyboardInterrupt, UserError)) as caught:
        merge(models, out, Merge(overwrite=True), stop)
    assert [*tmp_path.iterdir()] == [out] and out.read_bytes() == b"mine"
    assert caught.type is KeyboardInterrupt or "no room left" in str(caught.value)
