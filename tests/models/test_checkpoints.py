"""What a model file is, told from its header: every kind, every format, and every way a file can lie."""

import collections
import datetime
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._utils import _rebuild_tensor_v2

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.checkpoints import Suited, ema_twin, inspect, short_hash, weight_files
from instruct_pix2pix.models.weights_files import header, read_weights
from instruct_pix2pix.settings import EditSettings

LDM = "model.diffusion_model."
CONV = LDM + "input_blocks.0.0.weight"
TO_K = LDM + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LABEL = LDM + "label_emb.0.0.weight"
VAE = {
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
}
TEXT = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (64, 768)}

Shapes = dict[str, tuple[int, ...]]
SECOND_TEXT: Shapes = {"conditioner.embedders.1.model.token_embedding.weight": (64, 1280)}


def ldm(channels: int, context: int, label: int = 0, width: int = 320) -> Shapes:
    """An LDM checkpoint in small: the layers that tell, with their real widths."""
    label_shapes: Shapes = {LABEL: (16, label), **SECOND_TEXT} if label else {}
    return {CONV: (width, channels, 3, 3), TO_K: (width, context), **label_shapes, **VAE, **TEXT}


def diffusers_unet(channels: int, context: int, label: int = 0) -> Shapes:
    label_shapes: Shapes = {"add_embedding.linear_1.weight": (16, label)} if label else {}
    to_k = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return {"conv_in.weight": (320, channels, 3, 3), to_k: (320, context), **label_shapes}


EDM: Shapes = {"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}
EMA: Shapes = {
    "model_ema.diffusion_modelinput_blocks00weight": (320, 8, 3, 3),
    "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn2to_kweight": (320, 768),
}
LORA: Shapes = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320),
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 4),
}
PEFT_LORA: Shapes = {"unet.conv_in.lora_A.weight": (4, 8, 3, 3), "unet.conv_in.lora_B.weight": (320, 4, 1, 1)}
BARE_VAE: Shapes = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}

