"""The UNet on a CUDA GPU: its kernels recorded once for a shape, then launched as one graph.

A step of SD1 is some thousand kernels, and a fast GPU is done with each before Python has launched the next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .unet import Context, UNet

MOST = 4
"""Recordings to keep, those used last: a speed that leaves rows out has two."""

Shape = tuple[object, ...]


class GraphedUNet(nn.Module):
    """A UNet for inference: on CUDA it records its second call of a shape, and plays that at those that follow.

    The first call of a shape runs as it is, so that a single step pays for no recording. Elsewhere than on CUDA, and
    where gradients are wanted, every call does. A recording keeps the memory that a call needs.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet
        self._met: OrderedDict[Shape, _Graph | None] = OrderedDict()

    def forward(self, x: Tensor, t: Tensor, context: Context, is_room: Callable[[], bool]) -> Tensor:
        """As UNet.forward; the result is overwritten by the next call of this shape.

        `is_room` tells whether a recording may keep as much memory as a call takes.
        """
        if x.device.type != "cuda" or torch.is_grad_enabled():
            return self.unet(x, t, context)
        key = _shape(x, t, context)
        known = self._met.get(key)
        if known is None and key in self._met and is_room():
            known = self._met[key] = _Graph(self.unet, x, t, context)
        self._met.setdefault(key, None)
        self._met.move_to_end(key)
        while len(self._met) > MOST:
            self._met.popitem(last=False)
        return self.unet(x, t, context) if known is None else known(x, t, context)

    def knows(self, x: Tensor, t: Tensor, context: Context) -> bool:
        """Whether a call of this shape is recorded, so that it takes no more memory."""
        return self._met.get(_shape(x, t, context)) is not None

    def forget(self) -> None:
        """Drop all recordings, and the memory that they keep."""
        self._met.clear()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: ANN401 - as in nn.Module
        self.forget()  # weights that move leave their recordings behind
        return super()._apply(fn, recurse)


def _shape(x: Tensor, t: Tensor, context: Context) -> Shape:
    rows = None if context.rows is None else tuple(context.rows)
    return x.shape, x.dtype, t.shape, context.text.shape, rows


class _Graph:
    """One call's kernels, with the tensors that they read and write."""

    def __init__(self, unet: UNet, x: Tensor, t: Tensor, context: Context) -> None:
        self._x, self._t, self._context = x.clone(), t.clone(), context.copy()
        self._said = context
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(x.device)
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):  # what is set up at a first call must not be recorded
            unet(self._x, self._t, self._context)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        with torch.cuda.graph(self._graph):
            self._noise = unet(self._x, self._t, self._context)

    def __call__(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        self._x.copy_(x)
        self._t.copy_(t)
        if context is not self._said:
            self._context.say(context)
            self._said = context
        self._graph.replay()
        return self._noise
