"""Checkpoints of every layout become the same networks, and a bad one becomes a sentence."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.loading.diffusers_keys import read_configs, vae_name
from instruct_pix2pix.engine.loading.loader import Networks, load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.unet import UNet, UNetConfig
from instruct_pix2pix.engine.precision import Machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.checkpoints import ema_twin
from tools.random_checkpoint import main, write_random_checkpoint
from tools.reference_networks import CPU, DEMO, SMALL, diffusers_pipeline, ldm_state, randomized, unet_twin, write_yaml

HALF = Machine(torch.device("cpu"), torch.float16)
UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_yaml(tmp_path_factory.mktemp("config") / "small.yaml", SMALL)


@pytest.fixture(scope="module")
def original(tmp_path_factory, config) -> Path:
    """Return a half-precision checkpoint with its yaml beside it."""
    path = tmp_path_factory.mktemp("original") / "original.safetensors"
    write_random_checkpoint(path, config)
    return path


@pytest.fixture(scope="module")
def networks(original) -> Networks:
    return load_networks(original, CPU)[1]


@pytest.fixture
def copied(tmp_path, original, config):
    """Return a function that writes the checkpoint with changed tensors (None removes one)."""

    def copy(changes: dict[str, torch.Tensor | None], name: str = "copy.safetensors", yaml: Path = config) -> Path:
        state: dict[str, torch.Tensor | None] = {**load_file(original), **changes}
        kept = {key: value for key, value in state.items() if value is not None}
        path = tmp_path / name
        if not changes and path.suffix == original.suffix:
            os.link(original, path)
        elif path.suffix == ".safetensors":
            save_file(kept, path)
        else:
            torch.save({"state_dict": kept}, path)
        shutil.copyfile(yaml, path.with_suffix(".yaml"))
        return path

    return copy


def same(ours: Networks, theirs: Networks) -> bool:
    a, b = ldm_state(ours), ldm_state(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def sentence(path: Path) -> str:
    """Return what a user is told when this does not load."""
    with pytest.raises(UserError) as caught:
        EditModel.load(path, CPU)
    told = str(caught.value)
    assert "\n" not in told and told.endswith(".") and len(told) < 500
    return told


def diffusers_folder(networks: Networks, path: Path, safe: bool = True) -> Path:
    """Save the networks as diffusers' own pipeline does."""
    diffusers_pipeline(networks).save_pretrained(path, safe_serialization=safe)
    text = path / "text_encoder" / "model.safetensors"
    if not safe and text.exists():  # transformers 5 writes nothing else
        torch.save(load_file(text), text.with_name("pytorch_model.bin"))
        text.unlink()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, networks) -> Path:
    pytest.importorskip("diffusers")
    return diffusers_folder(networks, tmp_path_factory.mktemp("folder") / "model")


