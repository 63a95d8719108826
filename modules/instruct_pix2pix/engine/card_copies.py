"""A network's weights in the machine's memory, and their copies on a card: what stays there, what comes by turns."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .free_memory import CARDS, SPARE, available
from .placement import Placement, least, place, whole_grains

ALIGNED = 256
"""Bytes at whole multiples of which each tensor of a part begins, as torch's own blocks do."""


@runtime_checkable
class HasParts(Protocol):
    """A network whose weights need not all be on a card at once."""

    def parts(self) -> Iterable[nn.Module]:
        """Return modules with weights, each called once in a call of the network, in this order."""
        ...


def parts_of(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network whose weights may come and go by themselves; none where it has no such parts."""
    return list(network.parts()) if isinstance(network, HasParts) else []


class Weights:
    """Parameters that come onto the card and leave it together, in one block of its memory."""

    def __init__(self, parameters: Iterable[tuple[nn.Module, str, nn.Parameter]]) -> None:
        self._home = list(parameters)
        self._offsets: list[int] = []
        end = 0
        for _, _, parameter in self._home:
            self._offsets.append(end)
            end += -(-parameter.numel() * parameter.element_size() // ALIGNED) * ALIGNED
        self.size = end

    def look(self) -> None:
        """Take what the modules have now for their own: it may be another parameter of the same size and format."""
        self._home = [(module, name, module.get_parameter(name)) for module, name, _ in self._home]

    def copy_into(self, block: Tensor) -> list[nn.Parameter]:
        """Copy into a block of bytes, beside what else the caller does; return the parameters that lie there."""
        copies = []
        for (_, _, parameter), start in zip(self._home, self._offsets, strict=True):
            raw = block[start : start + parameter.numel() * parameter.element_size()].view(parameter.dtype)
            copy = raw.as_strided(parameter.shape, parameter.stride())
            copy.copy_(parameter, non_blocking=True)
            copies.append(nn.Parameter(copy, requires_grad=False))
        return copies

    def use(self, copies: Iterable[nn.Parameter]) -> None:
        """Give the modules these parameters."""
        for (module, name, _), copy in zip(self._home, copies, strict=True):
            setattr(module, name, copy)

    def go_home(self) -> None:
        """Give the modules their own parameters back."""
        for module, name, parameter in self._home:
            setattr(module, name, parameter)


class Slot:
    """A place on the card that parts take in turns."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.block = torch.empty(size, dtype=torch.uint8, device=device)
        self.part = -1
        """Which part it has, or gets."""
        self.copies: list[nn.Parameter] = []
        self.ready: Any = None
        """The event after its part is there."""
        self.free: Any = None
        """The event after it was last read."""


class CopyStream:
    """Copies into slots: on a card beside its computing, in a stream of its own; elsewhere at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._card: Any = torch.get_device_module(device) if device.type in CARDS else None
        self._stream: Any = self._card.Stream(device) if self._card else None

    def fill(self, slot: Slot, part: int, weights: Weights) -> None:
        """Begin to fill a slot once nothing reads it any more."""
        slot.part = part
        if self._card is None:
            slot.copies = weights.copy_into(slot.block)
            return
        self._stream.wait_event(slot.free)
        with self._card.stream(self._stream):
            slot.copies = weights.copy_into(slot.block)
        slot.ready = self._stream.record_event()

    def wait_for(self, slot: Slot) -> None:
        """Let what is computed from here on wait until the slot is filled."""
        if self._card is not None:
            self._card.current_stream(self._device).wait_event(slot.ready)

    def release(self, slot: Slot) -> None:
        """Let the next filling of a slot wait for all that is asked for until now."""
        if self._card is not None:
            slot.free = self._card.current_stream(self._device).record_event()

    def finish(self) -> None:
        """Wait until nothing is copied or computed any more."""
        if self._card is not None:
            self._card.synchronize(self._device)


class CardNetwork:
    """A network that has weights on a card while it works; its own parameters are in the machine's memory."""

    def __init__(self, network: nn.Module, card: torch.device, stream: CopyStream) -> None:
        self._card, self._stream = card, stream
        modules = parts_of(network)
        _pin(network, card)
        in_parts = {parameter for part in modules for parameter in part.parameters()}
        self._parts = [Weights(_parameters(part)) for part in modules]
        self._rest = Weights(each for each in _parameters(network) if each[2] not in in_parts)
        self._sizes = [whole_grains(part.size) for part in self._parts]
        self._fixed = whole_grains(self._rest.size)
        self._placement: Placement | None = None
        self._streamed: list[int] = []
        self._slots: list[Slot] = []
        me: weakref.ref[CardNetwork] = weakref.ref(self)  # a hook that held this object would keep the network for ever
        self._hooks = [hook for i, part in enumerate(modules) for hook in _hooks(part, i, me)]

    @property
    def whole(self) -> int:
        """Bytes of all weights on the card."""
        return self._fixed + sum(self._sizes)

    @property
    def least(self) -> int:
        """The least bytes of weights with which it works."""
        return least(self._sizes, self._fixed)

    @property
    def on_card(self) -> int:
        """Bytes that its weights take of the card now."""
        return 0 if self._placement is None else self._placement.bytes(self._sizes, self._fixed)

    @property
    def copied_each_call(self) -> int:
        """Bytes that come onto the card anew at each call; of two parts or fewer none, which keep their places."""
        return sum(self._parts[i].size for i in self._streamed) if len(self._streamed) > 2 else 0

    def enter(self, room: int) -> None:
        """Come onto the card, as far as so many bytes go."""
        self._placement = placed = place(self._sizes, self._fixed, room)
        for weights in (self._rest, *self._parts):
            weights.look()
        staying = [part for part, stays in zip(self._parts, placed.stays, strict=True) if stays]
        for weights in (self._rest, *staying):
            block = torch.empty(weights.size, dtype=torch.uint8, device=self._card)
            weights.use(weights.copy_into(block))
        self._streamed = [i for i, stays in enumerate(placed.stays) if not stays]
        self._slots = [Slot(placed.slot, self._card) for _ in range(2 if self._streamed else 0)]
        for slot in self._slots:
            self._stream.release(slot)  # its memory may have been another tensor's until now

    def leave(self) -> None:
        """Go home, and leave nothing on the card."""
        if self._placement is None:
            return
        self._stream.finish()
        for weights in (self._rest, *self._parts):
            weights.go_home()
        self._placement, self._streamed, self._slots = None, [], []

    def forget(self) -> None:
        """Go home, and let go of the network."""
        self.leave()
        for hook in self._hooks:
            hook.remove()

    def begin(self, part: int) -> None:
        """Have a part's weights on the card for its call, and begin to copy those of the next that needs copying."""
        if part not in self._streamed:
            return
        slot = next((slot for slot in self._slots if slot.part == part), None)
        if slot is None:  # the first call, or one that came out of turn
            slot = self._slots[0]
            self._stream.fill(slot, part, self._parts[part])
        self._stream.wait_for(slot)
        self._parts[part].use(slot.copies)
        following = self._streamed[(self._streamed.index(part) + 1) % len(self._streamed)]
        other = self._slots[1 - self._slots.index(slot)]
        if other.part != following and following != part:
            self._stream.fill(other, following, self._parts[following])

    def end(self, part: int) -> None:
        """Leave a part's place to the next."""
        slot = next((slot for slot in self._slots if slot.part == part), None)
        if slot is not None:
            self._parts[part].go_home()
            self._stream.release(slot)


def _hooks(part: nn.Module, number: int, network: weakref.ref[CardNetwork]) -> Iterator[Any]:
    """Yield what calls `begin` and `end` of a network around the calls of a part."""

    def begin(*_: object) -> None:
        if (moved := network()) is not None:
            with torch.inference_mode(False), torch.no_grad():
                moved.begin(number)

    def end(*_: object) -> None:
        if (moved := network()) is not None:
            moved.end(number)

    yield part.register_forward_pre_hook(begin)
    yield part.register_forward_hook(end)


def _parameters(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield each parameter with the module that has it and its name there."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter


def _pin(network: nn.Module, card: torch.device) -> None:
    """Let the card read weights directly, beside other work, unless main memory is short and may have to page them."""
    size, free = sum(p.numel() * p.element_size() for p in network.parameters()), available(torch.device("cpu"))
    if card.type not in CARDS or (free is not None and size > free * SPARE):
        return
    for parameter in network.parameters():
        try:
            parameter.data = parameter.data.pin_memory()
        except RuntimeError:  # the system lets a process pin no more
            return
