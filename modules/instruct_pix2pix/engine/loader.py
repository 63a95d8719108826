"""From a checkpoint to networks that run: names mapped, tensors mapped from the file, copied only to change them.

The modules are made without memory (on the meta device) and take the file's tensors by assignment. A tensor that
already has the format the machine wants stays where it is, in the file; one that does not is converted, a few
hundred megabytes of file at a time, so that the peak stays near the size of the running weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from ..models.checkpoints import Checkpoint, ema_twin, inspect, weight_files
from ..models.weights_files import header, read_weights
from .clip import TextEncoder
from .config import CONFIGS, ModelConfig, first_line, load_config
from .diffusers_keys import read_configs, unet_name, vae_name
from .layers import packs
from .precision import Machine
from .unet import UNet
from .vae import VAE

_AT_A_TIME = 256 * 2**20  # bytes of file mapped while tensors are converted


@dataclass(frozen=True)
class Source:
    """Where one tensor lies: the file and its name there."""

    file: Path
    name: str


@dataclass(frozen=True)
class Networks:
    """The three networks of a model, ready to run."""

    unet: UNet
    vae: VAE
    text: TextEncoder
    config: ModelConfig


class _Unfilled(TorchFunctionMode):
    """Modules made in here keep their weights as allocated: a meta tensor's random fill imports half of torch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        return None if getattr(func, "__module__", "") == "torch.nn.init" else func(*args, **(kwargs or {}))


def find_config(checkpoint: Checkpoint) -> ModelConfig:
    """Return how this checkpoint is built: by the yaml beside it, its own configs, or its family.

    Raises UserError for a checkpoint that is not an instruct-pix2pix model this engine can run.
    """
    if not checkpoint.editable:
        raise UserError(f"'{checkpoint.path.name}' cannot edit: it is {checkpoint.label}. {checkpoint.advice}")
    folder, beside = checkpoint.path.is_dir(), checkpoint.path.with_suffix(".yaml")
    described = folder or beside.exists()
    if checkpoint.family in ("sd2", "sdxl") or (checkpoint.family != "sd1" and not described):
        raise UserError(
            f"'{checkpoint.path.name}' is {checkpoint.label}, which this version cannot run: "
            "use an SD1 checkpoint such as timbrooks/instruct-pix2pix."
        )
    if folder:
        return read_configs(checkpoint.path)
    return load_config(beside if described else CONFIGS / "sd1.yaml")


