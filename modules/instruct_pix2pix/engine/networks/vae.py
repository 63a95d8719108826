"""The autoencoder between pictures and latents (KL-f8), under the checkpoint's own key names.

References: Rombach et al. 2022 (arXiv 2112.10752), CompVis/latent-diffusion for the key layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..kernels.fused import group_norm, norm_silu, upsample_2x
from .layers import Conv2d, attention, conv_norm_silu


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the autoencoder; the names are those of an LDM yaml's `ddconfig`."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    in_channels: int = 3
    out_ch: int = 3

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent cell (8)."""
        return 2 ** (len(self.ch_mult) - 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class VAEResBlock(nn.Module):
    """Two convolutions and a residual path: [B, C, h, w] -> [B, out, h, w]."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Identity() if channels == out_channels else Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = conv_norm_silu(self.conv1, self.norm2, norm_silu(self.norm1, x))
        return self.conv2(h, add=self.nin_shortcut(x))


class VAEAttention(nn.Module):
    """Single-head self-attention over all positions of the smallest feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = group_norm(self.norm, x)
        q, k, v = (rearrange(f(h), "b c h w -> b 1 (h w) c") for f in (self.q, self.k, self.v))
        h = rearrange(attention(q, k, v), "b (h w) c -> b c h w", h=x.shape[2])
        return self.proj_out(h, add=x)


class VAEMiddle(nn.Module):
    """The blocks at the smallest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = VAEResBlock(channels, channels)
        self.attn_1 = VAEAttention(channels)
        self.block_2 = VAEResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class VAEDownsample(nn.Module):
    """Half the resolution by a strided convolution, padded at the right and bottom only, as in training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VAEUpsample(nn.Module):
    """Twice the resolution by nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample_2x(x))


def _residual_blocks(channels: int, out_channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(VAEResBlock(channels if i == 0 else out_channels, out_channels) for i in range(count))


class VAEDownLevel(nn.Module):
    """The encoder's blocks at one resolution, and the way to the next unless this is the last."""

    def __init__(self, channels: int, out_channels: int, blocks: int, last: bool) -> None:
        super().__init__()
        self.block = _residual_blocks(channels, out_channels, blocks)
        self.downsample = nn.Identity() if last else VAEDownsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.downsample(x)


class VAEUpLevel(nn.Module):
    """The decoder's blocks at one resolution, and the way to the next unless this is the last."""

    def __init__(self, channels: int, out_channels: int, blocks: int, last: bool) -> None:
        super().__init__()
        self.block = _residual_blocks(channels, out_channels, blocks)
        self.upsample = nn.Identity() if last else VAEUpsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(x)


class VAEEncoder(nn.Module):
    """Picture [B, 3, H, W] -> features [B, 2 * z_channels, H / f, W / f]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            VAEDownLevel(before, width, config.num_res_blocks, last=i == len(widths) - 1)
            for i, (before, width) in enumerate(zip([config.ch, *widths], widths, strict=False))
        )
        self.mid = VAEMiddle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = Conv2d(widths[-1], 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, self.mid(h)))


class VAEDecoder(nn.Module):
    """Features [B, z_channels, h, w] -> picture [B, 3, h * f, w * f]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = VAEMiddle(widths[-1])
        self.up = nn.ModuleList(  # numbered from the largest picture, run from the smallest
            VAEUpLevel(before, width, config.num_res_blocks + 1, last=i == 0)
            for i, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, h))


class VAE(nn.Module):
    """Encoder and decoder, with the 1x1 convolutions around the latent."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VAEEncoder(config)
        self.decoder = VAEDecoder(config)
        self.quant_conv = Conv2d(2 * config.z_channels, 2 * config.z_channels, 1)
        self.post_quant_conv = Conv2d(config.z_channels, config.z_channels, 1)

    def by_level(self) -> Iterator[tuple[nn.Module, int]]:
        """Yield the layers between the first convolutions and the last, each with its level, as `HasLevels` says.

        Level 0 has the picture's resolution, each next level half of the one before.
        """
        for level, (down, up) in enumerate(zip(self.encoder.down, self.decoder.up, strict=True)):
            yield down, level
            for layer in up.children():
                yield layer, level - isinstance(layer, VAEUpsample)
        for middle in (self.encoder.mid, self.decoder.mid):
            yield middle, len(self.config.ch_mult) - 1

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Picture [B, 3, H, W] in -1..1 -> mean and log-variance of the posterior, each [B, 4, H/8, W/8]."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent [B, 4, h, w] -> picture [B, 3, 8h, 8w], about -1..1."""
        return self.decoder(self.post_quant_conv(z))
