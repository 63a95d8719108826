"""Layers that have two sets of weights, their own and changed ones, which change places without a bit lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.layers import parameters_of, plain_weight, replace_parameters, set_parameters
from ..precision import Machine

Change = Callable[[torch.Size, str], "Tensor | None"]
"""(shape, 'weight' or 'bias') -> what to add to it, float32; None for nothing."""


class Exchange:
    """Layers whose weights were changed; `swap` exchanges the changed ones for the layers' own and back.

    On a CPU a layer is given other parameters, packed as they are; on an accelerator the numbers are written into its
    memory, where recorded kernels read them, and the others wait in the machine's memory.
    """

    def __init__(self, changes: Mapping[nn.Module, Change], machine: Machine) -> None:
        """Compute the changed weights, layer by layer, and put them into use. What `changes` raises undoes it all."""
        self._machine = machine
        self._others: dict[nn.Module, dict[str, Any]] = {}
        """What each layer does not use at present."""
        try:
            with torch.inference_mode(False), torch.no_grad():
                for layer, change in changes.items():
                    self._change(layer, change)
        except BaseException:
            self.swap()
            raise

    def swap(self) -> None:
        """Give each layer the weights that it does not use."""
        with torch.inference_mode(False), torch.no_grad():
            for layer, other in self._others.items():
                self._others[layer] = self._in_use(layer, other)
                self._use(layer, other)

    def _change(self, layer: nn.Module, change: Change) -> None:
        own = parameters_of(layer)
        changed: dict[str, Tensor] = {}
        for name, value in (("weight", plain_weight(layer)), ("bias", own.get("bias"))):
            added = change(torch.Size([0]) if value is None else value.shape, name)
            if value is not None and added is not None:
                changed[name] = (value.float() + added.to(value.device)).to(value.dtype)
        self._others[layer] = self._in_use(layer, changed)
        if self._in_place:
            self._use(layer, changed)
        else:
            replace_parameters(layer, changed.get("weight"), changed.get("bias"), self._machine)

    @property
    def _in_place(self) -> bool:
        return self._machine.device.type != "cpu"

    def _in_use(self, layer: nn.Module, names: Iterable[str]) -> dict[str, Any]:
        """Return what is in use under these names, copied into the machine's memory where it is not there."""
        if self._in_place:
            return {name: layer.get_parameter(name).to("cpu", copy=True) for name in names}
        return parameters_of(layer)

    def _use(self, layer: nn.Module, values: Mapping[str, Any]) -> None:
        if not self._in_place:
            set_parameters(layer, values)
            return
        for name, value in values.items():
            layer.get_parameter(name).copy_(value)
