"""Workflows with the nodes, written for an edit: as ComfyUI's editor opens them, and as its API takes them.

Needs nothing of ComfyUI's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

from ...models.known import KNOWN
from ...settings import EditSettings
from .inputs import CONDITIONING, DEFAULT_SAMPLER, DEFAULT_SCHEDULER, EDIT, GUIDER, OPTIONAL, REQUIRED, is_widget

SAMPLERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "Euler a": (DEFAULT_SAMPLER, "Uniform"),
        "Euler": ("euler", "Uniform"),
        "Heun": ("heun", "Uniform"),
        "DPM2": ("dpm_2", "Karras"),
        "DPM++ 2M": ("dpmpp_2m", "Karras"),
        "DPM++ SDE": ("dpmpp_sde", "Karras"),
        "DPM++ 2M SDE": ("dpmpp_2m_sde", "Exponential"),
        "DPM++ 3M SDE": ("dpmpp_3m_sde", "Exponential"),
        "LMS": ("lms", "Uniform"),
        "DDIM": ("ddim", "SGM Uniform"),
        "UniPC": ("uni_pc", "SGM Uniform"),
        "LCM": ("lcm", "SGM Uniform"),
    }
)
"""ComfyUI's names of our samplers, and the schedule that each has where it is 'Automatic'."""

SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "Uniform": DEFAULT_SCHEDULER,
        "Karras": "karras",
        "Exponential": "exponential",
        "SGM Uniform": "sgm_uniform",
        "Simple": "simple",
    }
)
"""And of our schedules."""

CARRIED = (
    "negative",
    "text_cfg",
    "image_cfg",
    "steps",
    "sampler",
    "schedule",
    "seed",
    "rescale",
    "size",
    "speed",
    "keep_rest",
    "keep_amount",
    "apg_eta",
    "apg_threshold",
    "apg_momentum",
    "no_text",
    "guidance",
)
"""Settings of an edit, besides the instruction, that a workflow can carry."""

CHECKPOINT = KNOWN["instruct-pix2pix"].file
"""The file that a workflow names unless told otherwise."""

_WIDTH, _GAP, _TOP = 340, 60, 80
_ROW, _TEXT_ROW = 26, 90


class Output(NamedTuple):
    """What one node gives to another."""

    node: int
    slot: int


@dataclass(frozen=True)
class Placed:
    """A node of a workflow."""

    kind: str
    inputs: Mapping[str, Any]
    """By name, in the node's order: a value of a field, or an `Output`."""
    outputs: Sequence[tuple[str, str]]
    """Name and type of each."""
    types: Mapping[str, str]
    """The type of each input that is no field."""
    column: int
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What ComfyUI's editor keeps after the value of a field, such as what becomes of a seed after a run."""
    properties: Mapping[str, Any] = field(default_factory=dict)


