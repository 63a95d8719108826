"""The networks against those of diffusers and transformers with the same weights, in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instruct_pix2pix.engine.loading.diffusers_keys import unet_name, vae_name
from instruct_pix2pix.engine.networks.clip import TextConfig, TextEncoder
from instruct_pix2pix.engine.networks.unet import Condition, UNet, UNetConfig
from instruct_pix2pix.engine.networks.vae import VAE, VAEConfig
from tools.reference_networks import (
    DEMO,
    SDXL_SHAPED,
    SMALL,
    diffusers_unet,
    diffusers_vae,
    randomized,
    relative_error,
    text_twin,
    unet_twin,
    vae_twin,
)

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

CLOSE = 1e-4
UNETS = {
    "SD1": SMALL.unet,
    "demo": DEMO.unet,
    "SD2": UNetConfig(model_channels=32, num_head_channels=16, context_dim=24, use_linear_in_transformer=True),
}
VAES = {"SD1": SMALL.vae, "demo": DEMO.vae}
TEXTS = {"small": SMALL.text, "demo": DEMO.text, "12 heads": TextConfig(48, 1, 12, 600)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=UNETS)
def unets(request):
    unet = randomized(UNet(UNETS[request.param]))
    return unet, unet_twin(unet)


@pytest.fixture(scope="module", params=VAES)
def vaes(request):
    vae = randomized(VAE(VAES[request.param]))
    return vae, vae_twin(vae)


# 9x13 and 7x5 halve to odd sizes on the way down: the way up must come back to them
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (9, 13), (7, 5)])
@torch.no_grad()
def test_the_unet_agrees_with_diffusers_at_any_latent_size(unets, size):
    unet, twin = unets
    x, text = noise(2, 8, *size), noise(2, 77, unet.config.context_dim, seed=1)
    t = torch.tensor([999.0, 31.0])
    ours = unet(x, t, text)
    assert relative_error(ours, twin(x, t, text).sample) < CLOSE


@torch.no_grad()
def test_the_unet_reads_time_text_and_picture(unets):
    unet, _ = unets
    x, t, text = noise(1, 8, 8, 8), torch.tensor([500.0]), noise(1, 77, unet.config.context_dim)
    other_picture = torch.cat([x[:, :4], noise(1, 4, 8, 8, seed=2)], dim=1)
    base = unet(x, t, text)
    for changed in (unet(x, t + 100, text), unet(x, t, -text), unet(other_picture, t, text)):
        assert relative_error(changed, base) > 0.01


@torch.no_grad()
def test_the_unet_takes_fractional_timesteps_and_longer_texts(unets):
    unet, twin = unets
    x, text = noise(1, 8, 8, 8), noise(1, 231, unet.config.context_dim)
    t = torch.tensor([12.34])
    assert relative_error(unet(x, t, text), twin(x, t, text).sample) < CLOSE
    assert relative_error(unet(x, t, text), unet(x, t.round(), text)) > CLOSE


@torch.no_grad()
def test_a_unet_shaped_like_sdxl_agrees_with_diffusers():
    unet = randomized(UNet(SDXL_SHAPED))
    twin = unet_twin(unet)
    x, t, text = noise(2, 8, 12, 9), torch.tensor([700.0, 3.0]), noise(2, 77, 24)
    pooled, time_ids = noise(2, 40), torch.tensor([[96.0, 72, 0, 0, 96, 72], [64, 64, 8, 8, 64, 64]])
    # diffusers embeds the six sizes itself, as sinusoids after the pooled text
    embedded = twin.add_time_proj(time_ids.flatten()).reshape(2, -1)
    label = torch.cat([pooled, embedded], dim=1)
    ours = unet(x, t, Condition(text, label))
    theirs = twin(x, t, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}).sample
    assert relative_error(ours, theirs) < CLOSE
    assert relative_error(unet(x, t, Condition(text, -label)), theirs) > CLOSE


@pytest.mark.parametrize("size", [(64, 64), (72, 40)])
@torch.no_grad()
def test_the_vae_agrees_with_diffusers_in_both_directions(vaes, size):
    vae, twin = vaes
    picture = noise(2, 3, *size).clamp(-1, 1)
    mean, logvar = vae.moments(picture)
    theirs = twin.encode(picture).latent_dist
    assert relative_error(mean, theirs.mean) < CLOSE
    assert relative_error(logvar, theirs.logvar) < CLOSE
    latent = noise(2, 4, size[0] // 8, size[1] // 8, seed=1)
    assert relative_error(vae.decode(latent), twin.decode(latent).sample) < CLOSE


@pytest.mark.parametrize("config", TEXTS.values(), ids=TEXTS)
@torch.no_grad()
def test_the_text_encoder_agrees_with_transformers(config):
    encoder = randomized(TextEncoder(config))
    tokens = torch.randint(config.vocab_size, (3, 77), generator=torch.Generator().manual_seed(0))
    twin = text_twin(encoder)
    for length in (77, 5):
        theirs = twin(tokens[:, :length]).last_hidden_state
        assert relative_error(encoder(tokens[:, :length]), theirs) < CLOSE


@torch.no_grad()
def test_a_word_is_not_changed_by_the_words_after_it():
    encoder = randomized(TextEncoder(SMALL.text))
    tokens = torch.randint(700, (1, 77), generator=torch.Generator().manual_seed(0))
    longer = tokens.clone()
    longer[:, 10:] = 5
    assert torch.allclose(encoder(tokens)[:, :10], encoder(longer)[:, :10], atol=1e-5)
    assert not torch.allclose(encoder(tokens)[:, 10:], encoder(longer)[:, 10:], atol=1e-2)


@pytest.mark.parametrize("config", [*UNETS.values(), SDXL_SHAPED], ids=[*UNETS, "SDXL"])
def test_our_names_for_diffusers_unet_are_those_of_its_own_conversion(config):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        keys = list(UNet(config).state_dict())
        twin = diffusers_unet(config)
    # the conversion only moves values, so a tensor can stand for its own name
    marks = {f"model.diffusion_model.{key}": torch.tensor(i) for i, key in enumerate(keys)}
    converted = convert_ldm_unet_checkpoint(marks, twin.config)
    assert {unet_name(key, config): i for i, key in enumerate(keys)} == {k: int(v) for k, v in converted.items()}
    assert converted.keys() == twin.state_dict().keys()


@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
def test_our_names_for_diffusers_vae_are_those_of_its_own_conversion(config: VAEConfig):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    with torch.device("meta"):
        keys = list(VAE(config).state_dict())
        twin = diffusers_vae(config)
    marks = {f"first_stage_model.{key}": torch.full((1, 1, 1, 1), i) for i, key in enumerate(keys)}
    converted = convert_ldm_vae_checkpoint(marks, twin.config)
    assert {vae_name(key, config): i for i, key in enumerate(keys)} == {k: int(v) for k, v in converted.items()}
    assert converted.keys() == twin.state_dict().keys()