def cloned(folder: Path, to: Path) -> Path:
    """Copy a diffusers folder. Its weights are linked, so a test removes a file before it writes another."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copyfile)(source, target)

    shutil.copytree(folder, to, copy_function=copy)
    return to


def changed_copy(folder: Path, to: Path, part: str, **changes: object) -> Path:
    """Copy a diffusers folder, with other values in the config of one part."""
    cloned(folder, to)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    values = json.loads((to / part / name).read_text("utf-8"))
    (to / part / name).write_text(json.dumps({**values, **changes}), "utf-8")
    return to


# --- every layout is the same model ---------------------------------------------------------------------


def test_the_weights_are_those_of_the_file(original, networks):
    state = load_file(original)
    for key, value in ldm_state(networks).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].float()), key


def test_a_ckpt_holds_the_same_model_as_a_safetensors_file(networks, copied):
    assert same(load_networks(copied({}, "model.ckpt"), CPU)[1], networks)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_the_moving_average_wins_over_the_last_weights(tmp_path, config, networks, suffix):
    path = tmp_path / f"ema{suffix}"
    write_random_checkpoint(path, config, ema=True)
    found, both = load_networks(path, CPU)
    assert found.has_ema
    stored = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)["state_dict"]
    for key, value in both.unet.state_dict().items():
        twin = stored["model_ema." + f"diffusion_model.{key}".replace(".", "")]
        assert torch.equal(value, twin.float()), key
        assert not torch.equal(stored[UNET + key], twin), key
    # autoencoder and text encoder are not averaged
    assert same(replace(both, unet=networks.unet), networks)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_diffusers_folder_holds_the_same_model(tmp_path, networks, folder, safe):
    path = folder if safe else diffusers_folder(networks, tmp_path / "bin", safe=False)
    ending = ".safetensors" if safe else ".bin"
    assert {file.suffix for file in path.glob("*/*") if file.suffix != ".json"} == {ending}
    found, loaded = load_networks(path, CPU)
    assert found.editable and same(loaded, networks)
    described = replace(SMALL, size=512)  # a folder does not say for which size it is
    assert set(loaded.config.unet.attention_resolutions) == set(SMALL.unet.attention_resolutions)
    assert replace(loaded.config, unet=SMALL.unet) == described
    assert replace(loaded.config.unet, attention_resolutions=SMALL.unet.attention_resolutions) == SMALL.unet


@pytest.mark.parametrize(
    "shape",
    [
        UNetConfig(model_channels=32, num_head_channels=16, context_dim=24, use_linear_in_transformer=True),
        UNetConfig(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=4, context_dim=24),
        UNetConfig(model_channels=32, attention_resolutions=(4, 2), transformer_depth=(1, 2, 1, 1), context_dim=24),
        DEMO.unet,
    ],
    ids=["head widths", "two levels", "depths", "demo"],
)
def test_the_config_of_a_diffusers_unet_describes_the_same_network(tmp_path, folder, shape):
    unet = randomized(UNet(shape))
    path = cloned(folder, tmp_path / "other")
    shutil.rmtree(path / "unet")
    unet_twin(unet).save_pretrained(path / "unet")
    text = json.loads((path / "text_encoder" / "config.json").read_text("utf-8"))
    text.update(hidden_size=shape.context_dim)
    (path / "text_encoder" / "config.json").write_text(json.dumps(text), "utf-8")
    found = read_configs(path).unet
    x, t, words = torch.randn(1, 8, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, shape.context_dim)
    rebuilt = UNet(found)
    rebuilt.load_state_dict(unet.state_dict())
    assert torch.equal(rebuilt(x, t, words), unet(x, t, words))


def test_one_number_of_heads_may_be_written_for_each_level(tmp_path, folder):
    heads = changed_copy(folder, tmp_path / "changed", "unet", attention_head_dim=[4, 4, 4, 4])
    assert read_configs(heads) == read_configs(folder)
    odd = changed_copy(folder, tmp_path / "odd", "unet", num_attention_heads=[1, 2, 2, 8])
    assert "attention heads" in sentence(odd)


def test_a_diffusers_folder_in_shards_holds_the_same_model(tmp_path, networks, folder):
    path = cloned(folder, tmp_path / "sharded")
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet_twin(networks.unet).save_pretrained(path / "unet", max_shard_size="10MB")
    assert len(list(path.glob("unet/*.safetensors"))) > 1
    assert same(load_networks(path, CPU)[1], networks)


def test_a_diffusers_vae_with_the_attention_names_of_2022_is_read(tmp_path, networks, folder):
    path = cloned(folder, tmp_path / "old")
    state = networks.vae.state_dict()
    old = {vae_name(key, SMALL.vae, old=True): value.contiguous() for key, value in state.items()}
    for name, value in old.items():
        if any(word in name for word in (".query.", ".key.", ".value.", ".proj_attn.")) and value.ndim == 4:
            old[name] = value[:, :, 0, 0].contiguous()
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in old
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    save_file(old, path / "vae" / "diffusion_pytorch_model.safetensors")
    assert same(load_networks(path, CPU)[1], networks)


@pytest.mark.parametrize("prefix", ["", "text_model."], ids=["new", "old"])
def test_both_namings_of_transformers_are_read_in_a_folder(tmp_path, networks, folder, prefix):
    path = cloned(folder, tmp_path / "named")
    state = {key.removeprefix("text_model."): value for key, value in networks.text.state_dict().items()}
    file = path / "text_encoder" / "model.safetensors"
    file.unlink()
    save_file({prefix + key: value for key, value in state.items()}, file)
    assert same(load_networks(path, CPU)[1], networks)


def test_a_checkpoint_with_the_text_names_of_older_transformers_is_read(networks, original, copied):
    names = [name for name in load_file(original) if name.startswith(TEXT)]
    state = load_file(original)
    moved = {name.replace("text_model.", ""): state[name] for name in names}
    assert same(load_networks(copied({**dict.fromkeys(names), **moved}), CPU)[1], networks)


def test_attention_layers_may_be_matrices_or_convolutions(networks, original, copied):
    state = load_file(original)
    names = [name for name in state if name.endswith(("proj_in.weight", "attn_1.q.weight")) and state[name].ndim == 4]
    assert names
    assert same(load_networks(copied({name: state[name][:, :, 0, 0].contiguous() for name in names}), CPU)[1], networks)


def test_a_full_yaml_of_latent_diffusion_is_read(tmp_path):
    """The authors' configs/generate.yaml has much beside the networks; its values are those of SD1."""
    full = OmegaConf.to_container(OmegaConf.load(CONFIGS / "sd1.yaml"))
    assert isinstance(full, dict)
    params = full["model"]["params"]
    full["model"].update(base_learning_rate=1e-4, target="ldm.models.diffusion.ddpm_edit.LatentDiffusion")
    params.update(cond_stage_key="edit", image_size=32, channels=4, use_ema=True, monitor="val/loss_simple_ema")
    params["unet_config"]["params"].update(use_spatial_transformer=True, use_checkpoint=True, legacy=False)
    params["first_stage_config"]["params"].update(embed_dim=4, lossconfig={"target": "torch.nn.Identity"})
    params["first_stage_config"]["params"]["ddconfig"].update(double_z=True, attn_resolutions=[], dropout=0.0)
    params["scheduler_config"] = {"target": "ldm.lr_scheduler.LambdaLinearScheduler", "params": {"f_max": [1.0]}}
    OmegaConf.save(OmegaConf.create({**full, "data": {"target": "main.DataModuleFromConfig"}}), tmp_path / "g.yaml")
    assert load_config(tmp_path / "g.yaml") == load_config(CONFIGS / "sd1.yaml")


