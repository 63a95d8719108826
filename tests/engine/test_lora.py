"""LoRA, LoCon, LoHa and LoKr: whole edits against diffusers with the published formulas, and without a trace after."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from instruct_pix2pix.engine.beside import lora as lora_module
from instruct_pix2pix.engine.beside.exchange import Exchange
from instruct_pix2pix.engine.beside.layer_names import layers_of, name_of
from instruct_pix2pix.engine.edit import edit, edit_each, fitted
from instruct_pix2pix.engine.loading.diffusers_keys import unet_name
from instruct_pix2pix.engine.loading.loader import Networks, load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.clip import TextEncoder
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.engine.precision import Machine, choose_machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.add_ons import AddOnFolders
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.models.weights_files import read_weights
from instruct_pix2pix.settings import EditSettings
from tests.helpers.diffusers_edit import pipeline
from tools.reference_networks import (
    SDXL_SHAPED,
    SMALL,
    diffusers_pipeline,
    diffusers_unet,
    random_model,
    unet_twin,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

SETTINGS = EditSettings(
    instruction="make it winter", sampler="Euler", schedule="Uniform", steps=4, seed=42, result_size="model"
)
QUICK = replace(SETTINGS, steps=2, size="64")
TE, UNET = 0.6, 0.9
RANK, ALPHA = 4, 2.0
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the model looks for LoRAs in."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "Lora").mkdir()
    return folder


@pytest.fixture(scope="module")
def model(root: Path) -> EditModel:
    """The demo model, with its own folder of LoRAs."""
    machine = choose_machine("cpu", "fp32")
    return EditModel(load_networks(DEMO, machine)[1], machine, "demo", AddOnFolders([root]))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((96, 96), Image.Resampling.BICUBIC)


def one(model: EditModel, image: Image.Image, settings: EditSettings) -> np.ndarray:
    (edited,) = edit(model, image, settings)
    return np.asarray(edited.image)


def with_lora(name: str, rest: str = "", settings: EditSettings = QUICK) -> EditSettings:
    return replace(settings, instruction=f"make it winter <lora:{name}{rest}>")


def weights_of(model: EditModel) -> State:
    """The weights as they are now, as copies."""
    parts = {"unet": model.unet, "text": model.text, "vae": model.vae}
    return {f"{part}.{key}": v.clone() for part, net in parts.items() for key, v in net.state_dict().items()}


def unequal(before: State, after: State) -> list[str]:
    assert before.keys() == after.keys()
    return [key for key in before if not torch.equal(before[key], after[key])]


# --- what a file holds for a weight, and what that adds to it, in float64 ---

Maker = Callable[[Tensor, torch.Generator], tuple[State, Tensor]]


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return 0.3 * torch.randn(shape, generator=generator)


def lora(weight: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
    """Hu et al. 2021: W + alpha / r * B A; of a convolution B is 1x1 and A has its kernel (LoCon)."""
    inner = weight[0].numel()
    down, up = random(generator, RANK, inner) / inner**0.5, random(generator, len(weight), RANK)
    ones = (1,) * (weight.ndim - 2)
    file = {
        "lora_down.weight": down.view(RANK, *weight.shape[1:]),
        "lora_up.weight": up.view(len(weight), RANK, *ones),
        "alpha": torch.tensor(ALPHA),
    }
    return file, ALPHA / RANK * (up.double() @ down.double()).view(weight.shape)


def loha(weight: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
    """FedPara / LyCORIS: alpha / r * (B1 A1) * (B2 A2), entry by entry."""
    inner = weight[0].numel()
    parts = {
        f"hada_w{n}_{side}": random(generator, *shape) * 2 / (inner**0.25 if side == "b" else 1)
        for n in (1, 2)
        for side, shape in (("a", (len(weight), RANK)), ("b", (RANK, inner)))
    }
    b1, a1, b2, a2 = (parts[f"hada_{name}"].double() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    change = ALPHA / RANK * (b1 @ a1) * (b2 @ a2)
    return {**parts, "alpha": torch.tensor(ALPHA)}, change.view(weight.shape)


def lokr(weight: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
    """LyCORIS: alpha / r * kron(C, B A), C of 2x2."""
    out, channels, kernel = len(weight) // 2, weight.shape[1] // 2, weight[0, 0].numel()
    c = random(generator, 2, 2)
    b, a = random(generator, out, RANK), random(generator, RANK, channels * kernel) * 2 / (channels * kernel) ** 0.5
    product = (b.double() @ a.double()).view(out, channels, kernel)
    blocks = torch.einsum("pq,oik->poqik", c.double(), product)
    file = {"lokr_w1": c, "lokr_w2_a": b, "lokr_w2_b": a, "alpha": torch.tensor(ALPHA)}
    return file, ALPHA / RANK * blocks.reshape(weight.shape)


ATTENTION = re.compile(r".*(attn\d\.to_\w+(\.0)?|ff\.net\.\d+(\.proj)?|proj_in|proj_out)\.weight")
CONVOLUTIONS = re.compile(r".*(resnets\.\d+\.conv\d|conv_shortcut|samplers\.0\.conv|time_emb_proj)\.weight")
TEXT = re.compile(r".*(self_attn\.\w+_proj|mlp\.fc\d)\.weight")


def change_pipeline(pipe: Any, which: re.Pattern[str], maker: Maker, te: float, unet: float) -> State:
    """Change weights of diffusers' pipeline in place; return a file in kohya's names that is to do the same."""
    generator, file = torch.Generator().manual_seed(7), {}
    for network, prefix, pattern, scale in (
        (pipe.unet, "lora_unet_", which, unet),
        (pipe.text_encoder, "lora_te_", TEXT, te),
    ):
        for name, weight in network.named_parameters():
            if not pattern.fullmatch(name):
                continue
            tensors, change = maker(weight.data, generator)
            weight.data = (weight.data.double() + scale * change).float()
            layer = name.removesuffix(".weight")
            if prefix == "lora_te_" and not layer.startswith("text_model."):  # until transformers 5
                layer = f"text_model.{layer}"
            file |= {f"{prefix}{layer.replace('.', '_')}.{part}": value for part, value in tensors.items()}
    assert len(file) > 60
    return {key: value.contiguous() for key, value in file.items()}


def of_diffusers(pipe: Any, picture: Image.Image) -> Tensor:
    """The picture [1, 3, h, w] in 0..1 that diffusers makes with SETTINGS."""
    return pipe(
        prompt="make it winter",
        image=picture,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.text_cfg,
        image_guidance_scale=SETTINGS.image_cfg,
        generator=torch.Generator().manual_seed(42),
        output_type="pt",
    ).images


def of_ours(model: EditModel, picture: Image.Image, settings: EditSettings, patch: pytest.MonkeyPatch) -> Tensor:
    decoded: list[Tensor] = []
    decode = model.decode
    patch.setattr(model, "decode", lambda latent: decoded.append(decode(latent)) or decoded[-1])
    one(model, picture, settings)
    return (decoded[0] / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("maker", "which"),
    [(lora, ATTENTION), (lora, CONVOLUTIONS), (loha, ATTENTION), (loha, CONVOLUTIONS), (lokr, ATTENTION),
     (lokr, CONVOLUTIONS)],
    ids=["lora", "locon", "loha", "loha of convolutions", "lokr", "lokr of convolutions"],
)
def test_an_edit_is_that_of_diffusers_with_weights_changed_by_the_formula(
    model, root, picture, tmp_path, monkeypatch, maker, which
):
    one(model, picture, SETTINGS)  # Winograd's convolutions round their weights when they are first packed
    before, pipe = weights_of(model), pipeline(model, tmp_path)
    plain = of_diffusers(pipe, picture)
    save_file(change_pipeline(pipe, which, maker, TE, UNET), root / "Lora" / "kind.safetensors")
    theirs = of_diffusers(pipe, picture)
    ours = of_ours(model, picture, with_lora("kind", f":{TE}:{UNET}", SETTINGS), monkeypatch)
    assert float((theirs - plain).abs().mean()) > 0.02  # it does something
    assert float((ours - theirs).abs().max()) < 1e-3
    assert unequal(before, weights_of(model)) == []


@pytest.mark.parametrize("prefixed", [True, False], ids=["diffusers", "peft"])
def test_a_file_of_diffusers_or_peft_is_merged_as_they_merge_it(root, tmp_path, prefixed):
    """By their own code, where peft is installed; else by the formula above."""
    peft = pytest.importorskip("peft")
    machine = choose_machine("cpu", "fp32")
    model = EditModel(load_networks(DEMO, machine)[1], machine, "demo", AddOnFolders([root]))
    unet = diffusers_pipeline(model).unet
    keys = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.0.proj"]
    adapted = peft.get_peft_model(unet, peft.LoraConfig(r=4, lora_alpha=4, target_modules=keys))
    generator = torch.Generator().manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = random(generator, *weight.shape)
    state = peft.get_peft_model_state_dict(adapted)
    if prefixed:
        state = {key.replace("base_model.model.", "unet."): value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, root / "Lora" / "peft.safetensors")
    merged = adapted.merge_and_unload().state_dict()
    model.add_ons.put_on(with_lora("peft"))
    ours = unet_twin(model.unet).state_dict()
    assert {key for key in merged if not torch.allclose(ours[key], merged[key], atol=1e-6)} == set()


def test_a_file_in_kohyas_names_edits_as_diffusers_edits_with_it(model, root, picture, tmp_path, bluish, monkeypatch):
    """By diffusers' own loader, where peft is installed."""
    pytest.importorskip("peft")
    pipe = pipeline(model, tmp_path)
    pipe.load_lora_weights(str(root / "Lora"), weight_name=f"{bluish}.safetensors")
    theirs = of_diffusers(pipe, picture)
    ours = of_ours(model, picture, with_lora(bluish, settings=SETTINGS), monkeypatch)
    assert float((ours - theirs).abs().max()) < 1e-3


