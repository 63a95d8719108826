"""The UNet of latent diffusion, top to bottom in one file, under the checkpoint's own key names.

References: Rombach et al. 2022 (arXiv 2112.10752) for the network, CompVis/stable-diffusion for the key
layout (`input_blocks`, `middle_block`, `output_blocks`), Podell et al. 2023 (arXiv 2307.01952) for the
label embedding and the transformer depths of SDXL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...guidance.deep import DeepFeatures
from ..kernels.fused import group_norm, layer_norm, norm_silu, upsample_2x
from .layers import Conv2d, GatedLinear, Linear, attention, conv_norm_silu, mlp_in_parts


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the network, under the names of an LDM yaml; the defaults are those of instruct-pix2pix on SD1."""

    in_channels: int = 8
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    num_heads: int = 8
    num_head_channels: int = -1
    context_dim: int = 768
    use_linear_in_transformer: bool = False
    adm_in_channels: int | None = None

    def heads(self, channels: int) -> int:
        """Attention heads at this width: a fixed count (SD1) or a fixed head width (SD2, SDXL)."""
        return self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding [B, dim] in float32 of (possibly fractional) timesteps [B]: cosines, then sines.

    Vaswani et al., arXiv 1706.03762, section 3.5.
    """
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * freqs[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Condition:
    """The texts that rows are conditioned on, and what the network makes of them once for all steps."""

    def __init__(self, text: Tensor, label: Tensor | None = None) -> None:
        """`text` is [N, T, D]: one for each row. `label` is [N, adm], or [1, adm] for all: see `size_label`."""
        self.text = text
        self.label = label
        self._keys: dict[CrossAttention, tuple[Tensor, Tensor]] = {}
        self._rows: list[Condition] = []

    def rows(self) -> list[Condition]:
        """Return a condition for each row alone, always the same ones."""
        if not self._rows:
            labels = [self.label] * len(self.text)
            if self.label is not None and len(self.label) > 1:
                labels = self.label.split(1)
            self._rows = [Condition(*row) for row in zip(self.text.split(1), labels, strict=True)]
        return self._rows

    def keys(self, layer: CrossAttention) -> tuple[Tensor, Tensor]:
        """Return the keys and values that this layer makes of the texts."""
        if layer not in self._keys:
            self._keys[layer] = layer.keys(self.text)
        return self._keys[layer]

    def copy(self) -> Condition:
        """Return a condition of the same texts, in memory of its own."""
        return Condition(self.text.clone(), None if self.label is None else self.label.clone())

    def overwrite(self, other: Condition) -> None:
        """Take over other texts of the same shape, in place, with the keys and values that were made of these."""
        self.text.copy_(other.text)
        if self.label is not None and other.label is not None:
            self.label.copy_(other.label)
        for layer, pair in self._keys.items():
            for mine, new in zip(pair, other.keys(layer), strict=True):
                mine.copy_(new)


def size_label(pooled: Tensor, height: int, width: int, channels: int) -> Tensor:
    """Pooled vectors [N, P] and the size of the result in pixels -> SDXL's label [N, channels].

    The vectors, then the sinusoids of original size, crop and target size, height first (arXiv 2307.01952, section
    2.2); the crop is (0, 0), the sizes are the result's.
    """
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled.device)
    embedded = timestep_embedding(sizes, (channels - pooled.shape[1]) // len(sizes)).flatten()
    return torch.cat([pooled, embedded.to(pooled).expand(len(pooled), -1)], dim=1)


def take(x: Tensor, entries: Sequence[int] | None) -> Tensor:
    """Return the entries of x [M, ..] that rows have, [N, ..]; None stands for each its own.

    Rows that have an entry in common part at the first layer that looks at their texts: from there on there are N.
    No list of entries has to be sent to a GPU.
    """
    return x if entries is None or len(x) == len(entries) else torch.cat([x[i : i + 1] for i in entries])


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, and a residual path."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the dropout of training, kept for the key names
            Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, C, h, w], emb [B or 1, E] -> [B, out, h, w]."""
        h = norm_silu(self.in_layers[0], x)
        h = conv_norm_silu(self.in_layers[2], self.out_layers[0], h, shift=self.emb_layers(emb))
        return self.out_layers[3](h, add=self.skip_connection(x))