class Workflow:
    """A workflow for an edit: with the one box, or with Edit Conditioning and Edit Guider.

    `image` and `checkpoint` are names in ComfyUI's own folders.
    """

    def __init__(
        self, settings: EditSettings, *, image: str = "example.png", checkpoint: str = CHECKPOINT, builder: bool = False
    ) -> None:
        self.nodes: list[Placed] = []
        model, clip, vae = self._checkpoint(checkpoint)
        picture = self._add(
            Placed("LoadImage", {"image": image}, [("IMAGE", "IMAGE"), ("MASK", "MASK")], {}, 0, {"image": ["image"]})
        )
        values = _values(settings)
        seed = {"seed": ["randomize" if settings.seed == -1 else "fixed"]}
        if not builder:
            sockets = {"model": model, "clip": clip, "vae": vae, "image": Output(picture, 0)}
            made = Output(self._ours(EDIT, {**values, **sockets}, [("image", "IMAGE"), ("map", "MASK")], 1, seed), 0)
        else:
            made = self._built(values, model, clip, vae, Output(picture, 0), seed["seed"])
        saved = {"images": made, "filename_prefix": "instruct-pix2pix"}
        self._add(Placed("SaveImage", saved, [], {"images": "IMAGE"}, 5 if builder else 2))

    def _checkpoint(self, name: str) -> list[Output]:
        offer = next((one for one in KNOWN.values() if one.file == name), None)
        outputs = [(kind, kind) for kind in ("MODEL", "CLIP", "VAE")]
        had: dict[str, Any] = {}  # where the editor says that it can be had
        if offer is not None:
            address = f"{offer.page}/resolve/main/{name}"
            had = {"models": [{"name": name, "url": address, "directory": "checkpoints"}]}
        place = self._add(Placed("CheckpointLoaderSimple", {"ckpt_name": name}, outputs, {}, 0, {}, had))
        return [Output(place, slot) for slot in range(3)]

    def _built(
        self, values: Mapping[str, Any], model: Output, clip: Output, vae: Output, image: Output, after: Sequence[str]
    ) -> Output:
        size = {"image": image, "upscale_method": "lanczos", "largest_size": values["size"] or 512}
        small = self._plain("ImageScaleToMaxDimension", size, {"image": "IMAGE"}, [("IMAGE", "IMAGE")], 1)
        texts = {"clip": clip, "vae": vae, "image": Output(small, 0), **values}
        outputs = [("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent", "LATENT")]
        said = self._ours(CONDITIONING, texts, outputs, 2)
        sockets = {"model": model, "positive": Output(said, 0), "negative": Output(said, 1)}
        guider = self._ours(GUIDER, {**values, **sockets}, [("GUIDER", "GUIDER")], 3)
        noise = self._add(
            Placed(
                "RandomNoise", {"noise_seed": values["seed"]}, [("NOISE", "NOISE")], {}, 3, {"noise_seed": list(after)}
            )
        )
        chosen = {"sampler_name": values["sampler_name"]}
        sampler = self._plain("KSamplerSelect", chosen, {}, [("SAMPLER", "SAMPLER")], 3)
        levels = {"model": model, "scheduler": values["scheduler"], "steps": values["steps"], "denoise": 1.0}
        sigmas = self._plain("BasicScheduler", levels, {"model": "MODEL"}, [("SIGMAS", "SIGMAS")], 3)
        taken = {
            "noise": Output(noise, 0),
            "guider": Output(guider, 0),
            "sampler": Output(sampler, 0),
            "sigmas": Output(sigmas, 0),
            "latent_image": Output(said, 2),
        }
        types = {
            "noise": "NOISE",
            "guider": "GUIDER",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        }
        latents = [("output", "LATENT"), ("denoised_output", "LATENT")]
        sampled = self._plain("SamplerCustomAdvanced", taken, types, latents, 4)
        decoded = {"samples": Output(sampled, 0), "vae": vae}
        types = {"samples": "LATENT", "vae": "VAE"}
        return Output(self._plain("VAEDecode", decoded, types, [("IMAGE", "IMAGE")], 5), 0)

    def _plain(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        types: Mapping[str, str],
        outputs: Sequence[tuple[str, str]],
        column: int,
    ) -> int:
        return self._add(Placed(kind, inputs, outputs, types, column))

    def _ours(
        self,
        kind: str,
        given: Mapping[str, Any],
        outputs: Sequence[tuple[str, str]],
        column: int,
        extra: Mapping[str, Sequence[Any]] | None = None,
    ) -> int:
        """Add a node of this pack: its fields take what is `given` by their names, or their defaults."""
        known = {**REQUIRED[kind], **OPTIONAL[kind]}
        types = {name: one for name, (one, _) in known.items() if not is_widget(one)}
        inputs = {
            name: given[name] if name in given else told.get("default")
            for name, (_, told) in known.items()
            if name in given or name not in types
        }
        return self._add(Placed(kind, inputs, outputs, types, column, extra or {}))

    def _add(self, node: Placed) -> int:
        self.nodes.append(node)
        return len(self.nodes)

    def for_api(self) -> dict[str, Any]:
        """Return it as ComfyUI's `/prompt` takes it."""
        return {
            str(number): {
                "class_type": node.kind,
                "inputs": {
                    name: [str(value.node), value.slot] if isinstance(value, Output) else value
                    for name, value in node.inputs.items()
                },
            }
            for number, node in enumerate(self.nodes, 1)
        }

    def for_editor(self) -> dict[str, Any]:
        """Return it as ComfyUI's editor opens and saves it."""
        numbers, links = count(1), []
        placed: list[dict[str, Any]] = []
        bottoms: dict[int, int] = {}
        for number, node in enumerate(self.nodes, 1):
            sockets: list[dict[str, Any]] = [
                {"name": name, "type": kind, "link": None} for name, kind in node.types.items()
            ]
            for slot, socket in enumerate(sockets):
                value = node.inputs.get(socket["name"])
                if isinstance(value, Output):
                    socket["link"] = next(numbers)
                    links.append([socket["link"], value.node, value.slot, number, slot, socket["type"]])
            fields = {name: value for name, value in node.inputs.items() if not isinstance(value, Output)}
            height = 60 + _ROW * max(len(sockets), len(node.outputs))
            height += sum(_TEXT_ROW if name in ("instruction", "negative") else _ROW for name in fields)
            height += 320 if node.kind in ("LoadImage", "SaveImage") else 0
            top = bottoms.get(node.column, _TOP)
            bottoms[node.column] = top + height + _GAP
            placed.append(
                {
                    "id": number,
                    "type": node.kind,
                    "pos": [node.column * (_WIDTH + _GAP), top],
                    "size": [_WIDTH, height],
                    "flags": {},
                    "order": number - 1,
                    "mode": 0,
                    "inputs": sockets,
                    "outputs": [{"name": name, "type": kind, "links": []} for name, kind in node.outputs],
                    "properties": {"Node name for S&R": node.kind, **node.properties},
                    "widgets_values": [
                        one for name, value in fields.items() for one in (value, *node.extra.get(name, ()))
                    ],
                }
            )
        for number, source, slot, *_ in links:
            placed[source - 1]["outputs"][slot]["links"].append(number)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, repr(self.for_api()))),
            "revision": 0,
            "last_node_id": len(placed),
            "last_link_id": len(links),
            "nodes": placed,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def _values(settings: EditSettings) -> dict[str, Any]:
    """Return what the fields of the nodes have for these settings, by the fields' names."""
    carried = {name: getattr(settings, name) for name in CARRIED}
    longest = settings.target_longest
    sampler, automatic = SAMPLERS[settings.sampler]
    schedule = automatic if settings.schedule == "Automatic" else settings.schedule
    return {
        **{name: value for name, value in carried.items() if name not in ("sampler", "schedule")},
        "instruction": settings.instruction,
        "sampler_name": sampler,
        "scheduler": SCHEDULES[schedule],
        "seed": max(0, settings.seed),
        "size": 0 if longest is None else longest // 8 * 8,
    }