# --- moving averages that do not belong ------------------------------------------------------------------


def with_twins(state: dict[str, torch.Tensor], twins: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Return `state` with `twins`, given by the names of the UNet's tensors, as its moving averages."""
    return {**state, **{ema_twin(f"{UNET}{key}"): value.half() for key, value in twins.items()}}


def of_another_model(unet: UNet) -> dict[str, torch.Tensor]:
    """Return weights of the same sizes that are those of another model."""
    generator = torch.Generator().manual_seed(7)
    return {k: v + 0.3 * v.std() * torch.randn(v.shape, generator=generator) for k, v in unet.state_dict().items()}


def without_one(unet: UNet) -> dict[str, torch.Tensor]:
    twins = dict(unet.state_dict())
    del twins["middle_block.1.proj_in.bias"]
    return twins


def of_a_plain_model(unet: UNet) -> dict[str, torch.Tensor]:
    return {**unet.state_dict(), "input_blocks.0.0.weight": unet.state_dict()["input_blocks.0.0.weight"][:, :4]}


def not_numbers(unet: UNet) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(value, float("nan")) for key, value in unet.state_dict().items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("twins_of", [of_another_model, without_one, of_a_plain_model, not_numbers])
def test_averages_that_are_not_those_of_the_weights_are_left_alone_and_it_is_told(networks, copied, twins_of, suffix):
    """A merge keeps the averages of the model that it began with."""
    twins = {key: value.contiguous() for key, value in twins_of(networks.unet).items()}
    path = copied(with_twins({}, twins), f"merge{suffix}")
    _, loaded = load_networks(path, CPU)
    assert same(loaded, networks)
    (note,) = loaded.notes
    assert f"'merge{suffix}'" in note and "the weights are used" in note
    assert EditModel.load(path, CPU).notes == loaded.notes


def test_averages_a_little_off_their_weights_are_used(networks, copied):
    """As a training leaves them; biases and the like, which are small, may be farther off."""
    generator = torch.Generator().manual_seed(8)
    twins = {}
    for key, value in networks.unet.state_dict().items():
        off = 0.05 if value.ndim > 1 else 0.5
        twins[key] = (value + off * value.abs().mean() * torch.randn(value.shape, generator=generator)).half()
    found, loaded = load_networks(copied(with_twins({}, twins)), CPU)
    assert found.has_ema and loaded.notes == ()
    assert all(torch.equal(value, twins[key].float()) for key, value in loaded.unet.state_dict().items())


@pytest.mark.parametrize("recipe", ["sd_merge_recipe", "modelspec.merged_from"])
def test_averages_in_a_file_that_says_it_was_merged_are_left_alone(tmp_path, config, networks, original, recipe):
    """However near they are: a merge with a model that was trained from the same one may not lie far."""
    twins = {ema_twin(f"{UNET}{key}"): (value * 1.001).half() for key, value in networks.unet.state_dict().items()}
    path = tmp_path / "merge.safetensors"
    save_file({**load_file(original), **twins}, path, {recipe: "{}"})
    shutil.copyfile(config, path.with_suffix(".yaml"))
    loaded = load_networks(path, CPU)[1]
    assert same(loaded, networks) and loaded.notes


# --- parts that are missing, and a VAE beside -------------------------------------------------------------


def without(state: dict[str, torch.Tensor], *starts: str) -> dict[str, torch.Tensor | None]:
    return dict.fromkeys(name for name in state if name.startswith(starts))


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        (("first_stage_model.",), "without VAE. An edit needs what is missing: put its VAE beside it as"),
        (("first_stage_model.encoder.",), "without VAE. "),
        ((TEXT,), "without text encoder. An edit needs what is missing: take a complete checkpoint."),
        (("first_stage_model.", TEXT), "without VAE and text encoder. "),
    ],
)
def test_a_checkpoint_without_a_part_says_which(original, copied, starts, told):
    assert told in sentence(copied(without(load_file(original), *starts)))