# name: (tensors, kind, layout, family, channels, context)
KINDS: dict[str, tuple[Shapes, str, str, str, int | None, int | None]] = {
    "ip2p-sd1": (ldm(8, 768), "instruct-pix2pix", "ldm", "sd1", 8, 768),
    "ip2p-sdxl": (ldm(8, 2048, 2816), "instruct-pix2pix", "ldm", "sdxl", 8, 2048),
    "ip2p-small": (ldm(8, 160, width=96), "instruct-pix2pix", "ldm", "other", 8, 160),
    "ip2p-sdxl-small": (ldm(8, 64, 88, 32), "instruct-pix2pix", "ldm", "other", 8, 64),
    "cosxl-edit-small": ({**ldm(8, 64, 88, 32), **EDM}, "CosXL-Edit", "ldm", "other", 8, 64),
    "cosxl-edit": ({**ldm(8, 2048, 2816), **EDM}, "CosXL-Edit", "ldm", "sdxl", 8, 2048),
    "cosxl": ({**ldm(4, 2048, 2816), **EDM}, "Stable Diffusion", "ldm", "sdxl", 4, 2048),
    "sd1": (ldm(4, 768), "Stable Diffusion", "ldm", "sd1", 4, 768),
    "sd2": (ldm(4, 1024), "Stable Diffusion", "ldm", "sd2", 4, 1024),
    "sdxl": (ldm(4, 2048, 2816), "Stable Diffusion", "ldm", "sdxl", 4, 2048),
    "refiner": (ldm(4, 1280, 2560, width=384), "refiner", "ldm", "other", 4, 1280),
    "inpainting": (ldm(9, 768), "inpainting", "ldm", "sd1", 9, 768),
    "depth": (ldm(5, 1024), "depth-to-image", "ldm", "sd2", 5, 1024),
    "odd": (ldm(6, 768), "unknown", "ldm", "sd1", 6, 768),
    "bare": (
        {k.removeprefix(LDM): v for k, v in ldm(8, 768).items()},
        "instruct-pix2pix", "ldm", "sd1", 8, 768,
    ),
    "bare-prefixed": (
        {k.removeprefix("model."): v for k, v in ldm(8, 768).items()},
        "instruct-pix2pix", "ldm", "sd1", 8, 768,
    ),
    "diffusers-unet": (diffusers_unet(8, 768), "instruct-pix2pix", "diffusers", "sd1", 8, 768),
    "video": (
        {**ldm(8, 1024), LDM + "input_blocks.1.1.time_stack.0.attn1.to_k.weight": (320, 320)},
        "video", "ldm", "sd2", 8, 1024,
    ),
    "zero123": ({**ldm(8, 768), "cc_projection.weight": (768, 772)}, "novel view", "ldm", "sd1", 8, 768),
    "no-text": ({CONV: (320, 8, 3, 3)}, "unknown", "ldm", "other", 8, None),
    "vae": (BARE_VAE, "VAE", "ldm", "", None, None),
    "vae-in-checkpoint": (VAE, "VAE", "ldm", "", None, None),
    "vae-diffusers": (
        {**BARE_VAE, "decoder.mid_block.resnets.0.conv1.weight": (8, 8, 3, 3)},
        "VAE", "diffusers", "", None, None,
    ),
    "lora": (LORA, "LoRA", "lora", "", None, None),
    "lora-peft": (PEFT_LORA, "LoRA", "lora", "", None, None),
    "text": (
        {"text_model.embeddings.token_embedding.weight": (64, 768)}, "text encoder", "none", "", None, None,
    ),
    "embedding": ({"emb_params": (2, 768)}, "embedding", "none", "", None, None),
    "controlnet": (
        {
            "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
            "control_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        },
        "ControlNet", "ldm", "", None, None,
    ),
    "controlnet-diffusers": (
        {**diffusers_unet(4, 768), "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
        "ControlNet", "diffusers", "", None, None,
    ),
    "sd3": ({LDM + "joint_blocks.0.x_block.attn.qkv.weight": (12, 4)}, "SD3", "none", "", None, None),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": (12, 4)}, "FLUX", "none", "", None, None),
    "other-model": ({"layers.0.qkv.weight": (12, 4)}, "unknown", "none", "", None, None),
}  # fmt: skip


def tensors_of(shapes: Shapes, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}


def write(path: Path, shapes: Shapes, dtype: torch.dtype = torch.float16) -> Path:
    """Write by suffix, as the programs do that people get their files from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(shapes, dtype)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        torch.save(
            {"state_dict": tensors, "global_step": 1},
            path,
            _use_new_zipfile_serialization=path.suffix != ".pt",
        )
    return path


def raw_safetensors(path: Path, entries: object, data: bytes = b"", length: int | None = None) -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # as the safetensors library does, for aligned data
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def refusal(path: Path) -> str:
    """The sentence a user reads."""
    with pytest.raises(UserError) as told:
        inspect(path)
    message = str(told.value)
    assert message.startswith("'")  # the file's name
    assert message.endswith(".")
    assert "Error" not in message and "\n" not in message
    return message


# --- what it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_told_from_its_tensors_in_every_format(tmp_path, name, suffix):
    shapes, kind, layout, family, channels, context = KINDS[name]
    path = write(tmp_path / f"file{suffix}", shapes)
    found = inspect(path)
    assert (found.kind, found.layout, found.family) == (kind, layout, family)
    assert (found.in_channels, found.context_dim) == (channels, context)
    assert found.editable is (kind in ("instruct-pix2pix", "CosXL-Edit") and not found.missing)
    assert found.missing == (("VAE", "text encoder") if name == "diffusers-unet" else ())
    assert bool(found.advice) is not found.editable
    assert found.size_bytes == path.stat().st_size
    assert (found.path, found.dtype, found.has_ema) == (path, "float16", False)


def test_the_name_of_a_file_counts_for_nothing(tmp_path):
    liar = write(tmp_path / "v1-5-pruned-emaonly.safetensors", ldm(8, 768))
    assert inspect(liar).editable
    other = write(tmp_path / "instruct-pix2pix-00-22000.safetensors", ldm(4, 768))
    assert not inspect(other).editable
    renamed = liar.rename(tmp_path / "really-safetensors.ckpt")
    assert inspect(renamed).kind == "instruct-pix2pix"
    renamed_zip = write(tmp_path / "a.ckpt", ldm(8, 768)).rename(tmp_path / "really-a-zip.safetensors")
    assert inspect(renamed_zip).kind == "instruct-pix2pix"


def test_label_and_reason_say_it_in_words(tmp_path):
    found = inspect(write(tmp_path / "a.safetensors", ldm(8, 768)))
    assert found.label == "instruct-pix2pix, SD1, 8 channels"
    assert found.reason == "the first convolution takes 8 channels, cross-attention is 768 wide"
    assert inspect(write(tmp_path / "b.safetensors", LORA)).label == "LoRA"
    small = inspect(write(tmp_path / "c.safetensors", ldm(8, 160, width=96)))
    assert small.label == "instruct-pix2pix, context 160, 8 channels"
    sdxl = inspect(write(tmp_path / "d.safetensors", {**ldm(8, 2048, 2816), **EDM}))
    assert "2816" in sdxl.reason and "edm_vpred" in sdxl.reason


def test_a_plain_model_is_answered_with_what_to_do(tmp_path):
    advice = inspect(write(tmp_path / "a.safetensors", ldm(4, 768))).advice
    assert "takes no picture to edit" in advice and "timbrooks/instruct-pix2pix" in advice


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_moving_average_weights_are_noticed(tmp_path, suffix):
    found = inspect(write(tmp_path / f"a{suffix}", {**ldm(8, 768), **EMA, "model_ema.decay": ()}))
    assert found.has_ema and "EMA" in found.reason
    assert ema_twin(CONV) in EMA
    other = {name: (320, 4, 3, 3) if len(shape) == 4 else shape for name, shape in EMA.items()}
    for stray in (other, dict(list(EMA.items())[:1])):
        found = inspect(write(tmp_path / f"c{suffix}", {**ldm(8, 768), **stray}))
        assert not found.has_ema and "not of this model" in found.reason
    counters_only = {**ldm(8, 768), "model_ema.decay": (), "model_ema.num_updates": ()}
    assert not inspect(write(tmp_path / f"b{suffix}", counters_only)).has_ema


def test_the_number_type_is_that_of_the_unet(tmp_path):
    tensors = tensors_of(ldm(8, 768), torch.bfloat16)
    tensors["alphas_cumprod"] = torch.zeros(1000)
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.zeros(1, 77).long()
    save_file(tensors, tmp_path / "a.safetensors")
    assert inspect(tmp_path / "a.safetensors").dtype == "bfloat16"
    tensors[TO_K] = tensors[TO_K].float()
    save_file(tensors, tmp_path / "b.safetensors")
    assert inspect(tmp_path / "b.safetensors").dtype == "mixed"


def test_a_first_layer_of_an_odd_shape_is_unknown_and_not_an_error(tmp_path):
    assert inspect(write(tmp_path / "a.safetensors", {CONV: (8,), TO_K: (768,)})).kind == "unknown"
    assert inspect(write(tmp_path / "b.safetensors", {CONV: (320, 8, 3, 3), TO_K: (768,)})).kind == "unknown"


def test_a_tensor_name_cannot_smuggle_control_codes_into_a_sentence(tmp_path):
    name = "\x1b[2J" + "x" * 1000 + ".lora_down.weight"
    assert inspect(write(tmp_path / "a.safetensors", {name: (4, 4)})).reason.isprintable()
    assert len(inspect(tmp_path / "a.safetensors").reason) < 200


def test_the_unet_of_a_diffusers_folder_by_itself_is_sent_to_its_folder(tmp_path):
    write(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors", diffusers_unet(8, 768))
    assert "take a complete checkpoint" in inspect(tmp_path / "model" / "unet").advice
    (tmp_path / "model" / "model_index.json").write_text("{}")
    assert "part of the model 'model': name that folder" in inspect(tmp_path / "model" / "unet").advice


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_an_edit_needs_and_is_not_there_is_named(tmp_path, suffix):
    whole = ldm(8, 768)
    for parts, missing in ((VAE, "VAE"), (TEXT, "text encoder"), ({**VAE, **TEXT}, "VAE and text encoder")):
        found = inspect(write(tmp_path / f"a{suffix}", {k: v for k, v in whole.items() if k not in parts}))
        assert not found.editable and found.label == f"instruct-pix2pix, SD1, 8 channels, without {missing}"
        assert ("a.vae.safetensors" in found.advice) is (missing == "VAE")
    write(tmp_path / "a.vae.pt", BARE_VAE)
    found = inspect(write(tmp_path / f"a{suffix}", {k: v for k, v in whole.items() if k not in VAE}))
    assert found.editable and found.vae == tmp_path / "a.vae.pt" and "a.vae.pt" in found.reason
    plain = {k: v for k, v in ldm(4, 768).items() if k not in VAE}
    assert inspect(write(tmp_path / f"b{suffix}", plain)).label == "Stable Diffusion, SD1, 4 channels"


# --- diffusers folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".safetensors", ".fp16.safetensors", ".bin"])
@pytest.mark.parametrize(
    ("shapes", "kind", "family"),
    [
        (diffusers_unet(8, 768), "instruct-pix2pix", "sd1"),
        (diffusers_unet(8, 2048, 2816), "instruct-pix2pix", "sdxl"),
        (diffusers_unet(4, 768), "Stable Diffusion", "sd1"),
        (diffusers_unet(9, 768), "inpainting", "sd1"),
    ],
)
def test_a_diffusers_folder_is_told_by_its_unet(tmp_path, shapes, kind, family, ending):
    (tmp_path / "model_index.json").write_text("{}")
    unet = write(tmp_path / "unet" / f"diffusion_pytorch_model{ending}", shapes)
    vae = write(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", BARE_VAE)
    for folder, size in (
        (tmp_path, unet.stat().st_size + vae.stat().st_size),
        (unet.parent, unet.stat().st_size),
    ):
        found = inspect(folder)
        assert (found.kind, found.family, found.layout) == (kind, family, "diffusers")
        assert found.size_bytes == size


def test_ultraedit_which_has_no_unet_is_named_with_a_sentence(tmp_path):
    """Its folder holds SD3's transformer."""
    write(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", {"pos_embed.proj.weight": (16, 48, 2, 2)})
    found = inspect(tmp_path)
    assert found.kind == "SD3" and not found.editable
    assert "UltraEdit" in found.advice and "UNets" in found.advice


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "CosXL-Edit"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "v_prediction"}, "CosXL-Edit"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, "instruct-pix2pix"),
        ({"_class_name": "EulerDiscreteScheduler"}, "instruct-pix2pix"),
        ([], "instruct-pix2pix"),
    ],
)
def test_a_folder_of_cosxl_is_told_by_its_scheduler(tmp_path, scheduler, kind):
    for part, shapes in (("unet", diffusers_unet(8, 2048, 2816)), ("vae", BARE_VAE)):
        write(tmp_path / part / "diffusion_pytorch_model.safetensors", shapes)
    words: Shapes = {"text_model.embeddings.token_embedding.weight": (64, 768)}
    write(tmp_path / "text_encoder" / "model.safetensors", words)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    found = inspect(tmp_path)
    assert (found.kind, found.missing) == (kind, ("text encoder",))  # SDXL reads two
    write(tmp_path / "text_encoder_2" / "model.safetensors", words)
    assert inspect(tmp_path).editable