# --- without a trace, and no more often than needed ---


@pytest.fixture(scope="module")
def bluish(model: EditModel, root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA of all kinds of layers; its name."""
    pipe = diffusers_pipeline(model)
    file = change_pipeline(pipe, re.compile(f"{ATTENTION.pattern}|{CONVOLUTIONS.pattern}"), lora, 1.0, 1.0)
    save_file(file, root / "Lora" / "bluish.safetensors", {"ss_output_name": "The Blue One"})
    return "bluish"


def test_the_next_edit_without_it_has_the_same_bits(model, picture, bluish):
    plain, before = one(model, picture, QUICK), weights_of(model)
    changed = one(model, picture, with_lora(bluish))
    assert unequal(before, weights_of(model)) == []
    assert np.array_equal(one(model, picture, QUICK), plain) and not np.array_equal(changed, plain)
    assert np.array_equal(one(model, picture, with_lora(bluish)), changed)


def test_an_edit_has_the_same_bits_on_a_model_that_was_just_loaded(model, root, picture, bluish):
    """Also where convolutions were packed for Winograd's algorithm before, which does not keep the plain weights."""
    used = one(model, picture, with_lora(bluish, settings=SETTINGS))
    new = EditModel(load_networks(DEMO, model.machine)[1], model.machine, "demo", AddOnFolders([root]))
    assert np.array_equal(one(new, picture, with_lora(bluish, settings=SETTINGS)), used)


def test_the_same_loras_are_not_merged_again(model, picture, bluish, monkeypatch):
    counted: list[str] = []
    change = lora_module.weight_change
    monkeypatch.setattr(lora_module, "weight_change", lambda *given: counted.append("") or change(*given))
    one(model, picture, with_lora(bluish, ":0.3"))
    once = len(counted)
    assert once > 60
    one(model, picture, replace(with_lora(bluish, ":0.3"), seed=1))
    one(model, picture, QUICK)
    one(model, picture, with_lora(bluish, ":0.3"))
    assert len(counted) == once
    one(model, picture, with_lora(bluish, ":0.4"))
    assert len(counted) == 2 * once


def test_a_negative_prompt_is_read_anew_where_the_lora_changes_the_text_encoder(model, picture, bluish):
    settings = [replace(with_lora(bluish, ":1:0"), negative="a red house", seed=1)]
    both = [replace(settings[0], instruction="make it winter"), *settings]
    together = [*edit_each(model, fitted(model, picture, QUICK), both)]
    alone = one(model, picture, settings[0])
    assert np.array_equal(np.asarray(together[1].image), alone)


def test_two_loras_add_up_and_a_weight_of_zero_is_none(model, root, picture, bluish):
    (root / "Lora" / "copy.safetensors").write_bytes((root / "Lora" / "bluish.safetensors").read_bytes())
    both = replace(QUICK, instruction="make it winter <lora:bluish:0.25> <lora:copy:0.25>")
    twice = replace(QUICK, instruction="make it winter <lora:bluish:0.25><lora:bluish:0.25>")
    half = one(model, picture, with_lora(bluish, ":0.5"))
    assert np.abs(one(model, picture, both).astype(int) - half).max() <= 1
    assert np.abs(one(model, picture, twice).astype(int) - half).max() <= 1
    assert np.array_equal(one(model, picture, with_lora(bluish, ":0")), one(model, picture, QUICK))


def test_an_edit_that_fails_leaves_the_weights(model, root, picture, bluish):
    before = weights_of(model)
    file = {"lora_unet_middle_block_0_out_layers_3.diff": torch.ones(2, 2)}
    save_file(file, root / "Lora" / "broken.safetensors")
    instruction = f"make it winter <lora:{bluish}:1><lora:broken:1>"
    with pytest.raises(UserError, match=r"'broken' cannot be used.*middle_block.0.out_layers.3 does not fit"):
        one(model, picture, replace(QUICK, instruction=instruction))
    assert unequal(before, weights_of(model)) == []


# --- names ---


def test_layers_may_have_the_names_of_ldm(model, root, picture, bluish):
    """As those of SDXL's LoRAs have, and the UNet's prefix of ComfyUI."""
    ldm = {
        unet_name(key, model.config.unet).removesuffix(".weight").replace(".", "_"): key.removesuffix(".weight")
        for key in model.unet.state_dict()
        if key.endswith(".weight")
    }
    kohya, comfy = {}, {}
    for key, value in read_weights(root / "Lora" / "bluish.safetensors").items():
        layer, part = key.split(".", 1)
        own = ldm.get(layer.removeprefix("lora_unet_"))
        kohya[f"lora_unet_{own.replace('.', '_')}.{part}" if own else key] = value
        comfy[f"diffusion_model.{own}.{part}" if own else key] = value
    save_file(kohya, root / "Lora" / "ldm.safetensors")
    save_file(comfy, root / "Lora" / "comfy.safetensors")
    expected = one(model, picture, with_lora(bluish))
    assert np.array_equal(one(model, picture, with_lora("ldm")), expected)
    assert np.array_equal(one(model, picture, with_lora("comfy")), expected)


@pytest.mark.parametrize(
    ("down", "up", "te"),
    [
        ("lora_A.weight", "lora_B.weight", "text_encoder."),
        ("lora.down.weight", "lora.up.weight", "text_encoder."),
        ("lora_A.default.weight", "lora_B.default.weight", "text_encoder."),
    ],
)
def test_layers_may_have_the_names_of_diffusers(model, root, picture, bluish, down, up, te):
    dotted = {}
    pipe = diffusers_pipeline(model)
    for prefix, network in (("unet.", pipe.unet), (te, pipe.text_encoder)):
        for name, _ in network.named_modules():
            flat = name.replace(".", "_")
            dotted[f"lora_unet_{flat}" if prefix == "unet." else f"lora_te_text_model_{flat}"] = prefix + name
            dotted.setdefault(f"lora_te_{flat}", prefix + name)
    file = {}
    for key, value in read_weights(root / "Lora" / "bluish.safetensors").items():
        layer, part = key.split(".", 1)
        if part == "lora_down.weight":
            file[f"{dotted[layer]}.{down}"] = value * (ALPHA / RANK)  # they take alpha for the rank
        elif part == "lora_up.weight":
            file[f"{dotted[layer]}.{up}"] = value
    save_file(file, root / "Lora" / "dotted.safetensors")
    expected = one(model, picture, with_lora(bluish)).astype(int)
    assert np.abs(one(model, picture, with_lora("dotted")) - expected).max() <= 1


def test_sdxls_layers_have_their_names_and_both_text_encoders():
    unet, texts = UNet(SDXL_SHAPED), [TextEncoder(SMALL.text), TextEncoder(replace(SMALL.text, width=40))]
    layers = layers_of(unet, texts)
    theirs = [name for name, _ in diffusers_unet(SDXL_SHAPED).named_parameters() if name.endswith(".weight")]
    assert len(theirs) > 100
    for network, names in (("unet", theirs), ("unet", [*unet.state_dict()])):
        for name in names:
            layer = name.removesuffix(".weight").removesuffix(".bias").replace(".", "_")
            found = name_of(f"lora_{network}_{layer}.lora_down.weight")
            assert found and found[0] in layers, name
    for number, text in enumerate(texts, 1):
        layer, part = name_of(f"lora_te{number}_text_model_encoder_layers_1_mlp_fc2.hada_w1_a") or ("", "")
        fc2 = text.get_submodule("text_model.encoder.layers.1.mlp.fc2")
        assert layers[layer].module is fc2 and part == "hada_w1_a"
    layer, _ = name_of("text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj.lora_B.weight") or ("", "")
    assert layers[layer].module is texts[1].get_submodule("text_model.encoder.layers.0.self_attn.k_proj")


def test_the_processors_of_older_diffusers_files(model, root, bluish):
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    file = {
        f"unet.{layer}.processor.to_out_lora.down.weight": torch.ones(2, 96),
        f"unet.{layer}.processor.to_out_lora.up.weight": torch.ones(96, 2),
    }
    save_file(file, root / "Lora" / "older.safetensors")
    out = model.unet.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_out.0")
    before = out.state_dict()["weight"].clone()
    model.add_ons.put_on(with_lora("older", ":0.5"))
    assert torch.allclose(out.state_dict()["weight"], before + 1)
    model.add_ons.take_off()
    assert torch.equal(out.state_dict()["weight"], before)


def test_a_first_convolution_of_four_channels_is_added_to_those_of_the_noise(model, root):
    up, down = torch.ones(96, 1, 1, 1), torch.rand(1, 4, 3, 3)
    save_file({"lora_unet_conv_in.lora_up.weight": up, "lora_unet_conv_in.lora_down.weight": down},
              root / "Lora" / "four.safetensors")
    layer = model.unet.input_blocks[0][0]
    before = layer.state_dict()["weight"].clone()
    model.add_ons.put_on(with_lora("four"))
    after = layer.state_dict()["weight"]
    assert torch.allclose(after[:, :4], before[:, :4] + down) and torch.equal(after[:, 4:], before[:, 4:])
    model.add_ons.take_off()


def test_what_has_no_place_is_named(model, root, picture, bluish):
    file = read_weights(root / "Lora" / "bluish.safetensors")
    save_file({**file, "lora_te2_text_model_x.lora_up.weight": torch.ones(1), "emb.word": torch.ones(1)},
              root / "Lora" / "more.safetensors")
    (edited,) = edit(model, picture, with_lora("more"))
    _, note = edited.beside.notes
    assert f"'more' 2 of {len(file) + 2} tensors were left out" in note and "emb.word" in note
    (edited,) = edit(model, picture, with_lora(bluish))
    assert len(edited.beside.notes) == 1


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("<lora:bluish>", "LoRA put on: bluish at 1."),
        ("<lora:BLUISH:-0.50>", "LoRA put on: bluish at -0.5."),
        ("<lora:bluish:0.5:1>", "LoRA put on: bluish at 0.5 (text) and 1 (UNet)."),
        ("", None),
    ],
)
def test_what_was_put_on_is_told_in_a_sentence(model, picture, bluish, tag, told):
    (edited,) = edit(model, picture, replace(QUICK, instruction=f"make it winter {tag}"))
    assert edited.beside.notes == (() if told is None else (told,))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_x_y.lora_up.weight": torch.ones(2, 2)}, "was made for a model of another kind"),
        ({"conv.weight": torch.ones(2, 2)}, "is no LoRA"),
        ({"lora_unet_conv_in.dora_scale": torch.ones(2), "lora_unet_conv_in.lora_up.weight": torch.ones(2, 2),
          "lora_unet_conv_in.lora_down.weight": torch.ones(2, 2)}, "is a DoRA"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(2, 2)}, "combines up, which is no form of LoRA"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(96, 2),
          "lora_unet_conv_in.lora_down.weight": torch.ones(3, 72)}, "does not fit together"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(96, 1),
          "lora_unet_conv_in.lora_down.weight": torch.full((1, 72), torch.nan)}, "numbers that are none"),
        ({"lora_unet_conv_in.lokr_w1": torch.ones(96, 96), "lora_unet_conv_in.lokr_w2": torch.ones(96, 96)},
         "does not fit it"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(96, 1, dtype=torch.int8),
          "lora_unet_conv_in.lora_down.weight": torch.ones(1, 72)}, "packed numbers"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(model, root, picture, tensors, said):
    save_file(tensors, root / "Lora" / "bad.safetensors")
    with pytest.raises(UserError, match=said):
        one(model, picture, with_lora("bad"))


