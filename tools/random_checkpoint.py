"""Write a checkpoint of random weights, complete in names and shapes: for tests and timings, not for pictures.

    python -m tools.random_checkpoint OUT [--config sd1|sdxl|PATH.yaml] [--cosxl] [--dtype fp16] [--ema] [--seed 0]

OUT ends in .safetensors or .ckpt. The weights are scaled so that signals keep their size from layer to layer and
stay finite in half precision.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.loading.loader import Networks
from instruct_pix2pix.engine.networks.clip import PooledTextEncoder, TextEncoder
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.engine.networks.vae import VAE
from instruct_pix2pix.engine.precision import DTYPES
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.checkpoints import SIGMAS, ema_twin
from tools.reference_networks import ldm_state

SD1, SDXL = CONFIGS / "sd1.yaml", CONFIGS / "sdxl.yaml"
_BLOCK = 4_194_301
"""Random numbers drawn in all; a prime, so that the rows of a weight do not repeat each other."""


def write_random_checkpoint(
    path: Path,
    config: Path = SD1,
    dtype: torch.dtype = torch.float16,
    ema: bool = False,
    seed: int = 0,
    cosxl: bool = False,
) -> None:
    """Write an LDM-layout checkpoint of the networks in the yaml `config`, with EMA twins of the UNet on wish.

    Every twin differs from its original by about 3%. With `cosxl` the file names CosXL's noise levels. A yaml other
    than those of SD1 and SDXL is copied beside the checkpoint, as a
    loader needs it there. Takes the memory of the weights in `dtype`. Raises UserError for another suffix and for a
    config that cannot be read.
    """
    if path.suffix not in (".safetensors", ".ckpt"):
        raise UserError(f"'{path.name}' must end in .safetensors or .ckpt.")
    tensors = dict(_tensors(config, dtype, ema, seed))
    if cosxl:
        tensors |= {name: torch.tensor(value) for name, value in SIGMAS.items()}
    partial = path.with_name(f"{path.name}.partial")
    try:
        if path.suffix == ".ckpt":
            torch.save({"epoch": 0, "global_step": 0, "state_dict": tensors}, partial)
        else:
            save_file(tensors, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if config not in (SD1, SDXL):
        shutil.copyfile(config, path.with_suffix(".yaml"))


def _tensors(config: Path, dtype: torch.dtype, ema: bool, seed: int) -> Iterator[tuple[str, Tensor]]:
    built = load_config(config)
    with torch.device("meta"):
        second = PooledTextEncoder(built.text_2) if built.text_2 else None
        empty = Networks(UNet(built.unet), VAE(built.vae), TextEncoder(built.text), built, text_2=second)
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(_BLOCK, generator=generator).to(dtype)
    for name, shape in ((name, value.shape) for name, value in ldm_state(empty).items()):
        weight = _random(block, name, shape)
        yield name, weight
        if ema and name.startswith("model.diffusion_model."):
            twin = ema_twin(name)
            yield twin, weight + 0.02 * (_random(block, twin, shape) - weight)
    # what a real file holds beside the networks
    text = "conditioner.embedders.0" if second else "cond_stage_model"
    yield f"{text}.transformer.text_model.embeddings.position_ids", torch.arange(built.text.context_length)[None]
    if ema:
        yield "model_ema.decay", torch.tensor(0.9999)
        yield "model_ema.num_updates", torch.tensor(1000, dtype=torch.int32)


def _random(block: Tensor, name: str, shape: torch.Size) -> Tensor:
    """A weight in the block's dtype: a stretch of the block that its name chooses, scaled by its fan-in.

    Drawing a billion normal numbers takes minutes, copying them seconds.
    """
    out = torch.empty(shape, dtype=block.dtype)
    scale = 0.1 if len(shape) < 2 else shape[1:].numel() ** -0.5
    flat = out.view(-1)
    start, done = zlib.crc32(name.encode()) % len(block), 0
    while done < len(flat):
        piece = block[start : start + len(flat) - done]
        torch.mul(piece, scale, out=flat[done : done + len(piece)])
        start, done = 0, done + len(piece)
    if len(shape) == 1 and name.endswith("weight"):  # of a norm
        out += 1
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.random_checkpoint", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="file to write, ending in .safetensors or .ckpt")
    parser.add_argument("--config", default="sd1", help="'sd1', 'sdxl' or a model yaml (default sd1)")
    parser.add_argument("--cosxl", action="store_true", help="name the noise levels of CosXL")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="number format (default fp16)")
    parser.add_argument("--ema", action="store_true", help="add the moving averages of the UNet")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other weights (default 0)")
    given = parser.parse_args(arguments)
    config = {"sd1": SD1, "sdxl": SDXL}.get(given.config) or Path(given.config)
    try:
        write_random_checkpoint(given.out, config, DTYPES[given.dtype], given.ema, given.seed, given.cosxl)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.out} ({given.out.stat().st_size / 1e9:.2f} GB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
