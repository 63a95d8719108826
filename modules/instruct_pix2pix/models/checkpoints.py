"""Find out what a model file is, from the tensor shapes in its header and never from its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..settings import KNOBS, EditSettings
from ..text import number_text
from .bounded import MOST_JSON, parse_json, read_small
from .weights_files import TensorInfo, header, read_weights

EDIT_KINDS = ("instruct-pix2pix", "CosXL-Edit")

_FAMILY_NAMES = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}

# The task of a UNet, by its input channels: 4 are the latent, the others are its conditioning.
_KIND_BY_CHANNELS = {
    4: "Stable Diffusion",
    5: "depth-to-image",
    7: "upscaler",
    8: "instruct-pix2pix",
    9: "inpainting",
}

# Other models with 8 channels, by a layer that only they have.
_NOT_EDITING = {"time_stack": "video", "temporal_transformer": "video", "cc_projection": "novel view"}

# Models without a UNet, by layers that only they have: SD3 (which UltraEdit is made of), FLUX, and others.
_TRANSFORMERS = {
    "joint_blocks.": "SD3",
    "pos_embed.proj.": "SD3",
    "double_blocks.": "FLUX",
    "single_transformer_blocks.": "FLUX",
    "transformer_blocks.": "transformer",
}

_LORA_MARKS = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down", "lora.up", "hada_w1", "lokr_w")

# A VAE's first layers, and the name of a later layer that only the diffusers layout has.
_VAE_INPUT, _VAE_ENCODER = "decoder.conv_in.weight", "encoder.conv_in.weight"
_VAE_DIFFUSERS = "decoder.mid_block.resnets.0.conv1.weight"
_TEXT_INPUT = "token_embedding.weight"
_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")

VAE, TEXT_ENCODER = "VAE", "text encoder"
"""The parts that a model needs beside its UNet."""

_FOLDERS = {VAE: ("vae",), TEXT_ENCODER: ("text_encoder", "text_encoder_2")}  # of a diffusers folder

SIGMAS = {"edm_vpred.sigma_min": 0.002, "edm_vpred.sigma_max": 120.0}
"""The tensors with the ends of CosXL's noise levels, and their usual values."""

_MOST_SHARDS = 64
_MOST_SCHEDULER = 50_000  # bytes

_ADVICE = "pick an instruct-pix2pix checkpoint, such as timbrooks/instruct-pix2pix or webui/instruct-pix2pix"
_WHY_NOT = {
    "Stable Diffusion": "This model makes pictures from text and takes no picture to edit",
    "refiner": "This model polishes SDXL pictures and takes no instruction",
    "inpainting": "This model fills a masked area and takes no instruction",
    "VAE": "This file is only the part that turns latents into pictures",
    "text encoder": "This file is only the part that reads text",
    "LoRA": "A LoRA changes a model and is not one by itself",
    "embedding": "An embedding is a word for a model and is not one by itself",
    "ControlNet": "A ControlNet steers a model and is not one by itself",
    "SD3": "This model, as UltraEdit is, is a transformer, and this program edits with UNets",
    "FLUX": "This model is a transformer, and this program edits with UNets",
    "transformer": "This model is a transformer, and this program edits with UNets",
    "unknown": "This file is not a model that can edit a picture",
}


SUITED = ("text_cfg", "image_cfg", "steps")
"""The settings whose value, where nobody asks for one, is the model's own. So is the size: see 'auto'."""


@dataclass(frozen=True)
class Suited:
    """The settings with which a model edits well."""

    text_cfg: float = KNOBS["text_cfg"].default
    image_cfg: float = KNOBS["image_cfg"].default
    steps: int = KNOBS["steps"].default
    size: int | None = None
    """The longest side in pixels; None where that is not known."""

    def fill(self, settings: EditSettings, asked: Collection[str]) -> EditSettings:
        """Return settings with those of the model in place of what nobody asked for, by the names of what was."""
        own = {name: getattr(self, name) for name in SUITED if name not in asked}
        return replace(settings, **own)

    @property
    def text(self) -> str:
        """For people: 'Text CFG 3, Image CFG 1.5, 30 steps, 768 px'."""
        size = f", {self.size} px" if self.size else ""
        scales = f"Text CFG {number_text(self.text_cfg)}, Image CFG {number_text(self.image_cfg)}"
        return f"{scales}, {self.steps} steps{size}"