def load_networks(path: Path, machine: Machine) -> tuple[Checkpoint, Networks]:
    """Load a checkpoint file or diffusers folder.

    Raises UserError when it is not a model that can edit, is damaged, or does not fit its config.
    """
    checkpoint = inspect(path)
    config = find_config(checkpoint)
    try:
        with torch.device("meta"), _Unfilled():
            networks = Networks(UNet(config.unet), VAE(config.vae), TextEncoder(config.text), config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        raise UserError(
            f"The config of '{path.name}' describes no network that can be built ({first_line(error)}): "
            "remove the yaml beside it, or take the one that came with the checkpoint."
        ) from error
    parts: dict[str, nn.Module] = {"unet": networks.unet, "vae": networks.vae, "text": networks.text}
    sources = _folder_sources(path, parts, config) if path.is_dir() else _file_sources(path, parts)
    for name, module in parts.items():
        _fill(module, sources[name], machine, path.name)
    return checkpoint, networks


def _file_sources(path: Path, parts: Mapping[str, nn.Module]) -> dict[str, dict[str, Source]]:
    """Map each network's tensors to the names of the LDM layout, EMA twins preferred."""
    names = header(path).keys()

    def source(part: str, key: str) -> Source:
        if part == "vae":
            return Source(path, f"first_stage_model.{key}")
        if part == "text":
            name = f"cond_stage_model.transformer.{key}"  # older transformers wrote no 'text_model'
            return Source(path, name if name in names else name.replace(".text_model.", "."))
        name = f"model.diffusion_model.{key}"
        return Source(path, ema_twin(name) if ema_twin(name) in names else name)

    return {part: {key: source(part, key) for key in module.state_dict()} for part, module in parts.items()}


def _folder_sources(path: Path, parts: Mapping[str, nn.Module], config: ModelConfig) -> dict[str, dict[str, Source]]:
    """Map each network's tensors to the files and names of a diffusers folder."""
    found: dict[str, dict[str, Source]] = {}
    for part, folder in (("unet", "unet"), ("vae", "vae"), ("text", "text_encoder")):
        where = {name: file for file in weight_files(path / folder) for name in header(file)}
        renamed: Callable[[str], str]
        if part == "unet":
            renamed = lambda key: unet_name(key, config.unet)  # noqa: E731
        elif part == "vae":
            old = "encoder.mid_block.attentions.0.query.weight" in where
            renamed = lambda key, old=old: vae_name(key, config.vae, old)  # noqa: E731
        else:  # newer transformers write no 'text_model'
            whole = any(name.startswith("text_model.") for name in where)
            renamed = str if whole else lambda key: key.removeprefix("text_model.")
        names = {key: renamed(key) for key in parts[part].state_dict()}
        found[part] = {key: Source(where.get(name, path), name) for key, name in names.items()}
    return found


def _fill(module: nn.Module, sources: Mapping[str, Source], machine: Machine, model: str) -> None:
    """Give a meta module its tensors. Raises UserError naming a tensor that is missing or of another shape."""
    infos = {file: header(file) for file in {s.file for s in sources.values()} if file.is_file()}
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    packed = packs(machine)  # then from the file's layout at the first call
    dtype_name = str(machine.dtype).removeprefix("torch.")
    state: dict[str, Tensor] = {}
    convert: list[tuple[str, Source, int]] = []
    keep: list[tuple[str, Source]] = []
    for key, source in sources.items():
        info = infos.get(source.file, {}).get(source.name)
        if info is None:
            raise UserError(
                f"'{model}' lacks the tensor {source.name}: it is not a complete checkpoint, download another."
            )
        if not _fits(info.shape, shapes[key]):
            raise UserError(
                f"'{model}' does not fit its config: {source.name} is {list(info.shape)}, "
                f"but {list(shapes[key])} was expected."
            )
        size = torch.Size(info.shape).numel() * getattr(torch, info.dtype).itemsize
        if machine.device.type == "cpu" and info.dtype == dtype_name and not _has_layout(shapes[key]):
            keep.append((key, source))
        else:
            convert.append((key, source, size))

    for group in _groups(convert):
        mapped = {file: read_weights(file) for file in {source.file for _, source, _ in group}}
        for key, source, _ in group:
            value = mapped[source.file][source.name].reshape(shapes[key])
            if packed:
                state[key] = _own_pages(value.shape, machine.dtype).copy_(value)
            else:
                layout = torch.channels_last if _has_layout(shapes[key]) else torch.contiguous_format
                state[key] = value.to(machine.device, machine.dtype, memory_format=layout, copy=True)
        del mapped, value  # pyright: ignore[reportPossiblyUnboundVariable] - gives the mapped pages back
    mapped = {file: read_weights(file) for file in {source.file for _, source in keep}}
    for key, source in keep:
        state[key] = mapped[source.file][source.name].reshape(shapes[key])
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)


def _own_pages(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor whose memory goes back to the system with it, whatever the allocator keeps.

    Plain weights go one by one as they are packed; their holes would fit little that comes after.
    """
    size = shape.numel() * dtype.itemsize
    if size < mmap.PAGESIZE:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _fits(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the shapes agree; a 1x1 convolution may be written as a matrix and the other way round."""
    stored, wanted = tuple(stored), tuple(wanted)
    return stored == wanted or (*stored, 1, 1) == wanted or stored == (*wanted, 1, 1)


def _has_layout(shape: torch.Size) -> bool:
    """Whether channels-last differs from the file's layout: a convolution wider than one pixel."""
    return len(shape) == 4 and shape[2:].numel() > 1


def _groups(items: list[tuple[str, Source, int]]) -> Iterator[list[tuple[str, Source, int]]]:
    group: list[tuple[str, Source, int]] = []
    size = 0
    for item in items:
        group.append(item)
        size += item[2]
        if size >= _AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group
