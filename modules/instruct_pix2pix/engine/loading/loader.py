"""Loads a checkpoint into networks that are ready to run, without reading it as a whole.

The networks are built without memory (on the meta device), and the file's tensors are assigned to their parameters. A
tensor that already has the machine's format stays in the mapped file. Others are converted, a few hundred megabytes of
the file at a time, so that the peak of memory stays near the size of the running weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import UserError
from ...models.checkpoints import Checkpoint, ema_twin, inspect, noise_levels, weight_files
from ...models.moving_average import belongs
from ...models.weights_files import TensorInfo, TensorSource, fits, header, read_weights
from ..networks.clip import PooledTextEncoder, TextEncoder
from ..networks.int8_layers import quantize
from ..networks.layers import packs
from ..networks.unet import UNet
from ..networks.vae import VAE
from ..offload import home_of
from ..placement import usual_work
from ..precision import Machine
from .config import CONFIGS, ModelConfig, first_line, load_config
from .diffusers_keys import read_configs, unet_name, vae_name

_UNET = "model.diffusion_model."
_TEXT = "cond_stage_model.transformer."
_TEXT_XL, _TEXT_2_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
_OPENCLIP = {  # OpenCLIP's names for transformers'
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding": "positional_embedding",
    "encoder.layers.": "transformer.resblocks.",
    "self_attn": "attn",
    "layer_norm": "ln_",
    "final_ln_": "ln_final",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OLD_VAE = "encoder.mid_block.attentions.0.query.weight"  # one of diffusers' names before 2023

# The number, or one for each row, that weights in 8 bits are to be multiplied by: ComfyUI's older and newer name.
_SCALES = ("scale_weight", "weight_scale")
# What tells of packed weights that are more than that: block-wise formats, bitsandbytes.
_PACKED = ("weight_scale_inv", "weight_scale_2", "weight.absmax", "weight.quant_map")

_BYTES_AT_ONCE = 256 * 2**20  # of the mapped file that are converted before it is unmapped


@dataclass(frozen=True)
class Networks:
    """The networks of a model, ready to run."""

    unet: UNet
    vae: VAE
    text: TextEncoder
    config: ModelConfig
    notes: tuple[str, ...] = ()
    """What a person should know of how they were loaded: sentences."""
    text_2: PooledTextEncoder | None = None
    """SDXL's second text encoder."""

    @property
    def texts(self) -> list[TextEncoder | PooledTextEncoder]:
        """The text encoders, one or two."""
        return [self.text, *([self.text_2] if self.text_2 else [])]


class _WithoutInit(TorchFunctionMode):
    """Modules built in this context skip `torch.nn.init`: on meta tensors it imports half of torch, for nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        return None if getattr(func, "__module__", "") == "torch.nn.init" else func(*args, **(kwargs or {}))


def find_config(checkpoint: Checkpoint) -> ModelConfig:
    """Return a checkpoint's config: from the yaml beside it, a diffusers folder's own configs, or that of its family.

    Raises UserError for a checkpoint that is not an instruct-pix2pix model or that this engine cannot run.
    """
    if not checkpoint.editable:
        raise UserError(f"'{checkpoint.path.name}' cannot edit: it is {checkpoint.label}. {checkpoint.advice}")
    folder, beside = checkpoint.path.is_dir(), checkpoint.path.with_suffix(".yaml")
    described = folder or beside.exists()
    if checkpoint.family == "sd2" or (checkpoint.family not in ("sd1", "sdxl") and not described):
        raise UserError(
            f"'{checkpoint.path.name}' is {checkpoint.label}, which this version cannot run: "
            "use an SD1 checkpoint such as timbrooks/instruct-pix2pix, or an SDXL one."
        )
    if folder:
        config = read_configs(checkpoint.path)
    else:
        config = load_config(beside if beside.exists() else CONFIGS / f"{checkpoint.family}.yaml")
    if not beside.exists():
        config = replace(config, size=checkpoint.suited.size or config.size)
    if checkpoint.kind == "CosXL-Edit" and not folder:
        config = replace(config, cosxl=noise_levels(checkpoint.path))
    return config


def load_networks(path: Path, machine: Machine) -> tuple[Checkpoint, Networks]:
    """Load a checkpoint file or diffusers folder: onto the machine's device, or beside a card that it is too large for.

    Raises UserError when it is not a model that can edit, is damaged, or does not fit its config, and as `home_of`.
    """
    checkpoint = inspect(path)
    config = find_config(checkpoint)
    try:
        with torch.device("meta"), _WithoutInit():
            second = PooledTextEncoder(config.text_2) if config.text_2 else None
            networks = Networks(
                UNet(config.unet), VAE(config.vae), TextEncoder(config.text), config, text_2=second
            )
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        raise UserError(
            f"The config of '{path.name}' does not describe a network that can be built ({first_line(error)}): "
            "remove the yaml beside it, or take the one that came with the checkpoint."
        ) from error
    parts: dict[str, nn.Module] = {"unet": networks.unet, "vae": networks.vae, "text": networks.text}
    if second is not None:
        parts["text_2"] = second
    use_ema, notes = _choose_ema(checkpoint, networks.unet)
    sources = folder_sources(path, parts, config) if path.is_dir() else _file_sources(path, parts, use_ema)
    if checkpoint.vae:
        sources["vae"] = _vae_sources(checkpoint.vae, networks.vae, config)
    home = home_of(list(parts.values()), usual_work(config, machine.dtype.itemsize), machine)
    for name, module in parts.items():
        _fill(module, sources[name], machine, path.name, home)
    return checkpoint, replace(networks, notes=notes)


def load_vae(file: Path, config: ModelConfig, machine: Machine, home: torch.device) -> VAE:
    """Load a VAE of the shapes in `config` from a file of its own to `home`. Raises UserError where it has others."""
    with torch.device("meta"), _WithoutInit():
        vae = VAE(config.vae)
    _fill(vae, _vae_sources(file, vae, config), machine, file.name, home)
    return vae


def _choose_ema(checkpoint: Checkpoint, unet: UNet) -> tuple[bool, tuple[str, ...]]:
    """Return whether to take the UNet's moving averages, as the authors do, and a note where they are left alone."""
    names = [f"{_UNET}{key}" for key in unet.state_dict()]
    if checkpoint.has_ema and header(checkpoint.path).keys() >= set(names) and belongs(checkpoint.path, names):
        return True, ()
    if not (checkpoint.has_ema or checkpoint.stray_ema):
        return False, ()
    note = f"The moving average (EMA) in '{checkpoint.path.name}' is not that of its weights, as after a merge: "
    return False, (f"{note}it is left alone, and the weights are used.",)