_SUITED = {
    ("instruct-pix2pix", "sd1"): Suited(size=512),
    # as in the examples of diffusers/sdxl-instructpix2pix-768, and of Stability AI for CosXL-Edit
    ("instruct-pix2pix", "sdxl"): Suited(3.0, 1.5, 30, 768),
    ("CosXL-Edit", "sdxl"): Suited(7.0, 1.5, 20, 1024),
}


def suited_of(kind: str, family: str) -> Suited:
    """Return the settings with which a model edits well; `kind` and `family` are those of a `Checkpoint`."""
    return _SUITED.get((kind, family), Suited())


@dataclass(frozen=True)
class Checkpoint:
    """What a model file is, and by which of its tensors that is known.

    `kind` is a name for people; `layout` is 'ldm', 'diffusers', 'lora' or 'none'; `family` is 'sd1', 'sd2',
    'sdxl', 'other' (a UNet of another size, such as a small demo model) or '' where there is no UNet.
    `dtype` is torch's name for the UNet's numbers, or 'mixed'. `has_ema` says that every tensor of the UNet has a
    twin of its shape, its moving average; `stray_ema` that there are twins that cannot be that. `missing` are the
    parts that an edit needs and that are neither in the file nor beside it; `vae` is the file beside it with the VAE
    that it lacks itself.
    """

    path: Path
    kind: str
    layout: str
    family: str
    in_channels: int | None
    context_dim: int | None
    has_ema: bool
    dtype: str
    size_bytes: int
    reason: str
    stray_ema: bool = False
    missing: tuple[str, ...] = ()
    vae: Path | None = None

    @property
    def editable(self) -> bool:
        """Whether this model edits pictures by instruction, with all the parts that this takes."""
        return self.kind in EDIT_KINDS and not self.missing

    @property
    def suited(self) -> Suited:
        """The settings with which a model of this kind edits well."""
        return suited_of(self.kind, self.family)

    @property
    def label(self) -> str:
        """For lists: 'instruct-pix2pix, SD1, 8 channels', or '…, without VAE'."""
        family = _FAMILY_NAMES.get(self.family) or (f"context {self.context_dim}" if self.context_dim else "")
        channels = f"{self.in_channels} channels" if self.in_channels else ""
        without = f"without {' and '.join(self.missing)}" if self.missing else ""
        return ", ".join(part for part in (self.kind, family, channels, without) if part)

    @property
    def verdict(self) -> str:
        """Whether it can edit: with the settings that suit it, where they are known, or with what to do instead."""
        if not self.editable:
            return self.advice
        return f"It can edit pictures. {self.suited.text} suit it." if self.suited.size else "It can edit pictures."

    @property
    def advice(self) -> str:
        """What to do when the model is not editable; empty when it is."""
        if self.editable:
            return ""
        if self.kind in EDIT_KINDS:
            if (self.path.parent / "model_index.json").is_file() and self.path.is_dir():
                return f"This is a part of the model '{self.path.absolute().parent.name}': name that folder."
            beside = self.missing == (VAE,) and not self.path.is_dir()
            put = f"put its VAE beside it as '{self.path.stem}.vae.safetensors', or " if beside else ""
            return f"An edit needs what is missing: {put}take a complete checkpoint."
        why = _WHY_NOT.get(self.kind, f"This is a model of the kind '{self.kind}' and takes no instruction")
        return f"{why}: {_ADVICE}."


