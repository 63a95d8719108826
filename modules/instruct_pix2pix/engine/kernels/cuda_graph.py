"""The UNet on a CUDA GPU: its kernels recorded once for a shape, then launched as one graph.

A step of SD1 is some thousand kernels, and a fast GPU is done with each before Python has launched the next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...guidance.deep import DeepFeatures
from ..networks.unet import Condition, UNet

MOST = 4
"""Recordings to keep, those used last: a speed that leaves rows out has two."""

Shape = tuple[object, ...]


class GraphedUNet(nn.Module):
    """A UNet for inference: on CUDA it records its second call of a shape, and replays that at those that follow.

    The first call of a shape runs as it is, so that a single step pays for no recording. Elsewhere than on CUDA, and
    where gradients are wanted, every call does. A recording keeps the memory that a call needs.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet
        self._graphs: OrderedDict[Shape, _Graph | None] = OrderedDict()

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        entries: Sequence[int] | None,
        is_room: Callable[[], bool],
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """As UNet.forward; the result is overwritten by the next call of this shape.

        `is_room` tells whether a recording may keep as much memory as a call takes. Few kernels lie above deep
        features: they are not worth one.
        """
        if x.device.type != "cuda" or torch.is_grad_enabled() or (deep is not None and deep.rows is not None):
            return self.unet(x, t, condition, entries, deep)
        key = _shape(x, t, condition, entries)
        known = self._graphs.get(key)
        if known is None and key in self._graphs and is_room():
            known = self._graphs[key] = _Graph(self.unet, x, t, condition, entries)
        self._graphs.setdefault(key, None)
        self._graphs.move_to_end(key)
        while len(self._graphs) > MOST:
            self._graphs.popitem(last=False)
        return self.unet(x, t, condition, entries, deep) if known is None else known(x, t, condition, deep)

    def knows(self, x: Tensor, t: Tensor, condition: Condition, entries: Sequence[int] | None) -> bool:
        """Whether a call of this shape is recorded, so that it takes no more memory."""
        return self._graphs.get(_shape(x, t, condition, entries)) is not None

    @property
    def recorded(self) -> int:
        """How many shapes are recorded."""
        return sum(graph is not None for graph in self._graphs.values())

    def forget(self) -> None:
        """Drop all recordings, and the memory that they keep."""
        self._graphs.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: ANN401 - as in nn.Module
        self.forget()  # weights that move leave their recordings behind
        return super()._apply(fn, recurse)


def _shape(x: Tensor, t: Tensor, condition: Condition, entries: Sequence[int] | None) -> Shape:
    label = None if condition.label is None else condition.label.shape
    return x.shape, x.dtype, t.shape, condition.text.shape, label, None if entries is None else tuple(entries)


class _Graph:
    """One call's kernels, with the tensors that they read and write."""

    def __init__(
        self, unet: UNet, x: Tensor, t: Tensor, condition: Condition, entries: Sequence[int] | None
    ) -> None:
        self._x, self._t, self._condition = x.clone(), t.clone(), condition.copy()
        self._held = condition
        """The one that `_condition` has the texts of."""
        self._deep = DeepFeatures()
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(x.device)
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):  # what is set up at a first call must not be recorded
            unet(self._x, self._t, self._condition, entries, DeepFeatures())
        torch.cuda.current_stream(x.device).wait_stream(aside)
        with torch.cuda.graph(self._graph):
            self._noise = unet(self._x, self._t, self._condition, entries, self._deep)

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, deep: DeepFeatures | None) -> Tensor:
        self._x.copy_(x)
        self._t.copy_(t)
        if condition is not self._held:  # a Condition never changes: the same one has the same texts
            self._condition.overwrite(condition)
            self._held = condition
        self._graph.replay()
        if deep is not None and self._deep.rows is not None:
            deep.rows = self._deep.rows.clone()
        return self._noise
