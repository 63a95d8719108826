"""The text encoder of CLIP, under the key names of Stable Diffusion checkpoints.

References: Radford et al. 2021 (arXiv 2103.00020); the names are those of Hugging Face's `CLIPTextModel`.
"""

from __future__ import annotations

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
    """Four times the width and back, with CLIP's approximation of GELU, x * sigmoid(1.702 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, width * 4)
        self.fc2 = Linear(width * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))


class CLIPLayer(nn.Module):
    """A transformer layer: self-attention and MLP, each behind a LayerNorm, each residual."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = CLIPMLP(config.width)
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
        """Rows beyond the vocabulary, [n, width]: those of `TextEncoder.add_words`."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self._embedded(tokens) + self.position_embedding.weight[: tokens.shape[1]]

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.added is None:
            return self.token_embedding(tokens)
        beyond = tokens - self.token_embedding.num_embeddings
        known = self.token_embedding(tokens.clamp(max=self.token_embedding.num_embeddings - 1))
        return torch.where((beyond >= 0)[..., None], self.added[beyond.clamp(min=0)], known)


class CLIPLayers(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CLIPLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPTextModel(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = CLIPEmbeddings(config)
        self.encoder = CLIPLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.final_layer_norm(self.encoder(self.embeddings(tokens)))


class TextEncoder(nn.Module):
    """Token ids [B, T <= 77] int64 -> the last hidden state [B, T, width], on which SD1 is conditioned."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = CLIPTextModel(config)

    def add_words(self, vectors: Tensor) -> list[int]:
        """Add rows [n, width] to the vocabulary and return their ids, which follow those that it has."""
        embeddings = self.text_model.embeddings
        weight, known = embeddings.token_embedding.weight, embeddings.added
        first = len(weight) + (0 if known is None else len(known))
        rows = vectors.to(weight.device, weight.dtype)
        embeddings.added = rows if known is None else torch.cat([known, rows])
        return list(range(first, first + len(rows)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.text_model(tokens)