def inspect(path: str | Path) -> Checkpoint:
    """Return what a weights file or a diffusers folder is, in milliseconds and without reading tensor data.

    Raises UserError for a path that is missing, a file that is truncated or holds no weights, a pickle
    that names code, and a folder without a UNet. A sound file of another kind gets its own kind.
    """
    path = Path(path)
    tensors: dict[str, TensorInfo] = {}
    files = model_files(path)
    for file in files:
        tensors.update(header(file))
    if not tensors:
        raise UserError(f"'{path.name}' holds no named tensors: {_ADVICE}.")
    parts: dict[str, list[tuple[Path, ...]]] = {VAE: [], TEXT_ENCODER: []}
    if (path / "unet").is_dir():
        parts = {part: [weight_files(path / folder) for folder in folders] for part, folders in _FOLDERS.items()}
    files = (*files, *(file for found in parts.values() for some in found for file in some))
    size = sum(file.stat().st_size for file in files if file.is_file())
    found = _classify(path, size, tensors)
    if found.kind not in EDIT_KINDS:
        return found
    labelled = _first(tensors, *_LABELS) is not None
    if labelled and (path / "unet").is_dir() and is_continuous(_read_scheduler(path)):
        found = replace(found, kind="CosXL-Edit", reason=f"{found.reason}, and its scheduler is CosXL's")
    has_vae = any(parts[VAE]) or all(_first(tensors, name) for name in (_VAE_INPUT, _VAE_ENCODER))
    texts = sum(map(bool, parts[TEXT_ENCODER])) or sum(name.endswith(_TEXT_INPUT) for name in tensors)
    has_text = texts > labelled  # whoever asks for a label reads two
    vae = None if has_vae else _vae_beside(path)
    reason = f"{found.reason}; its VAE is {vae.name}" if vae else found.reason
    missing = (*(() if has_vae or vae else (VAE,)), *(() if has_text else (TEXT_ENCODER,)))
    return replace(found, reason=reason, missing=missing, vae=vae)


def _read_scheduler(folder: Path) -> dict[str, Any]:
    """Return what a diffusers folder says of its noise levels; nothing where that cannot be read."""
    try:
        found = parse_json(read_small(folder / "scheduler" / "scheduler_config.json", _MOST_SCHEDULER))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def is_continuous(scheduler: Mapping[str, Any]) -> bool:
    """Whether the config of a diffusers scheduler is CosXL's: one of the EDM schedulers, with v-prediction."""
    return str(scheduler.get("_class_name")).startswith("EDM") and scheduler.get("prediction_type") == "v_prediction"


def noise_levels(path: Path) -> tuple[float, float]:
    """Return the smallest and the largest sigma that a file of CosXL names, or the usual ones.

    Raises UserError for those of no model.
    """
    stored = read_weights(path)
    try:
        low, high = (float(stored[name].item()) if name in stored else usual for name, usual in SIGMAS.items())
    except (ValueError, RuntimeError, TypeError):  # not one number
        low, high = 0.0, 0.0
    if not 1e-6 <= low < high <= 1e6:
        raise UserError(f"'{path.name}' names noise levels that cannot be used: download it again.")
    return low, high


def vae_names(path: Path) -> tuple[Path, ...]:
    """Return where a VAE may lie beside a checkpoint file, by the names that A1111 knows (its modules/sd_vae.py)."""
    return tuple(path.with_name(f"{path.stem}.vae{ending}") for ending in (".safetensors", ".pt", ".ckpt"))


def _vae_beside(path: Path) -> Path | None:
    """Return the VAE that a person put beside a checkpoint file.

    Raises UserError for a file of that name that cannot be read; one that is no VAE does not count.
    """
    for file in () if path.is_dir() else vae_names(path):
        if file.exists():
            names = header(file)
            if all(_first(names, name) for name in (_VAE_INPUT, _VAE_ENCODER)):
                return file
    return None