@pytest.mark.parametrize(
    ("name", "suited"),
    [
        ("ip2p-sd1", Suited(7.5, 1.5, 20, 512)),
        ("ip2p-sdxl", Suited(3.0, 1.5, 30, 768)),
        ("cosxl-edit", Suited(7.0, 1.5, 20, 1024)),
        ("ip2p-small", Suited(7.5, 1.5, 20, None)),
    ],
)
def test_the_kind_says_which_settings_suit_it_and_a_persons_own_win(tmp_path, name, suited):
    found = inspect(write(tmp_path / "file.safetensors", KINDS[name][0])).suited
    assert found == suited
    asked = EditSettings(text_cfg=9.0)
    filled = found.fill(asked, {"text_cfg"})
    assert (filled.text_cfg, filled.image_cfg, filled.steps) == (9.0, suited.image_cfg, suited.steps)


def test_shards_are_read_together_through_their_index(tmp_path):
    shapes = diffusers_unet(8, 768)
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, key in zip(names, shapes, strict=True):
        write(tmp_path / "unet" / name, {key: shapes[key]})
    index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(shapes, names, strict=True))}))
    found = inspect(tmp_path)
    assert (found.kind, found.in_channels, found.context_dim) == ("instruct-pix2pix", 8, 768)
    (tmp_path / "unet" / names[1]).unlink()
    assert names[1] in refusal(tmp_path)


