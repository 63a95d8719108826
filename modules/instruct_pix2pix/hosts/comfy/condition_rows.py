"""The rows of a step as ComfyUI evaluates them: all in one batch, with what other nodes put on the model in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ...guidance.evaluation import pictures_alike
from ...guidance.rows import Kind
from .conditions import NAMES

Options = dict[str, Any]
"""ComfyUI's `model_options`: what other nodes put on the model."""


class ConditionRows:
    """A `guidance.denoiser.RowSource` of a sampling: `conditions` by `NAMES`, as ComfyUI has prepared them for it.

    `levels` are the sampling's sigmas. `evaluated` counts the rows so far.
    """

    def __init__(self, model: Any, conditions: Mapping[str, list[dict[str, Any]]], levels: Sequence[float]) -> None:
        self.options: Options = {}
        """Those of the call at hand."""
        self.evaluated = 0
        self._model = model
        self._conditions = conditions
        self._levels = levels

    @property
    def prompt_weights(self) -> list[float]:
        """See `RowSource`: what acts together in a CONDITIONING is one text to ComfyUI."""
        return [1.0]

    def texts_at(self, step: int) -> tuple[Tensor, ...]:
        """See `RowSource`: texts change where one of them has a range of its own."""
        level = self._levels[step]
        each = [one for conditions in self._conditions.values() for one in conditions]
        return (torch.tensor([_is_on(one, level) for one in each]),)

    def __call__(
        self, x: Tensor, sigma: Tensor, step: int, kinds: Sequence[Kind], needed: Sequence[Sequence[Kind]]
    ) -> Tensor:
        """See `RowSource`. Pictures that need other rows than the first ones have to share their input picture."""
        del step
        denoised = x.new_zeros(len(kinds), *x.shape)
        levels = sigma.reshape(-1).to(x.device)
        for own, pictures in pictures_alike(needed).items():
            some = x if len(pictures) == len(x) else x[pictures]
            asked = [self._conditions[NAMES[kind]] for kind in own]
            samplers = import_module("comfy.samplers")
            found = samplers.calc_cond_batch(
                self._model, asked, some, levels[:1].expand(len(some)), as_two(self.options)
            )
            self.evaluated += len(some) * len(own)
            places = torch.tensor([kinds.index(kind) for kind in own]).unsqueeze(1)
            denoised[places, torch.tensor(pictures)] = torch.stack(list(found))
        return denoised


def _is_on(condition: Mapping[str, Any], level: float) -> bool:
    start, end = condition.get("timestep_start"), condition.get("timestep_end")
    return not (start is not None and level > float(start)) and not (end is not None and level < float(end))


def as_two(options: Options) -> Options:
    """Return the options with rows told to other nodes' patches as the two kinds that they know: 0 and 1.

    ComfyUI tells a patch of each row its place among the conditions, and patches such as IP-Adapter's take 0 for the
    prompt and 1 for the negative prompt. A third row is one of the latter.
    """
    extension = import_module("comfy.patcher_extension")
    made = {**options, "transformer_options": extension.copy_nested_dicts(options.get("transformer_options", {}))}
    extension.add_wrapper_with_key(
        extension.WrappersMP.APPLY_MODEL, "instruct_pix2pix", _tell_two, made, is_model_options=True
    )
    theirs: Callable[..., Tensor] | None = options.get("model_function_wrapper")
    if theirs is not None:
        made["model_function_wrapper"] = lambda apply, args: theirs(
            apply, {**args, "cond_or_uncond": _two(args["cond_or_uncond"])}
        )
    return made


def _tell_two(executor: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A wrapper of ComfyUI's around its model: x, t, c_concat, c_crossattn, control, transformer_options."""
    given = list(args)
    if len(given) > 5:
        given[5] = _told(given[5])
    else:
        kwargs["transformer_options"] = _told(kwargs.get("transformer_options", {}))
    return executor(*given, **kwargs)


def _told(options: Options) -> Options:
    return {**options, "cond_or_uncond": _two(options.get("cond_or_uncond", []))}


def _two(places: Sequence[int]) -> list[int]:
    return [min(place, 1) for place in places]