def model_files(path: str | Path) -> tuple[Path, ...]:
    """Return the files that hold the UNet: the path itself, or those of a diffusers folder or of a bare UNet folder.

    Those of a transformer, where a folder has that in place of a UNet: so it gets a name.

    Raises UserError for a folder with neither.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return (path,)
        files = weight_files(path / "unet") or weight_files(path / "transformer") or weight_files(path)
    except OSError as error:
        raise UserError(f"'{path.name}' cannot be read: {error.strerror}.") from error
    if not files:
        raise UserError(
            f"'{path.name or path}' is a folder without a model: name a checkpoint file, or a diffusers "
            "folder (one with unet/diffusion_pytorch_model.safetensors in it)."
        )
    return files


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that together hold one diffusers component, such as unet/ or vae/; empty if there are none.

    safetensors before .bin, full precision before a variant such as fp16, EMA weights before 'non_ema'.
    Raises UserError for an index of shards that is damaged.
    """
    if not folder.is_dir():
        return ()
    found = [
        file
        for file in folder.iterdir()
        if file.name.split(".")[0] in ("diffusion_pytorch_model", "model", "pytorch_model") and file.is_file()
    ]
    found.sort(key=lambda file: ("non_ema" in file.name, len(file.name), file.name))
    for ending in (".safetensors", ".bin"):
        for file in found:
            if file.suffix == ending:
                return (file,)
            if f"{ending}.index" in file.name and file.suffix == ".json":
                return _shards(file)
    return ()


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(parse_json(read_small(index, MOST_JSON))["weight_map"].values()))
        if len(names) > _MOST_SHARDS:
            raise ValueError("more files than a model has")
        # A name with a folder in it could lead anywhere on this machine.
        plain = (n == Path(n).name and "\\" not in n and n.endswith((".safetensors", ".bin")) for n in names)
        if not names or not all(plain):
            raise ValueError("not plain file names")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"'{index.name}' is not a list of weight files: download the folder again.") from error
    return tuple(index.parent / name for name in names)


def ema_twin(name: str) -> str:
    """Return the key under which LDM training keeps the moving average of the UNet tensor `name`."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def short_hash(path: str | Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return A1111's 'Model hash', the first 10 hex digits of `whole_hash`, which see."""
    return whole_hash(path, progress)[:10]