@pytest.mark.parametrize(
    "target", ["../../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "", "..", ".", 7, None]
)
def test_an_index_of_shards_cannot_point_out_of_its_folder(tmp_path, target):
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": target}}))
    assert "not a list of weight files" in refusal(tmp_path)


def test_full_precision_ema_and_safetensors_come_first_in_a_folder(tmp_path):
    best_first = [
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.bin",
    ]  # fmt: skip
    for name in best_first:
        (tmp_path / name).touch()
    for name in best_first:
        assert weight_files(tmp_path) == (tmp_path / name,)
        (tmp_path / name).unlink()
    assert weight_files(tmp_path) == ()


def test_a_folder_of_checkpoints_is_not_taken_for_a_model(tmp_path):
    write(tmp_path / "one.safetensors", ldm(8, 768))
    assert "folder without a model" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "folder without a model" in refusal(tmp_path / "empty")


# --- no data is read -------------------------------------------------------------------------------


def bytes_read() -> int:
    """All bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def peak_memory() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(scope="module")
def real_unet() -> Shapes:
    """Names and shapes of a whole SD1 instruct-pix2pix UNet as diffusers builds it."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's account of what was read")
def test_a_file_of_gigabytes_is_told_without_reading_its_data(tmp_path, real_unet):
    entries, end = {}, 0
    for name, shape in real_unet.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    path = raw_safetensors(tmp_path / "big.safetensors", entries)
    header_size = path.stat().st_size
    os.truncate(path, header_size + end)  # a hole on disk
    assert path.stat().st_size > 3_000_000_000

    before, memory = bytes_read(), peak_memory()
    found = inspect(path)
    assert bytes_read() - before < header_size + 100_000
    assert peak_memory() - memory < 200_000_000
    assert (found.kind, found.family, found.in_channels) == ("instruct-pix2pix", "sd1", 8)
    # Mapped, it costs no memory either.
    assert sum(t.nbytes for t in read_weights(path).values()) == end
    assert peak_memory() - memory < 200_000_000


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's account of what was read")
def test_a_ckpt_is_told_without_reading_its_data(tmp_path):
    path = write(tmp_path / "a.ckpt", {**ldm(8, 768), "filler": (20_000_000,)})
    before = bytes_read()
    assert inspect(path).editable
    assert bytes_read() - before < 200_000