def test_a_lora_is_found_by_its_stem_its_folder_and_the_name_it_was_trained_under(model, root, picture, bluish):
    expected = one(model, picture, with_lora(bluish))
    (root / "Lora" / "sub").mkdir(exist_ok=True)
    (root / "Lora" / "sub" / "deep.safetensors").write_bytes((root / "Lora" / "bluish.safetensors").read_bytes())
    save_file({"x.diff": torch.ones(1)}, root / "outside.safetensors")
    for name in ("Bluish", "bluish.safetensors", "deep", "sub/deep", "sub\\deep"):
        assert np.array_equal(one(model, picture, with_lora(name)), expected)
    (root / "Lora" / "sub" / "deep.safetensors").unlink()
    (root / "Lora" / "copy.safetensors").unlink(missing_ok=True)
    assert np.array_equal(one(model, picture, with_lora("the blue one")), expected)
    for name in ("../outside", "outside", str(root / "outside"), str(root / "Lora" / "bluish.safetensors"), "deep"):
        with pytest.raises(UserError, match=r"There is no LoRA .*put its file into \S+/Lora "):
            one(model, picture, with_lora(name))


def test_the_infotext_keeps_the_prompt_and_tells_the_hashes_as_kohya_counts_them(model, root, picture, bluish):
    data = (root / "Lora" / "bluish.safetensors").read_bytes()
    expected = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()[:12]
    (edited,) = edit(model, picture, with_lora(bluish, ":0.5"))
    text = edited.infotext("demo", None)
    assert text.startswith("make it winter <lora:bluish:0.5>\n")
    assert f'Lora hashes: "bluish: {expected}"' in text