@pytest.mark.parametrize("form", ["alone", "in a state_dict", "as in a checkpoint", "diffusers"])
def test_a_vae_beside_the_checkpoint_is_taken_where_it_has_none(original, networks, copied, form):
    path = copied(without(load_file(original), "first_stage_model."))
    state = networks.vae.state_dict()
    if form == "alone":
        file = path.with_name("copy.vae.safetensors")
        save_file(state, file)
    elif form == "in a state_dict":
        file = path.with_name("copy.vae.pt")
        torch.save({"state_dict": {**state, "loss.logvar": torch.zeros(())}}, file)
    elif form == "as in a checkpoint":
        file = path.with_name("copy.vae.ckpt")
        torch.save({f"first_stage_model.{key}": value for key, value in state.items()}, file)
    else:
        file = path.with_name("copy.vae.safetensors")
        save_file({vae_name(key, SMALL.vae): value for key, value in state.items()}, file)
    found, loaded = load_networks(path, CPU)
    assert found.editable and found.vae == file and file.name in found.reason
    assert same(loaded, networks)


def test_a_file_beside_the_checkpoint_that_is_no_vae_is_not_one(original, copied):
    path = copied(without(load_file(original), "first_stage_model."))
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, path.with_name("copy.vae.safetensors"))
    assert "without VAE" in sentence(path)
    path.with_name("copy.vae.safetensors").write_bytes(b"")
    assert "'copy.vae.safetensors' is empty" in sentence(path)