# --- the tensors themselves ------------------------------------------------------------------------


def assorted() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "plain": base, "half": torch.randn(3, 5).half(), "bf16": torch.randn(7).bfloat16(),
        "double": torch.randn(2, 2).double(), "scalar": torch.tensor(3.5), "none": torch.zeros(0, 4),
        "long": torch.arange(5), "byte": torch.arange(9).byte(), "flag": torch.tensor([True, False]),
        "float8": torch.randn(8).to(torch.float8_e4m3fn),
    }  # fmt: skip


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(found[name].double(), tensor.double()), name


def test_mapped_safetensors_equal_what_the_safetensors_library_reads(tmp_path):
    save_file(assorted(), tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path / "a.safetensors"), load_file(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_mapped_ckpt_equals_what_torch_reads(tmp_path, new_format, protocol):
    tensors = assorted()
    if not new_format:
        del tensors["float8"]  # newer than the old format
    tensors["transposed"] = tensors["plain"].T
    tensors["column"] = tensors["plain"][1:, 2]
    tensors["parameter"] = torch.nn.Parameter(torch.randn(3))
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": tensors}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format)
    expected = torch.load(path, weights_only=False)["state_dict"]
    assert_same(read_weights(path), expected)
    assert {n: (i.shape, f"torch.{i.dtype}") for n, i in header(path).items()} == {
        n: (tuple(t.shape), str(t.dtype)) for n, t in expected.items()
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_tensors_are_views_of_the_file_and_writing_to_them_leaves_it_alone(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", ldm(8, 768))
    before = path.read_bytes()
    tensors = read_weights(path)
    addresses = [t.data_ptr() for t in tensors.values()]
    assert max(addresses) - min(addresses) < len(before)  # one mapping holds them all
    tensors[CONV].fill_(1.0)
    assert path.read_bytes() == before


def test_a_module_s_own_state_dict_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "a.bin")  # an OrderedDict with _metadata
    assert_same(read_weights(tmp_path / "a.bin"), dict(module.state_dict()))


# --- pickles ---------------------------------------------------------------------------------------


@pytest.fixture
def lightning(monkeypatch):
    """A training program's classes, importable only while the test writes its file."""
    names = (
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.callbacks.model_checkpoint",
    )
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    monkeypatch.setattr(sys.modules[names[-1]], "ModelCheckpoint", callback, raising=False)
    return callback


def test_a_training_checkpoint_with_other_objects_beside_the_weights_is_read(tmp_path, lightning, monkeypatch):
    instance = lightning()
    instance.best = {"score": torch.tensor(1.0)}
    everything = {
        "epoch": 3, "callbacks": {lightning: {"best_model_score": torch.tensor(0.5), "object": instance}},
        "state_dict": tensors_of(ldm(8, 768)), "lr": 1e-4, "loops": None, "done": True, "names": {"a", "b"},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}],
    }  # fmt: skip
    torch.save(everything, tmp_path / "epoch=3.ckpt")
    for name in [n for n in sys.modules if n.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    assert inspect(tmp_path / "epoch=3.ckpt").kind == "instruct-pix2pix"
    assert read_weights(tmp_path / "epoch=3.ckpt").keys() == ldm(8, 768).keys()
    assert "pytorch_lightning" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "name",
    [
        "pathlib._local.PosixPath",  # of Python 3.13
        "pathlib._local.WindowsPath",
        "transformers.training_args.TrainingArguments",
        "easydict.EasyDict",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    ],
)
def test_objects_of_classes_that_are_not_here_are_passed_over(tmp_path, monkeypatch, name, protocol):
    module, _, last = name.rpartition(".")
    stand_in = type(last, (), {"__module__": module, "__qualname__": last})
    holder = types.ModuleType(module)
    setattr(holder, last, stand_in)
    value = stand_in()
    value.state = {"a": [1, 2.5, b"x" * 300, ("b", None)], "huge": 10**700}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, holder)
        for parent in ("transformers", "easydict", "deepspeed"):
            if name.startswith(f"{parent}.") and module != parent:
                patch.setitem(sys.modules, parent, types.ModuleType(parent))
        everything = {"state_dict": tensors_of(ldm(8, 768)), "extra": value}
        torch.save(everything, tmp_path / "a.ckpt", pickle_protocol=protocol)
    before = set(sys.modules)
    assert inspect(tmp_path / "a.ckpt").editable
    assert set(sys.modules) == before


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "value",
    [
        pathlib.PurePosixPath("a/b"),
        pathlib.PureWindowsPath("a/b"),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        datetime.timedelta(1),
        collections.deque([1, 2]),
        collections.defaultdict(list, a=[1]),
        types.SimpleNamespace(a=1),
        np.random.RandomState(1).get_state(),
        np.arange(400.0),
        np.float64(3.5),
        np.dtype("float32"),
        torch.__version__,
        frozenset({1, 2}),
        complex(1, 2),
        range(3),
        bytearray(b"x" * 300),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_that_trainers_leave_beside_the_weights_are_passed_over(tmp_path, value, protocol):
    everything = {"state_dict": tensors_of(ldm(8, 768)), "extra": value}
    torch.save(everything, tmp_path / "a.ckpt", pickle_protocol=protocol)
    assert inspect(tmp_path / "a.ckpt").editable


def test_a_tensor_with_attributes_of_its_own_is_read(tmp_path):
    tensors = tensors_of(ldm(8, 768))
    tensors[TO_K] = torch.nn.Parameter(tensors[TO_K])
    for name in (CONV, TO_K):
        setattr(tensors[name], "group", 3)  # noqa: B010 - torch's tensors have no such attribute by themselves
    torch.save({"state_dict": tensors}, tmp_path / "a.ckpt")
    assert_same(read_weights(tmp_path / "a.ckpt"), dict(tensors))


class Payload:
    """Pickles as a call that leaves a mark on disk."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def zipped(path: Path, data_pkl: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/data/0", b"\0" * 64)
    return path


@pytest.mark.parametrize("where", ["beside", "inside", "alone", "raw", "raw-old", "legacy"])
@pytest.mark.parametrize("what", ["system", "eval", "exec", "getattr"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path, where, what):
    mark = tmp_path / "the payload ran"
    code = f"open({str(mark)!r}, 'w').close()"
    payload = {
        "system": Payload(os.system, f"touch '{mark}'"),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
    }[what]
    path = tmp_path / "evil.ckpt"
    if where.startswith("raw"):
        path.write_bytes(pickle.dumps({"state_dict": payload}, protocol=0 if where == "raw-old" else 4))
    else:
        tensors = tensors_of(ldm(8, 768))
        content = {
            "beside": {"state_dict": tensors, "extra": payload},
            "inside": {"state_dict": {**tensors, "x": payload}},
        }.get(where, payload)
        torch.save(content, path, _use_new_zipfile_serialization=where != "legacy")
    if where == "raw-old":
        assert "is not a checkpoint" in refusal(path)
    else:
        assert "wants to run code" in refusal(path)
        assert {"system": ".system", "eval": ".eval", "exec": ".exec", "getattr": ".getattr"}[what] in refusal(path)
    with pytest.raises(UserError):
        read_weights(path)
    assert not mark.exists()
    if where == "raw" and what != "getattr":
        pickle.loads(path.read_bytes())
        assert mark.exists(), "the payload of this test works where nothing stops it"


# Programs for the pickle machine that go at the reader itself.
CONTORTIONS = {
    "old-style call": b"(S'touch x'\nios\nsystem\n.",
    "a call of a known name with nonsense": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a change to a known function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__K\x01s\x86b."
    ),
    "a memo of 2^31 places": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "a bytearray of 2^40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a key nested so deep that hashing it ends Python": b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
    "a list that holds itself": b"\x80\x02]q\0h\0a.",
    "an empty stack": b"\x80\x02.",
    "a number as a reference": b"\x80\x02K\x01Q.",
    "an extension code": b"\x80\x02\x82\x01.",
    "no end": b"\x80\x02}q\0(",
    "nothing": b"",
    "not one opcode": b"\xff\xff\xff",
    "a name that is not text": b"\x80\x04K\x01K\x02\x93.",
}


@pytest.mark.parametrize("program", CONTORTIONS)
def test_a_contorted_pickle_is_refused(tmp_path, program):
    refusal(zipped(tmp_path / "a.ckpt", CONTORTIONS[program]))


def test_a_tensor_that_repeats_one_number_a_trillion_times_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}}, tmp_path / "bomb.ckpt")
    assert "larger than its storage" in refusal(tmp_path / "bomb.ckpt")


class View:
    """Pickles as torch pickles a tensor, a view of the storage '0' of 16 floats."""

    def __init__(self, offset, shape, stride):
        self.place = (offset, shape, stride)

    def __reduce__(self):
        return _rebuild_tensor_v2, (pickle.PickleBuffer, *self.place, False, None)


def with_view(path: Path, view: View) -> Path:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", 16) if obj is pickle.PickleBuffer else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"state_dict": {"a": view}})
    return zipped(path, buffer.getvalue())


def test_a_tensor_that_fits_its_storage_exactly_is_read(tmp_path):
    assert read_weights(with_view(tmp_path / "a.ckpt", View(1, (3, 5), (5, 1))))["a"].shape == (3, 5)


@pytest.mark.parametrize(
    "view",
    [
        View(0, (17,), (1,)), View(1, (16,), (1,)), View(0, (2, 2), (100, 1)), View(-1, (2,), (1,)),
        View(0, (2,), (-1,)), View(0, (2,), ()), View(0, (-4,), (1,)), View(0, (2.0,), (1,)), View(0, 2, 1),
    ],
)  # fmt: skip
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, view):
    path = with_view(tmp_path / "a.ckpt", view)
    assert "download it again" in refusal(path)
    with pytest.raises(UserError):
        read_weights(path)


# --- damaged files ---------------------------------------------------------------------------------


def test_a_truncated_safetensors_file_says_how_much_is_missing(tmp_path):
    path = write(tmp_path / "a.safetensors", ldm(8, 768))
    os.truncate(path, path.stat().st_size - 1234)
    assert refusal(path) == "'a.safetensors' is truncated: 1,234 bytes are missing; download it again."
    os.truncate(path, 40)
    assert "is truncated: at least" in refusal(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_truncated_ckpt_says_so(tmp_path, keep, suffix):
    path = write(tmp_path / f"a{suffix}", ldm(8, 768))
    os.truncate(path, int(path.stat().st_size * keep))
    assert "truncated" in refusal(path)


def entry(begin: object, end: object, shape: object = (4,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"a": entry(0, 10 * 2**40, (10 * 2**38,))}, "bytes are missing"),
        ({"a": entry(0, 2**70, (2**68,))}, "damaged"),
        ({"a": entry(-16, 0)}, "damaged"),
        ({"a": entry(16, 0)}, "damaged"),
        ({"a": entry(0, 16), "b": entry(8, 24)}, "overlap"),
        ({"a": entry(0, 16), "b": entry(0, 16)}, "overlap"),
        ({"a": entry(0, 8)}, "damaged"),
        ({"a": entry(0, 16, (-2, -2))}, "damaged"),
        ({"a": entry(0, 0, (0, 2**70))}, "damaged"),
        ({"a": entry(0, 16, (4.0,))}, "damaged"),
        ({"a": entry("0", "16")}, "damaged"),
        ({"a": entry(False, 16)}, "damaged"),
        ({"a": entry(0, 16, "1111")}, "damaged"),
        ({"a": entry(0, 16, dtype="F31")}, "damaged"),
        ({"a": entry(0, 16, dtype=["F32"])}, "damaged"),
        ({"a": {"dtype": "F32"}}, "damaged"),
        ({"a": 7}, "damaged"),
        ({}, "no named tensors"),
        ({"__metadata__": {"a": "b"}}, "no named tensors"),
        (b'{"a": ', "damaged"),
        (b'{"a": \xff\xfe}', "damaged"),
        (b'{"a":' + b"[" * 190_000, "damaged"),
        ({"a": entry(0, 16, dtype="F4")}, "numbers of the type F4, which this program does not read"),
        ({"a": entry(0, 16, dtype="F8_E8M0")}, "numbers of the type F8_E8M0"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, entries, said):
    path = raw_safetensors(tmp_path / "a.safetensors", entries, bytes(32))
    assert said in refusal(path)


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_an_absurd_header_length_is_refused_without_being_read(tmp_path, length):
    path = raw_safetensors(tmp_path / "a.safetensors", {"a": entry(0, 16)}, bytes(16), length)
    assert "its header claims" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x01", "is not a checkpoint"),
        (random.Random(0).randbytes(5000), "is not a checkpoint"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(100), "JPEG picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG picture"),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"GGUF\x03" + bytes(100), "GGUF"),
        (b"\x1f\x8b\x08" + bytes(100), "packed with gzip"),
        (b"sys_info".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive"),
        (pickle.dumps({"a": 1}), "is a pickle but not a checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_what_it_is(tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_path_that_is_no_file_says_so(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.safetensors")
    assert "does not exist" in refusal(tmp_path / "a\0b.safetensors")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        assert "is not a file" in refusal(tmp_path / "pipe.safetensors")


def repacked(source: Path, target: Path, **changes: bytes | None) -> Path:
    """Copy a .ckpt entry by entry; a change replaces the entry whose name ends so, None leaves it out."""
    compression = zipfile.ZIP_STORED if changes else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = changes.get(name.rsplit("/")[-1], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_a_ckpt_that_was_packed_differently_is_answered(tmp_path):
    source = write(tmp_path / "a.ckpt", ldm(8, 768))
    assert "compression" in refusal(repacked(source, tmp_path / "b.ckpt"))
    assert "big-endian" in refusal(repacked(source, tmp_path / "c.ckpt", byteorder=b"big"))
    assert "lacks the data" in refusal(repacked(source, tmp_path / "d.ckpt", **{"1": None}))
    assert "past the end" in refusal(repacked(source, tmp_path / "e.ckpt", **{"0": b"short"}))
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    assert "without a model" in refusal(tmp_path / "f.zip")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
def test_a_file_with_any_bytes_damaged_gives_an_answer_or_a_sentence(tmp_path, suffix):
    whole = write(tmp_path / f"a{suffix}", {"conv_in.weight": (2, 8, 3, 3), "x.attn2.to_k.weight": (2, 4)}).read_bytes()
    dice, path, refused = random.Random(1), tmp_path / "b", 0
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        path.write_bytes(damaged[: dice.randrange(len(damaged))] if dice.random() < 0.2 else damaged)
        try:
            inspect(path)
            for tensor in read_weights(path).values():
                tensor.double().sum()
        except UserError:
            refused += 1
    assert 0 < refused < 250


# --- the hash --------------------------------------------------------------------------------------


def test_the_hash_is_the_first_ten_digits_of_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert short_hash(tmp_path / "a") == "ba7816bf8f"  # FIPS 180-2, appendix B.1
    (tmp_path / "b").write_bytes(b"a" * 1_000_000)
    assert short_hash(tmp_path / "b") == "cdc76e5c99"  # appendix B.3: a million times 'a'


def test_the_hash_reports_its_progress(tmp_path):
    (tmp_path / "a").write_bytes(bytes(2_500_000))
    seen: list[tuple[int, int]] = []
    short_hash(tmp_path / "a", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2_500_000, 2_500_000) and len(seen) == 3
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        short_hash(tmp_path / "nothing")


def test_the_hash_of_a_diffusers_folder_is_that_of_its_unet(tmp_path):
    unet = write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", diffusers_unet(8, 768))
    write(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", BARE_VAE)
    assert short_hash(tmp_path) == short_hash(unet)


def test_telling_what_a_file_is_does_not_load_torch(tmp_path):
    path = write(tmp_path / "a.ckpt", ldm(8, 768))
    program = (
        "import sys; from instruct_pix2pix.models.checkpoints import inspect; print(inspect(sys.argv[1]).label);"
        "assert 'torch' not in sys.modules"
    )
    modules = str(Path(inspect.__code__.co_filename).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], env={**os.environ, "PYTHONPATH": modules},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == "instruct-pix2pix, SD1, 8 channels\n"