def _file_sources(path: Path, parts: Mapping[str, nn.Module], use_ema: bool) -> dict[str, dict[str, TensorSource]]:
    """Map each network's tensors to the names of the LDM layout."""
    names = header(path).keys()

    def source(part: str, key: str) -> TensorSource:
        found = ldm_source(path, part, key, sdxl="text_2" in parts)
        if part == "text" and found.name not in names:  # older transformers wrote no 'text_model'
            return replace(found, name=found.name.replace(".text_model.", "."))
        return replace(found, name=ema_twin(found.name)) if part == "unet" and use_ema else found

    return {part: {key: source(part, key) for key in module.state_dict()} for part, module in parts.items()}


def ldm_source(path: Path, part: str, key: str, *, sdxl: bool) -> TensorSource:
    """Return where the LDM layout, of SDXL or of SD1, has the tensor `key` of one of our networks."""
    if part == "text_2":
        return _openclip_source(path, key)
    prefix = {"unet": _UNET, "vae": "first_stage_model.", "text": _TEXT_XL if sdxl else _TEXT}[part]
    return TensorSource(path, prefix + key)


def _openclip_source(path: Path, key: str) -> TensorSource:
    """Return where OpenCLIP's layout has the tensor `key` of SDXL's second text encoder."""
    name = key.removeprefix("text_model.")
    if name == "text_projection.weight":
        return TensorSource(path, f"{_TEXT_2_XL}text_projection", transposed=True)
    for ours, theirs in _OPENCLIP.items():
        name = name.replace(ours, theirs)
    for third, letter in enumerate("qkv"):
        ours = f".attn.{letter}_proj."
        if ours in name:
            return TensorSource(path, _TEXT_2_XL + name.replace(ours, ".attn.in_proj_"), third=third)
    if name == "positional_embedding.weight":
        name = "positional_embedding"
    return TensorSource(path, _TEXT_2_XL + name)


def _vae_sources(file: Path, vae: VAE, config: ModelConfig) -> dict[str, TensorSource]:
    """Map the VAE's tensors to those of a file of its own: LDM's names, alone or as in a checkpoint, or diffusers'."""
    names = header(file).keys()
    keys = list(vae.state_dict())
    if "decoder.mid_block.resnets.0.conv1.weight" in names:
        return {key: TensorSource(file, vae_name(key, config.vae, _OLD_VAE in names)) for key in keys}
    prefix = "first_stage_model." if f"first_stage_model.{keys[0]}" in names else ""
    return {key: TensorSource(file, f"{prefix}{key}") for key in keys}


def folder_sources(
    path: Path, parts: Mapping[str, nn.Module], config: ModelConfig
) -> dict[str, dict[str, TensorSource]]:
    """Map each network's tensors to the files and names of a diffusers folder."""
    found: dict[str, dict[str, TensorSource]] = {}
    for part in parts:
        folder = {"text": "text_encoder", "text_2": "text_encoder_2"}.get(part, part)
        files = {name: file for file in weight_files(path / folder) for name in header(file)}
        keys = parts[part].state_dict()
        if part == "unet":
            names = {key: unet_name(key, config.unet) for key in keys}
        elif part == "vae":
            names = {key: vae_name(key, config.vae, _OLD_VAE in files) for key in keys}
        else:  # newer transformers write no 'text_model'
            whole = any(name.startswith("text_model.") for name in files)
            names = {key: key if whole else key.removeprefix("text_model.") for key in keys}
        found[part] = {key: TensorSource(files.get(name, path), name) for key, name in names.items()}
    return found