# --- what trainers leave around the weights ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "state_dict.", "_orig_mod.", "module.model.", "model._orig_mod."]
)
def test_prefixes_that_trainers_leave_are_taken_off(networks, original, copied, prefix, suffix):
    state = load_file(original)
    changes = {**dict.fromkeys(state), **{prefix + name: value for name, value in state.items()}}
    assert same(load_networks(copied(changes, f"copy{suffix}"), CPU)[1], networks)


def test_a_compiled_unet_in_a_checkpoint_is_read(networks, original, copied):
    state = load_file(original)
    moved = {name.replace(UNET, f"{UNET}_orig_mod."): value for name, value in state.items()}
    assert same(load_networks(copied({**dict.fromkeys(state), **moved}), CPU)[1], networks)


@pytest.mark.parametrize(
    "keys",
    [("model",), ("module",), ("state_dict", "state_dict"), ("model", "state_dict"), ("state_dict", "model")],
    ids="/".join,
)
def test_dicts_that_trainers_wrap_a_model_in_are_opened(tmp_path, config, networks, original, keys):
    content: dict[str, object] = dict(load_file(original))
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "wrapped.ckpt")
    shutil.copyfile(config, tmp_path / "wrapped.yaml")
    assert same(load_networks(tmp_path / "wrapped.ckpt", CPU)[1], networks)


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "a scale for each row"])
def test_weights_in_8_bits_are_multiplied_by_their_scale(networks, original, copied, name, rows):
    """ComfyUI's 'scaled fp8': weight = 8-bit number * scale."""
    changes: dict[str, torch.Tensor | None] = {f"{UNET}scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    expected = {}
    for key, value in networks.unet.state_dict().items():
        if key.endswith(("to_q.weight", "in_layers.2.weight")):
            largest = value.abs().flatten(1).amax(1) if rows else value.abs().max()
            scale = (largest / 448).clamp(min=1e-9)
            shaped = scale.view(-1, *(1,) * (value.ndim - 1)) if rows else scale
            packed = (value / shaped).to(torch.float8_e4m3fn)
            changes |= {f"{UNET}{key}": packed, f"{UNET}{key.removesuffix('weight')}{name}": scale}
            expected[key] = packed.float() * shaped
    loaded = load_networks(copied(changes), CPU)[1].unet.state_dict()
    assert len(expected) > 10
    for key, value in networks.unet.state_dict().items():
        assert torch.equal(loaded[key], expected.get(key, value)), key
        assert (loaded[key] - value).norm() <= 0.04 * value.norm() + 1e-6, key


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": torch.zeros(128, 128, dtype=torch.uint8)},
        {"weight": torch.zeros(128, 128, dtype=torch.int8), "scale_weight": torch.ones(())},
        {"weight_scale": torch.ones(128, 4)},
        {"weight_scale_inv": torch.ones(1, 1)},
        {"weight.absmax": torch.ones(64)},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_weights_packed_in_another_way_are_refused(copied, changes):
    stem = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q."
    told = sentence(copied({stem + name: value for name, value in changes.items()}))
    assert "packed in a way that this program does not read" in told and "to_q" in told


# --- memory -------------------------------------------------------------------------------------------


def in_file(module: nn.Module, path: Path) -> dict[str, bool]:
    """Tell of each weight whether it lies in a mapping of the file, from the kernel's own list."""
    ranges = []
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        if line.endswith(str(path)):
            begin, end = line.split(" ")[0].split("-")
            ranges.append((int(begin, 16), int(end, 16)))
    return {
        key: any(begin <= value.data_ptr() < end for begin, end in ranges) for key, value in module.state_dict().items()
    }


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its mappings")
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_weights_of_the_running_format_stay_in_the_file(copied, suffix):
    path = copied({}, f"mapped{suffix}")
    networks = load_networks(path, HALF)[1]
    for module in (networks.unet, networks.vae, networks.text):
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        wide = {key for key, shape in shapes.items() if len(shape) == 4 and shape[2:] != (1, 1)}
        for key, mapped in in_file(module, path).items():
            assert mapped == (key not in wide), key  # only those are laid out anew: channels last
    converted = load_networks(path, CPU)[1]
    assert not any(in_file(converted.unet, path).values())


def test_loading_imports_no_compiler(original):
    """The machinery behind torch.compile takes seconds to import, and nothing here compiles."""
    import subprocess
    import sys

    code = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, 'modules');"
        "from instruct_pix2pix.engine.loading.loader import load_networks;"
        "from instruct_pix2pix.engine.precision import Machine;"
        "load_networks(Path(sys.argv[1]), Machine(torch.device('cpu'), torch.float32));"
        "print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(original)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (run.stdout.strip(), run.stderr) == ("False", "")