def whole_hash(path: str | Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 of the whole file (of a folder, its UNet), 64 hex digits.

    Reads everything, so it takes seconds; `progress(bytes done, bytes in all)` is called on the way.
    Raises UserError for a path that cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    try:
        files = model_files(path)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if not file.is_file() and file.exists():  # a pipe or device would never end
                raise UserError(f"'{file.name}' is not a file.")
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, total)
    except OSError as error:
        raise UserError(f"'{Path(path).name}' cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _classify(path: Path, size: int, tensors: Mapping[str, TensorInfo]) -> Checkpoint:
    """Name the kind of a file by its tensors: a UNet first, then the smaller things that it may be."""

    def checkpoint(kind: str, layout: str, reason: str) -> Checkpoint:
        return Checkpoint(path, kind, layout, "", None, None, False, _dtype(tensors), size, reason)

    if control := _first(tensors, "input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"):
        layout = "diffusers" if "cond_embedding" in control else "ldm"
        return checkpoint("ControlNet", layout, f"it has the layer {_shown(control)}")

    for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
        for layout, first, label in (
            ("ldm", "input_blocks.0.0.weight", "label_emb.0.0.weight"),
            ("diffusers", "conv_in.weight", "add_embedding.linear_1.weight"),
        ):
            if prefix + first in tensors and len(tensors[prefix + first].shape) == 4:
                return _classify_unet(path, size, tensors, layout, prefix, first, label)

    if lora := next((name for name in tensors if any(mark in name for mark in _LORA_MARKS)), None):
        return checkpoint("LoRA", "lora", f"it has low-rank pairs ({_shown(lora)}) and no UNet")
    if vae := _first(tensors, _VAE_INPUT):
        layout = "diffusers" if vae.removesuffix(_VAE_INPUT) + _VAE_DIFFUSERS in tensors else "ldm"
        return checkpoint("VAE", layout, f"it has the decoder layer {_shown(vae)} and no UNet")
    if words := _first(tensors, _TEXT_INPUT):
        return checkpoint("text encoder", "none", f"it has the vocabulary {_shown(words)} and no UNet")
    if vector := next((n for n in tensors if n == "emb_params" or n.startswith("string_to_param.")), None):
        return checkpoint("embedding", "none", f"it has the word vectors {_shown(vector)}")
    for mark, kind in _TRANSFORMERS.items():
        starts = (mark, f"diffusion_model.{mark}", f"model.diffusion_model.{mark}")
        if layer := next((name for name in tensors if name.startswith(starts)), None):
            return checkpoint(kind, "none", f"it has the layer {_shown(layer)} and no UNet")
    return checkpoint("unknown", "none", f"none of its {len(tensors):,} tensors is a known first layer")


def _classify_unet(
    path: Path, size: int, tensors: Mapping[str, TensorInfo], layout: str, prefix: str, first: str, label: str
) -> Checkpoint:
    """Name a file with a UNet, by the widths of the layers where picture, text and label enter it."""
    width, channels = tensors[prefix + first].shape[:2]
    unet = {name: info for name, info in tensors.items() if name.startswith(prefix)}
    context = next((_width(i) for name, i in unet.items() if name.endswith("attn2.to_k.weight")), None)
    label_width = _width(unet[prefix + label]) if prefix + label in unet else None
    twins = {name: tensors.get(ema_twin(name)) for name in unet} if layout == "ldm" and prefix else {}
    some = any(twins.values())
    has_ema = some and all(twin and twin.shape == unet[name].shape for name, twin in twins.items())

    family = {(320, 768, None): "sd1", (320, 1024, None): "sd2", (320, 2048, 2816): "sdxl"}.get(
        (width, context, label_width), "other"
    )
    kind = _KIND_BY_CHANNELS.get(channels, "unknown")
    reason = f"the first convolution takes {channels} channels, "
    reason += f"cross-attention is {context} wide" if context else "there is no cross-attention"
    if label_width:
        reason += f", the label embedding takes {label_width}"
    if (context, label_width) == (1280, 2560) and channels == 4:
        kind = "refiner"
    if SIGMAS.keys() & tensors.keys():
        reason += ", and the file names the noise levels of CosXL (edm_vpred)"
        if kind == "instruct-pix2pix" and label_width:
            kind = "CosXL-Edit"
    if channels == 8:
        for other, name in ((other, n) for n in tensors for mark, other in _NOT_EDITING.items() if mark in n):
            kind, reason = other, f"{reason}, but it has the layer {_shown(name)}"
            break
        if context is None:
            kind = "unknown"  # nothing in it reads an instruction
    if has_ema:
        reason += "; the file holds the moving average (EMA) too"
    elif some:
        reason += "; its moving average (EMA) is not of this model and is not used"
    stray = some and not has_ema
    return Checkpoint(path, kind, layout, family, channels, context, has_ema, _dtype(unet), size, reason, stray)


def _first(tensors: Mapping[str, TensorInfo], *endings: str) -> str | None:
    return next((name for name in tensors if name.endswith(endings)), None)


def _shown(name: str) -> str:
    """A tensor's name for a sentence: it came from a file, so it is kept short and free of control codes."""
    return ascii(name)[:100]


def _width(info: TensorInfo) -> int | None:
    return info.shape[1] if len(info.shape) > 1 else None


def _dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The one type of the floating-point tensors, or 'mixed'."""
    types = {info.dtype for info in tensors.values() if "float" in info.dtype}
    if not types:
        types = {info.dtype for info in tensors.values()}
    return types.pop() if len(types) == 1 else "mixed"