def _fill(
    module: nn.Module, sources: Mapping[str, TensorSource], machine: Machine, model: str, home: torch.device
) -> None:
    """Give a meta module its tensors, as the machine wants them, on the device `home`.

    Raises UserError naming a tensor that is missing or of another shape.
    """
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    infos = _infos(sources, shapes, model)
    dtype_name = str(machine.dtype).removeprefix("torch.")
    kept = {
        key
        for key, (info, scale) in infos.items()
        if home.type == "cpu"
        and (info.dtype, scale) == (dtype_name, None)
        and not _wants_channels_last(shapes[key])
    }
    located = {key: (source, infos[key].scale) for key, source in sources.items()}

    def reread(key: str) -> Tensor:
        return _converted({key: located[key]}, shapes, machine, home)[key]

    def take(state: Mapping[str, Tensor]) -> None:
        module.load_state_dict(state, strict=False, assign=True)
        if machine.int8 and isinstance(module, UNet):  # at once, before more is read
            quantize(module, reread)

    mapped = {file: read_weights(file) for file in {sources[key].file for key in kept}}
    take({k: sources[k].of(mapped[sources[k].file][sources[k].name]).reshape(shapes[k]) for k in kept})
    for group in _groups({key: info.tensor for key, info in infos.items() if key not in kept}):
        take(_converted({key: located[key] for key in group}, shapes, machine, home))
    module.eval().requires_grad_(False)


class _Found(NamedTuple):
    """What a file tells of a tensor: its description, and the name of the tensor that it is to be multiplied by."""

    tensor: TensorInfo
    scale: str | None


def _infos(sources: Mapping[str, TensorSource], shapes: Mapping[str, torch.Size], model: str) -> dict[str, _Found]:
    """Return what the files tell of each tensor.

    Raises UserError for one that is missing, of another shape, or packed in a way that is not read here.
    """
    headers = {file: header(file) for file in {source.file for source in sources.values()} if file.is_file()}
    infos: dict[str, _Found] = {}
    for key, source in sources.items():
        beside = headers.get(source.file, {})
        info = beside.get(source.name)
        if info is None:
            raise UserError(
                f"'{model}' lacks the tensor {source.name}: it is not a complete checkpoint, download another."
            )
        stem = source.name.removesuffix("weight")
        scale = next((stem + ending for ending in _SCALES if stem + ending in beside), None)
        rows = torch.Size(beside[scale].shape).numel() if scale else 1
        packed = "float" not in info.dtype or any(stem + ending in beside for ending in _PACKED)
        if packed or rows not in (1, *info.shape[:1]):
            raise UserError(
                f"'{model}' holds its weights packed in a way that this program does not read "
                f"({source.name}, {info.dtype}): take a file in fp16."
            )
        if not fits(source.shape_of(info.shape), shapes[key]):
            raise UserError(
                f"'{model}' does not fit its config: {source.name} is {list(info.shape)}, "
                f"but {list(shapes[key])} was expected{'' if source.third is None else ' three times'}."
            )
        infos[key] = _Found(info, scale)
    return infos


def _converted(
    sources: Mapping[str, tuple[TensorSource, str | None]],
    shapes: Mapping[str, torch.Size],
    machine: Machine,
    home: torch.device,
) -> dict[str, Tensor]:
    """Return copies of these tensors on `home`, multiplied by their scales, as the machine wants them.

    The files are mapped no longer than that takes.
    """
    mapped = {file: read_weights(file) for file in {source.file for source, _ in sources.values()}}
    packed = packs(machine)  # then layers pack them at their first call, from the file's layout
    state: dict[str, Tensor] = {}
    for key, (source, scale) in sources.items():
        stored = mapped[source.file][source.name]
        if scale is not None:
            stored = stored.float() * mapped[source.file][scale].float().reshape(-1, *(1,) * (stored.ndim - 1))
        value = source.of(stored).reshape(shapes[key])
        if packed:
            state[key] = _empty_on_own_pages(value.shape, machine.dtype).copy_(value)
        else:
            layout = torch.channels_last if _wants_channels_last(shapes[key]) else torch.contiguous_format
            state[key] = value.to(home, machine.dtype, memory_format=layout, copy=True)
    return state


def _empty_on_own_pages(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor whose memory returns to the system when it is freed, whatever the allocator keeps.

    Plain weights are freed one by one as layers pack them; in the allocator's heap they would leave holes that fit
    little of what comes after.
    """
    size = shape.numel() * dtype.itemsize
    if size < mmap.PAGESIZE:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _wants_channels_last(shape: torch.Size) -> bool:
    """Whether channels-last differs from the file's layout: for a convolution wider than one pixel."""
    return len(shape) == 4 and shape[2:].numel() > 1


def _groups(infos: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    """Yield the keys in groups of about `_BYTES_AT_ONCE` of their files."""
    group: list[str] = []
    size = 0
    for key, info in infos.items():
        group.append(key)
        size += torch.Size(info.shape).numel() * getattr(torch, info.dtype).itemsize
        if size >= _BYTES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group