# --- what cannot be loaded ----------------------------------------------------------------------------


def test_a_missing_tensor_is_named(copied):
    name = f"{UNET}middle_block.1.proj_in.bias"
    assert name in sentence(copied({name: None}))


@pytest.mark.parametrize("shape", [(128, 64), (24, 128), (128, 24, 3, 3), (128 * 24,)])
def test_a_tensor_of_another_shape_is_named(copied, shape):
    """(24, 128) has as many numbers as the right shape, transposed."""
    name = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    told = sentence(copied({name: torch.zeros(shape, dtype=torch.float16)}))
    assert name in told and str(list(shape)) in told and "[128, 24]" in told


def test_a_plain_stable_diffusion_checkpoint_is_told_apart(original, copied):
    name = f"{UNET}input_blocks.0.0.weight"
    told = sentence(copied({name: load_file(original)[name][:, :4].clone()}))
    assert "Stable Diffusion" in told and "instruct-pix2pix checkpoint" in told


def test_a_small_checkpoint_without_its_yaml_is_refused(copied):
    path = copied({})
    path.with_suffix(".yaml").unlink()
    assert "cannot run" in sentence(path)


def test_a_file_that_is_none_and_a_missing_file_are_told(tmp_path):
    (tmp_path / "text.ckpt").write_text("not weights", "utf-8")
    assert "not a checkpoint" in sentence(tmp_path / "text.ckpt")
    assert "does not exist" in sentence(tmp_path / "nothing.safetensors")


def changed_yaml(config: Path, path: Path, key: str, value: object) -> Path:
    loaded = OmegaConf.load(config)
    OmegaConf.update(loaded, f"model.params.{key}", value, force_add=True)
    OmegaConf.save(loaded, path)
    return path


@pytest.mark.parametrize("target", ["os.system", "torch.nn.Linear", "ldm.models.autoencoder.VQModel", "", 7, None])
@pytest.mark.parametrize("section", ["unet_config", "first_stage_config", "cond_stage_config"])
def test_a_yaml_can_name_no_other_class(tmp_path, config, copied, section, target):
    yaml = changed_yaml(config, tmp_path / "evil.yaml", f"{section}.target", target)
    told = sentence(copied({}, yaml=yaml))
    assert repr(target) in told and "not one of the networks" in told


