"""The text encoders of CLIP: SD1's, and the two of SDXL, under the names of Hugging Face's `CLIPTextModel`.

References: Radford et al. 2021 (arXiv 2103.00020); Podell et al. 2023 (arXiv 2307.01952) for what SDXL reads of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import Linear


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text encoder; the defaults are those of CLIP ViT-L/14, which SD1 uses."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocab_size: int = 49408
    context_length: int = 77
    gelu: bool = False
    """Whether the MLPs have GELU itself, as OpenCLIP's, in place of CLIP's approximation."""
    skip_last: bool = False
    """Whether the states are those before the last layer, without the final norm, as SDXL reads them."""
    projection: int | None = None
    """Width of the pooled vector; None: the encoder makes none."""


class CLIPAttention(nn.Module):
    """Causal multi-head self-attention of x [B, T, width]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(f(x), "b n (h c) -> b h n c", h=self.heads) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(rearrange(out, "b h n c -> b n (h c)"))


class CLIPMLP(nn.Module):
    """Four times the width and back, with GELU or CLIP's approximation of it, x * sigmoid(1.702 x)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.fc1 = Linear(config.width, config.width * 4)
        self.fc2 = Linear(config.width * 4, config.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(F.gelu(h) if self.gelu else h * torch.sigmoid(1.702 * h))


class CLIPLayer(nn.Module):
    """A transformer layer: self-attention and MLP, each behind a LayerNorm, each residual."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEmbeddings(nn.Module):
    """Token ids [B, T] -> the sum of token and position embeddings [B, T, width]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)
        self.added: Tensor | None = None
        """Rows beyond the vocabulary, [n, width]: those of `add_words`."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self._embedded(tokens) + self.position_embedding.weight[: tokens.shape[1]]

    def add_words(self, vectors: Tensor) -> list[int]:
        """Add rows [n, width] to the vocabulary and return their ids, which follow those that it has."""
        weight, known = self.token_embedding.weight, self.added
        first = len(weight) + (0 if known is None else len(known))
        rows = vectors.to(weight.device, weight.dtype)
        self.added = rows if known is None else torch.cat([known.to(rows.device), rows])
        return list(range(first, first + len(rows)))

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.added is None:
            return self.token_embedding(tokens)
        beyond = tokens - self.token_embedding.num_embeddings
        known = self.token_embedding(tokens.clamp(max=self.token_embedding.num_embeddings - 1))
        return torch.where((beyond >= 0)[..., None], self.added.to(known.device)[beyond.clamp(min=0)], known)


class CLIPLayers(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CLIPLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, width] -> what the layer before the last makes of it, of which the last one makes the rest."""
        for layer in list(self.layers)[:-1]:
            x = layer(x)
        return x

    def last(self, x: Tensor) -> Tensor:
        """Apply the last layer."""
        return self.layers[-1](x)


class CLIPTextModel(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = CLIPEmbeddings(config)
        self.encoder = CLIPLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [B, T] -> the states [B, T, width] before the last layer."""
        return self.encoder(self.embeddings(tokens))

    def finish(self, x: Tensor) -> Tensor:
        """Apply the last layer and the final norm to states [B, T, width]."""
        return self.final_layer_norm(self.encoder.last(x))


class TextEncoder(nn.Module):
    """Token ids [B, T <= 77] int64 -> the hidden states [B, T, width] on which a model is conditioned."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = CLIPTextModel(config)

    def parts(self) -> Iterator[nn.Module]:
        """Yield the layers in their order, as `HasParts` says."""
        yield from self.text_model.encoder.layers

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.text_model(tokens)
        return states if self.config.skip_last else self.text_model.finish(states)


class PooledTextEncoder(nn.Module):
    """SDXL's second encoder, OpenCLIP's: hidden states, and one vector that stands for the whole text.

    Its padding is the token 0, where CLIP's is EOS.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        assert config.projection is not None
        self.config = config
        self.text_model = CLIPTextModel(config)
        self.text_projection = Linear(config.width, config.projection, bias=False)

    def parts(self) -> Iterator[nn.Module]:
        """Yield the layers in their order, as `HasParts` says."""
        yield from self.text_model.encoder.layers

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B, T <= 77] int64, padded with EOS -> states [B, T, width], pooled [B, projection].

        The pooled vector is the finished state of the first EOS, projected.
        """
        end = (tokens == self.config.vocab_size - 1).int().argmax(dim=1)
        padded = torch.arange(tokens.shape[1], device=tokens.device) > end[:, None]
        states = self.text_model(tokens.masked_fill(padded, 0))
        finished = self.text_model.finish(states)
        pooled = self.text_projection(finished[torch.arange(len(tokens), device=tokens.device), end])
        return (states if self.config.skip_last else finished), pooled
