"""SDXL and CosXL-Edit, reduced in width and complete in layout: against diffusers, and what a user may rely on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from instruct_pix2pix.engine.edit import edit, fitted
from instruct_pix2pix.engine.edit_batch import PromptCache, edit_batch, encode_pictures
from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.clip import PooledTextEncoder, TextConfig
from instruct_pix2pix.engine.networks.unet import size_label
from instruct_pix2pix.engine.sampling.names import SCHEDULE_NAMES
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import ContinuousSchedule, NoiseSchedule
from instruct_pix2pix.engine.tokenizer import byte_alphabet, merges
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.checkpoints import inspect
from instruct_pix2pix.settings import EditSettings
from tests.helpers.sigmas import get_sigmas
from tools.random_checkpoint import write_random_checkpoint
from tools.reference_networks import (
    CPU,
    SMALL_SDXL,
    diffusers_xl_pipeline,
    ldm_state,
    openclip_state,
    random_model,
    randomized,
    relative_error,
    text_twin,
    write_yaml,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
pytest.importorskip("diffusers")

COSXL = replace(SMALL_SDXL, cosxl=(0.002, 120.0))
# four whole timesteps, 999 to 0, on which diffusers' scheduler can stand
SETTINGS = EditSettings(
    instruction="make it winter",
    sampler="Euler",
    schedule="Uniform",
    steps=4,
    seed=42,
    text_cfg=3.0,
    image_cfg=1.5,
    result_size="model",
)
QUICK = replace(SETTINGS, steps=2)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=[SMALL_SDXL, COSXL], ids=["SDXL", "CosXL"])
def model(request) -> EditModel:
    return random_model(request.param)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> tuple[object, object]:
    """Return transformers' tokenizers of both encoders, with SDXL's padding: EOS, and '!', which is the token 0."""
    from transformers import CLIPTokenizer

    folder, size = tmp_path_factory.mktemp("tokenizer"), SMALL_SDXL.text.vocab_size
    pairs = merges()[: size - 514]
    words = [*byte_alphabet(), *(c + "</w>" for c in byte_alphabet()), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    pads = ("<|endoftext|>", "!")
    first, second = (CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token=pad) for pad in pads)
    assert second("a").input_ids and second.pad_token_id == 0
    return first, second


def edited_latents(model: EditModel, picture: Image.Image, settings: EditSettings, monkeypatch: Any) -> Tensor:
    """Return what is decoded in an edit, and the picture [B, 3, H, W] in 0..1 that it becomes."""
    seen: list[Tensor] = []
    decode = model.decode
    with monkeypatch.context() as patch:
        patch.setattr(model, "decode", lambda latent: seen.append(latent) or decode(latent))
        list(edit(model, picture, settings))
    return seen[0]


# --- the whole edit against diffusers --------------------------------------------------------------------


@pytest.mark.parametrize("no_text", ["empty", "zeros", "a negative prompt"])
def test_an_edit_is_that_of_diffusers_from_the_same_seed(model, picture, tokenizers, monkeypatch, no_text):
    pipe = diffusers_xl_pipeline(model, tokenizers)
    negative = "a red house, blurry" if no_text == "a negative prompt" else ""
    given: dict[str, Any] = {"prompt": SETTINGS.instruction, "negative_prompt": negative}
    if no_text == "zeros":
        given["negative_prompt"] = None  # with its force_zeros_for_empty_prompt
    elif no_text == "empty" and model.config.cosxl is None:  # training never dropped the pooled vector
        states, _, pooled, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
        own, _, own_pooled, _ = pipe.encode_prompt(SETTINGS.instruction, do_classifier_free_guidance=False)
        assert not torch.allclose(pooled, own_pooled, atol=0.1)
        given = {"prompt_embeds": own, "pooled_prompt_embeds": own_pooled}
        given |= {"negative_prompt_embeds": states, "negative_pooled_prompt_embeds": own_pooled}
    theirs = pipe(
        **given,
        image=picture,
        width=64,
        height=48,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.text_cfg,
        image_guidance_scale=SETTINGS.image_cfg,
        generator=torch.Generator().manual_seed(42),
        output_type="pt",
    ).images
    settings = replace(SETTINGS, negative=negative, no_text="zeros" if no_text == "zeros" else "empty")
    latent = edited_latents(model, picture, settings, monkeypatch)
    ours = (model.decode(latent) / 2 + 0.5).clamp(0, 1)
    assert ours.shape == theirs.shape == (1, 3, 48, 64)
    assert float(((ours > 0) & (ours < 1)).float().mean()) > 0.5  # most pixels can tell a difference
    assert float((ours - theirs).abs().max()) < 1e-3


def test_both_meanings_of_no_text_are_different_edits(model, picture, monkeypatch):
    one, other = (
        edited_latents(model, picture, replace(QUICK, no_text=word), monkeypatch) for word in ("empty", "zeros")
    )
    assert relative_error(one, other) > 1e-2
    with_negative = [replace(QUICK, no_text=word, negative="rain") for word in ("empty", "zeros")]
    one, other = (edited_latents(model, picture, settings, monkeypatch) for settings in with_negative)
    assert torch.equal(one, other)  # there is a text


def test_the_size_of_the_result_counts(model):
    pooled = torch.ones(1, 40)
    label = size_label(pooled, 48, 64, SMALL_SDXL.unet.adm_in_channels or 0)
    assert label.shape == (1, 40 + 6 * 8)
    texts = torch.randn(1, 77, 64)
    x, image, sigma = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([3.0])
    ours, other = (model(x, sigma, model.condition(texts, pooled, cells), image) for cells in ((8, 8), (16, 8)))
    assert relative_error(ours, other) > 1e-4


@pytest.mark.parametrize("no_text", ["empty", "zeros"])
def test_pictures_with_instructions_of_their_own_share_a_batch(model, picture, no_text):
    """Each has the pooled vector of its own instruction in all of its rows."""
    base = replace(QUICK, no_text=no_text, seed=3)
    settings = [
        base,
        replace(base, instruction="make it night", seed=4),
        replace(base, instruction="[a cat:a dog:1]", negative="rain", seed=5),
    ]
    shown = fitted(model, picture, base)
    latent = encode_pictures(model, [shown], base)
    together = edit_batch(model, [shown] * 3, latent, settings, PromptCache(model))
    for one, alone in zip(together, settings, strict=True):
        (expected,) = edit_batch(model, [shown], latent, [alone], PromptCache(model))
        difference = np.asarray(one.image).astype(int) - np.asarray(expected.image)
        assert np.abs(difference).max() <= 1
    first, second = (np.asarray(one.image).astype(int) for one in together[:2])
    assert np.abs(first - second).max() > 4


def test_rows_of_one_label_share_the_layers_before_the_text(model, picture):
    """The finest level of SDXL reads no text: there the row with the picture is computed once for both texts."""
    counted: list[int] = []
    handle = model.unet.input_blocks[1].register_forward_hook(lambda module, inputs, out: counted.append(len(out)))
    try:
        for no_text in ("empty", "zeros"):
            list(edit(model, picture, replace(QUICK, steps=1, no_text=no_text)))
    finally:
        handle.remove()
    own_pooled = model.config.cosxl is not None  # then the empty text has another label than the instruction
    assert counted == [3 if own_pooled else 2, 3]


# --- text ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_both_encoders_agree_with_transformers():
    model = random_model(SMALL_SDXL)
    assert model.text_2 is not None
    tokens = torch.randint(698, (2, 77), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[0, 9:], tokens[1, 76] = 698, 699, 699
    first = text_twin(model.text)(tokens, output_hidden_states=True).hidden_states[-2]
    assert relative_error(model.text(tokens), first) < 1e-5
    states, pooled = model.text_2(tokens)
    padded = tokens.clone()
    padded[0, 10:] = 0
    second = text_twin(model.text_2)(padded, output_hidden_states=True)
    assert relative_error(states, second.hidden_states[-2]) < 1e-5
    assert relative_error(pooled, second.text_embeds) < 1e-5


def test_our_names_for_openclips_layout_are_those_of_diffusers_own_conversion():
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    assert SMALL_SDXL.text_2 is not None
    encoder = randomized(PooledTextEncoder(SMALL_SDXL.text_2))
    twin = text_twin(encoder)
    state = openclip_state(encoder)
    converted = convert_open_clip_checkpoint(twin.text_model, state, prefix="conditioner.embedders.1.model.")
    ours = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    theirs = {key.removeprefix("text_model."): value for key, value in converted.items()}
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_weights_in_a_prompt_act_in_each_encoder_by_its_own_mean(model):
    encoder = model.prompts
    width = SMALL_SDXL.text.width
    plain, pooled = encoder.encode_pooled("a cat BREAK a dog")
    weighted, same = encoder.encode_pooled("a (cat:1.4) BREAK a dog")
    assert plain.shape == (1, 2 * 77, 64) and pooled is not None
    torch.testing.assert_close(pooled, same)
    torch.testing.assert_close(plain[0, 77:], weighted[0, 77:])
    assert not torch.allclose(plain, weighted, atol=1e-3)
    for part in (slice(None, width), slice(width, None)):
        means = [each[0, :77, part].mean() for each in (plain, weighted)]
        torch.testing.assert_close(*means, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(pooled, encoder.encode_pooled("a cat")[1])


# --- noise levels of CosXL ------------------------------------------------------------------------------


def edm_scheduler() -> Any:
    from diffusers import EDMEulerScheduler

    return EDMEulerScheduler(0.002, 120.0, 1.0, "exponential", prediction_type="v_prediction")


@pytest.mark.parametrize("steps", [2, 20, 50])
def test_sigmas_and_timesteps_are_those_of_diffusers(steps):
    theirs = edm_scheduler()
    theirs.set_timesteps(steps)
    levels = ContinuousSchedule()
    for schedule in ("Uniform", "Exponential"):
        ours = get_sigmas(schedule, steps, levels, "Euler")
        torch.testing.assert_close(ours, theirs.sigmas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(levels.sigma_to_t(ours[:-1]), theirs.timesteps, rtol=1e-5, atol=1e-6)
    assert levels.start(120.0) == pytest.approx(theirs.init_noise_sigma, rel=1e-7)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 7.5, 120.0])
def test_preconditioning_is_that_of_diffusers(sigma):
    """What the network sees and what becomes of its answer, through the model as it edits."""
    theirs = edm_scheduler()
    model = random_model(COSXL)
    generator = torch.Generator().manual_seed(1)
    x, image, v = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    seen: list[tuple[Tensor, Tensor]] = []
    model.unet_graphs.forward = lambda given, t, *_: seen.append((given, t)) or v  # type: ignore[method-assign]
    condition = model.condition(torch.zeros(1, 77, 64), torch.zeros(1, 40), (8, 8))
    level = torch.tensor(sigma)
    denoised = model(x * (1 + sigma), level[None], condition, image)
    ((given, t),) = seen
    torch.testing.assert_close(given[:, :4], theirs.precondition_inputs(x * (1 + sigma), level), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(given[:, 4:], image * 0.13025)
    torch.testing.assert_close(t, theirs.precondition_noise(level)[None], rtol=1e-5, atol=1e-6)
    expected = theirs.precondition_outputs(x * (1 + sigma), v, level)
    torch.testing.assert_close(denoised, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_finds_the_answer_on_every_schedule(name):
    """A Gaussian of mean 0.4 and deviation 0.6, whose denoiser is known."""
    mean, deviation = 0.4, 0.6
    levels = ContinuousSchedule()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        share = sigma.view(-1, 1, 1, 1) ** 2
        return (deviation**2 * x + share * mean) / (deviation**2 + share)

    generator = torch.Generator().manual_seed(0)
    noise = lambda *_: torch.randn(1, 4, 64, 64, generator=generator)  # noqa: E731
    for schedule in SCHEDULE_NAMES:
        sigmas = get_sigmas(schedule, 60, levels, name)
        assert bool((sigmas.diff() < 0).all()) and float(sigmas[0]) == pytest.approx(120, rel=1e-4)
        x = SAMPLERS[name](denoise, noise() * levels.start(float(sigmas[0])), sigmas, noise)
        assert float(x.mean()) == pytest.approx(mean, abs=0.05), schedule
        if name != "LCM":  # which throws away what the others keep
            assert float(x.std()) == pytest.approx(deviation, abs=0.08), schedule


def test_a_map_is_looked_for_at_the_noise_of_stable_diffusion():
    assert float(ContinuousSchedule().at_share(0.8)) == float(NoiseSchedule().t_to_sigma(800))


@pytest.mark.parametrize("changes", [{"keep_rest": "always"}, {"denoise": 0.5}, {"rescale": 0.5}, {"speed": "fast"}])
def test_the_other_settings_work_with_these_models_too(model, picture, changes):
    (edited,) = edit(model, picture, replace(SETTINGS, **changes))
    assert edited.image.size == (64, 48) and np.asarray(edited.image).std() > 1


# --- files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_yaml(tmp_path_factory.mktemp("config") / "small.yaml", SMALL_SDXL)


@pytest.fixture(scope="module")
def original(tmp_path_factory, config) -> Path:
    path = tmp_path_factory.mktemp("original") / "original.safetensors"
    write_random_checkpoint(path, config)
    return path


@pytest.fixture
def copied(tmp_path, original, config):
    """Return a function that writes the checkpoint with changed tensors (None removes one)."""

    def copy(changes: dict[str, Tensor | None]) -> Path:
        state: dict[str, Tensor | None] = {**load_file(original), **changes}
        path = tmp_path / "copy.safetensors"
        save_file({key: value for key, value in state.items() if value is not None}, path)
        shutil.copyfile(config, path.with_suffix(".yaml"))
        return path

    return copy


def test_the_config_of_sdxl_is_that_of_its_paper():
    config = load_config(CONFIGS / "sdxl.yaml")
    assert config.unet.transformer_depth == (0, 2, 10) and config.unet.adm_in_channels == 1280 + 6 * 256
    assert config.text.width + (config.text_2.width if config.text_2 else 0) == config.unet.context_dim == 2048
    assert (config.scale_factor, config.size) == (0.13025, 768)


def test_a_small_config_is_read_as_it_was_written(config):
    assert load_config(config) == SMALL_SDXL


def test_a_single_file_holds_the_weights_that_it_was_given(original):
    state = load_file(original)
    found, networks = load_networks(original, CPU)
    assert found.kind == "instruct-pix2pix" and networks.config == SMALL_SDXL
    loaded = ldm_state(networks)
    assert len(loaded) > 700
    assert all(torch.equal(value, state[key].float()) for key, value in loaded.items() if value.ndim)


def test_a_diffusers_folder_holds_the_same_model(tmp_path, model):
    """As diffusers' own pipeline saves it, in shards and as the variant fp16."""
    pipe = diffusers_xl_pipeline(model)
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="10MB")
    assert len(list((tmp_path / "shards" / "unet").glob("*.safetensors"))) > 1
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    expected = ldm_state(model)
    for folder in ("shards", "variant"):
        found, networks = load_networks(tmp_path / folder, CPU)
        assert found.kind == ("instruct-pix2pix" if model.config.cosxl is None else "CosXL-Edit")
        assert networks.config.cosxl == model.config.cosxl and networks.config.text_2 == SMALL_SDXL.text_2
        ours = ldm_state(networks)
        assert ours.keys() == expected.keys() and all(torch.equal(ours[key], expected[key]) for key in ours)