def test_on_an_accelerator_the_numbers_change_where_they_lie_and_come_back():
    """Recorded kernels read that memory; here the processor stands in for the accelerator."""
    layer = torch.nn.Linear(3, 2)
    where, before = layer.weight.data_ptr(), {key: value.clone() for key, value in layer.state_dict().items()}
    added = {"weight": torch.full((2, 3), 1 / 3), "bias": None}
    exchange = Exchange({layer: lambda shape, kind: added[kind]}, Machine(torch.device("cuda"), torch.float32))
    assert torch.equal(layer.weight, before["weight"] + added["weight"]) and layer.weight.data_ptr() == where
    for _ in range(3):
        exchange.swap()
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
        exchange.swap()
    assert layer.weight.data_ptr() == where and torch.equal(layer.weight, before["weight"] + added["weight"])


def test_bf16_and_networks_of_no_file(picture, root):
    """A model of random weights, which are in no file; bfloat16 where layers pack it or not."""
    for precision in ("fp32", "bf16"):
        model = random_model(SMALL, choose_machine("cpu", precision))
        parts = Networks(model.unet, model.vae, model.text, model.config)
        model = EditModel(parts, model.machine, "", AddOnFolders([root]))
        up, down = torch.ones(64, 1), torch.rand(1, 32)
        save_file({"lora_unet_input_blocks_4_0_in_layers_2.lora_up.weight": up[..., None, None],
                   "lora_unet_input_blocks_4_0_in_layers_2.lora_down.weight": torch.rand(1, 32, 3, 3),
                   "lora_unet_input_blocks_1_1_transformer_blocks_0_ff_net_0_proj.diff": torch.ones(256, 32),
                   "lora_unet_input_blocks_1_1_transformer_blocks_0_ff_net_0_proj.diff_b": torch.ones(256),
                   "lora_unet_time_embed_0.lora_up.weight": torch.ones(128, 1),
                   "lora_unet_time_embed_0.lora_down.weight": down}, root / "Lora" / "small.safetensors")
        plain = one(model, picture, QUICK)
        before = weights_of(model)
        changed = one(model, picture, with_lora("small"))
        assert unequal(before, weights_of(model)) == []
        assert np.array_equal(one(model, picture, QUICK), plain) and not np.array_equal(changed, plain)