def test_a_yaml_reads_nothing_of_the_environment(tmp_path, config, copied, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THIS_MACHINE", "hidden")
    yaml = changed_yaml(config, tmp_path / "evil.yaml", "unet_config.target", "${oc.env:SECRET_OF_THIS_MACHINE}")
    assert "hidden" not in sentence(copied({}, yaml=yaml))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model: 7",
        "model: {params: []}",
        "- 1",
        "a: [1",
        "\x00",
        "a: !!python/object/apply:os.system ['touch owned']",
        "model: {params: {unet_config: [], first_stage_config: {}, cond_stage_config: {}}}",
        "model: {params: {unet_config: unet, first_stage_config: vae, cond_stage_config: text}}",
        "a: &a [" + "x," * 9 + "]\nb: &b [" + "*a," * 9 + "]\nc: [" + "*b," * 9 + "]",
    ],
)
def test_a_yaml_that_is_no_model_config_is_told(tmp_path, copied, text):
    yaml = tmp_path / "broken.yaml"
    yaml.write_text(text, "utf-8")
    assert "copy.yaml is not a model config" in sentence(copied({}, yaml=yaml))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unet_config.params.model_channels", 33),
        ("unet_config.params.model_channels", "wide"),
        ("unet_config.params.model_channels", 10**30),
        ("unet_config.params.num_heads", 0),
        ("unet_config.params.num_heads", 7),
        ("unet_config.params.num_res_blocks", 10**9),
        ("unet_config.params.channel_mult", []),
        ("unet_config.params.channel_mult", [1] * 50),
        ("unet_config.params.transformer_depth", [1]),
        ("unet_config.params.context_dim", 768),
        ("unet_config.params.in_channels", 9),
        ("unet_config.params.adm_in_channels", 64),
        ("first_stage_config.params.ddconfig.ch_mult", None),
        ("first_stage_config.params.ddconfig.z_channels", 16),
        ("cond_stage_config.params.heads", 5),
        ("cond_stage_config.params.layers", 10**9),
        ("cond_stage_config.params.vocab_size", 10),
        ("cond_stage_config.params.context_length", 7),
        ("scale_factor", 0),
        ("scale_factor", float("nan")),
        ("timesteps", 10**12),
        ("linear_start", -1),
        ("linear_end", [1, 2]),
        ("size", 10**6),
    ],
)
def test_a_yaml_of_networks_that_cannot_work_is_told(tmp_path, config, copied, key, value):
    told = sentence(copied({}, yaml=changed_yaml(config, tmp_path / "odd.yaml", key, value)))
    assert "copy." in told and "config" in told


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"in_channels": "eight"}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"cross_attention_dim": 1024}),
        ("vae", {"block_out_channels": [0, 0]}),
        ("text_encoder", {"hidden_act": "gelu"}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"vocab_size": 99}),
        ("scheduler", {"prediction_type": "v_prediction"}),
    ],
)
def test_a_diffusers_folder_of_another_kind_is_told(tmp_path, folder, part, changes):
    assert "'changed'" in sentence(changed_copy(folder, tmp_path / "changed", part, **changes))


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "null"])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_diffusers_folder_with_a_broken_config_is_told(tmp_path, folder, part, text):
    path = changed_copy(folder, tmp_path / "changed", part)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (path / part / name).write_text(text, "utf-8")
    assert "'changed'" in sentence(path)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_diffusers_folder_without_a_part_is_told(tmp_path, folder, part):
    path = changed_copy(folder, tmp_path / "changed", part)
    for file in (path / part).glob("*.safetensors"):
        file.unlink()
    without = f"without {'VAE' if part == 'vae' else 'text encoder'}"
    assert without in sentence(path)
    shutil.rmtree(path / part)
    assert without in sentence(path)


def test_a_diffusers_folder_without_a_config_is_told(tmp_path, folder):
    path = changed_copy(folder, tmp_path / "changed", "vae")
    (path / "vae" / "config.json").unlink()
    assert "not a complete diffusers folder" in sentence(path)


# --- the program that writes random checkpoints ---------------------------------------------------------


def test_random_checkpoints_depend_on_their_seed_alone(tmp_path, config, networks):
    again, other = tmp_path / "again.safetensors", tmp_path / "other.safetensors"
    assert main([str(again), "--config", str(config)]) == 0
    assert main([str(other), "--config", str(config), "--seed", "1", "--dtype", "bf16"]) == 0
    assert same(load_networks(again, CPU)[1], networks)
    assert not same(load_networks(other, CPU)[1], networks)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".yaml"}


def test_a_random_checkpoint_of_another_suffix_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "model.bin")]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_twins_are_named_as_training_names_them():
    assert ema_twin(f"{UNET}input_blocks.1.0.in_layers.2.weight") == (
        "model_ema.diffusion_modelinput_blocks10in_layers2weight"
    )