def test_bf16_and_8_bit_weights_are_read(original, copied):
    state = load_file(original)
    names = ["conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"]
    names += [name for name in state if name.endswith("attn2.to_k.weight")][:3]
    changes: dict[str, Any] = {name: value.bfloat16() for name, value in state.items() if value.is_floating_point()}
    changes |= {name: state[name].to(torch.float8_e4m3fn) for name in names}
    loaded = ldm_state(load_networks(copied(changes), CPU)[1])
    for name, value in loaded.items():
        if name in changes and value.ndim:
            assert torch.equal(value, changes[name].float()), name


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"sigma_max": 80.0, "sigma_min": 0.01}, (0.01, 80.0)),
        ({"sigma_max": 100.0}, (0.002, 100.0)),
        ({"sigma_min": 0.003}, (0.003, 120.0)),
    ],
)
def test_cosxl_is_known_by_the_noise_levels_in_the_file(copied, levels, expected):
    path = copied({f"edm_vpred.{name}": torch.tensor(value) for name, value in levels.items()})
    assert inspect(path).kind == "CosXL-Edit"
    config = load_networks(path, CPU)[1].config
    assert config.cosxl == pytest.approx(expected)
    assert replace(config, cosxl=None) == SMALL_SDXL


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.tensor(-1.0), torch.ones(3)])
def test_noise_levels_of_no_model_are_told(copied, value):
    with pytest.raises(UserError, match="noise levels"):
        load_networks(copied({"edm_vpred.sigma_max": value}), CPU)