class CrossAttention(nn.Module):
    """Multi-head attention of x [B, N, C] over a context [B, T, D], or over itself."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim, channels, bias=False)
        self.to_v = Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(Linear(channels, channels))

    def forward(self, x: Tensor, add: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, N, C] -> [B, N, C], `add` [B, N, C] added."""
        k, v = self.keys(x) if condition is None else condition.keys(self)
        return self.to_out[0](attention(self._heads(self.to_q(x)), k, v), add=add)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> keys and values [B, heads, T, C / heads]."""
        return self._heads(self.to_k(x)), self._heads(self.to_v(x))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h c) -> b h n c", h=self.heads)


class GEGLU(nn.Module):
    """Linear layer gated by a GELU of its other half (Shazeer, arXiv 2002.05202)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = GatedLinear(channels, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FeedForward(nn.Module):
    """The transformer's MLP: GEGLU to four times the width and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, channels * 4), nn.Identity(), Linear(channels * 4, channels))

    def forward(self, x: Tensor, add: Tensor) -> Tensor:
        """x [B, N, C] -> [B, N, C], `add` [B, N, C] added."""
        return mlp_in_parts(self.net[0], self.net[2], x, add)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, MLP; each behind a LayerNorm, each residual."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.ff = FeedForward(channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, condition: Condition, entries: Sequence[int] | None) -> Tensor:
        x = take(self.attn1(layer_norm(self.norm1, x), x), entries)
        x = self.attn2(layer_norm(self.norm2, x), x, condition)
        return self.ff(layer_norm(self.norm3, x), x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map [B, C, H, W]."""

    def __init__(self, channels: int, depth: int, context_dim: int, heads: int, linear: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.linear = linear
        self.proj_in = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads) for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, condition: Condition, entries: Sequence[int] | None) -> Tensor:
        height = x.shape[2]
        h = group_norm(self.norm, x)
        if not self.linear:
            h = self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c")
        if self.linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, condition, entries)
        x = take(x, entries)
        if self.linear:
            return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=height)
        return self.proj_out(rearrange(h, "b (h w) c -> b c h w", h=height), add=x)


class UNetDownsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class UNetUpsample(nn.Module):
    """Nearest-neighbour to the size of the next skip connection, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None) -> Tensor:
        # the size of the skip rather than twice ours: latents need not be multiples of 8
        twice = size in (None, (2 * x.shape[2], 2 * x.shape[3]))
        return self.conv(upsample_2x(x) if twice else F.interpolate(x, size=size))


class UNetBlock(nn.Sequential):
    """The layers under one number of the key layout, in order; each is given the inputs that it takes."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        emb: Tensor,
        condition: Condition,
        entries: Sequence[int] | None,
        size: torch.Size | None = None,
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, condition, entries)
            elif isinstance(layer, UNetUpsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Predicts the noise in a latent, given time, text and, in the extra channels, the input picture."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, levels = config.model_channels, len(config.channel_mult)
        emb = width * 4
        self.time_embed = nn.Sequential(Linear(width, emb), nn.SiLU(), Linear(emb, emb))
        if config.adm_in_channels:
            self.label_emb = nn.Sequential(
                nn.Sequential(Linear(config.adm_in_channels, emb), nn.SiLU(), Linear(emb, emb))
            )

        def transformer(channels: int, depth: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels, depth, config.context_dim, config.heads(channels), config.use_linear_in_transformer
            )

        def layers(channels: int, out: int, level: int) -> list[nn.Module]:
            attends = 2**level in config.attention_resolutions and config.transformer_depth[level]
            return [
                ResBlock(channels, out, emb),
                *([transformer(out, config.transformer_depth[level])] if attends else []),
            ]

        channels = width
        skips = [channels]
        inputs = [UNetBlock(Conv2d(config.in_channels, width, 3, padding=1))]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                inputs.append(UNetBlock(*layers(channels, width * mult, level)))
                channels = width * mult
                skips.append(channels)
            if level < levels - 1:
                inputs.append(UNetBlock(UNetDownsample(channels)))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(inputs)

        self.middle_block = UNetBlock(
            ResBlock(channels, channels, emb),
            transformer(channels, config.transformer_depth[-1] or config.transformer_depth[-2]),
            ResBlock(channels, channels, emb),
        )

        outputs = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                block = layers(channels + skips.pop(), width * mult, level)
                channels = width * mult
                if level and i == config.num_res_blocks:
                    block.append(UNetUpsample(channels))
                outputs.append(UNetBlock(*block))
        self.output_blocks = nn.ModuleList(outputs)
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), Conv2d(channels, config.out_channels, 3, padding=1)
        )

    def by_level(self) -> Iterator[tuple[nn.Module, int]]:
        """Yield the layers between the first convolution and the last, each with its level, as `HasLevels` says.

        Level 0 has the latent's resolution, each next level half of the one before.
        """
        per_level, last = self.config.num_res_blocks + 1, len(self.config.channel_mult) - 1
        for i, block in enumerate(self.input_blocks[1:]):
            yield block, i // per_level
        yield self.middle_block, last
        for i, block in enumerate(self.output_blocks):
            for layer in block.children():
                yield layer, last - i // per_level - isinstance(layer, UNetUpsample)

    def parts(self) -> Iterator[nn.Module]:
        """Yield the layers that hold nearly all weights, in the order in which they are called, as `HasParts` says."""
        kinds = (ResBlock, TransformerBlock, UNetDownsample, UNetUpsample)
        yield from (layer for layer in self.modules() if isinstance(layer, kinds))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | Condition,
        entries: Sequence[int] | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """x [M, in, h, w], timesteps t [M] or [1], texts [N, T, D] -> [N, out, h, w].

        `entries` [N] says for each row which entry of x it has, all of one timestep; None: each its own, and M is N.
        With rows in `deep` only the last output block, and what it takes of the input blocks, is evaluated above them;
        without, they are put there.
        """
        if isinstance(condition, Tensor):
            condition = Condition(condition)
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels).to(x.dtype))
        if condition.label is not None:
            if len(condition.label) > 1 and entries is not None:  # rows with labels of their own share no layer
                x, entries = take(x, entries), None
            emb = emb + self.label_emb(condition.label)
        first = self.input_blocks[0](x, emb, condition, entries)
        h = None if deep is None else deep.rows
        if h is None:
            h = self._inner(first, emb, condition, entries)
            if deep is not None:
                deep.rows = h
        h = torch.cat([h, take(first, entries)], dim=1)
        h = self.output_blocks[-1](h, emb, condition, entries)
        return self.out[2](norm_silu(self.out[0], h))

    def _inner(self, h: Tensor, emb: Tensor, condition: Condition, entries: Sequence[int] | None) -> Tensor:
        """Evaluate all blocks but the first and the last: the deep features, from what the first one makes."""
        sizes, skips = [h.shape[-2:]], list[Tensor]()
        for block in self.input_blocks[1:]:
            h = block(h, emb, condition, entries)
            skips.append(h)
            sizes.append(h.shape[-2:])
        h = self.middle_block(h, emb, condition, entries)
        for block in self.output_blocks[:-1]:
            sizes.pop()
            h = torch.cat([h, take(skips.pop(), entries)], dim=1)
            h = block(h, emb, condition, entries, sizes[-1])
        return h


def as_depths(depth: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """An LDM yaml gives one transformer depth, or one for each level."""
    return (depth,) * levels if isinstance(depth, int) else tuple(depth)