def test_a_file_with_one_of_its_text_encoders_is_told(original, copied):
    second = dict.fromkeys(name for name in load_file(original) if "embedders.1" in name)
    path = copied(second)
    assert inspect(path).missing == ("text encoder",)
    with pytest.raises(UserError, match="without text encoder"):
        load_networks(path, CPU)


def test_a_missing_tensor_of_openclip_is_named(copied):
    name = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias"
    with pytest.raises(UserError, match="in_proj_bias"):
        load_networks(copied({name: None}), CPU)
    with pytest.raises(UserError, match=r"in_proj_bias is \[120\]|in_proj_bias is \[7\]"):
        load_networks(copied({name: torch.zeros(7)}), CPU)


OPENCLIP = SMALL_SDXL.text_2 or TextConfig()


@pytest.mark.parametrize(
    "changes",
    [
        {"text_2": replace(OPENCLIP, projection=None)},
        {"text_2": None},
        {"text_2": replace(OPENCLIP, layers=0)},
        {"unet": replace(SMALL_SDXL.unet, adm_in_channels=40 + 7)},
        {"unet": replace(SMALL_SDXL.unet, adm_in_channels=None)},
        {"cosxl": (1.0, 1.0)},
        {"cosxl": (0.0, 1.0)},
    ],
)
def test_networks_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"\w"):
        replace(SMALL_SDXL, **changes)
