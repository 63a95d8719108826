"""Which of a model's networks are on a card with little memory: those that work, as far as there is room.

Weights lie in the machine's memory, and a network's parameters are those, except while it works. What of it stays on
the card meanwhile, and what is copied in part by part, `placement` plans and `card_copies` does. Results are the same
bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import UserError
from .card_copies import CardNetwork, CopyStream, parts_of
from .free_memory import CARDS, free_for, hold_to_limit, room_on_card
from .networks.layers import prepare
from .placement import least
from .precision import Machine


class Kept:
    """Networks that stay where they are: on the CPU, or on a card with memory enough for all of them."""

    moves = False
    """Whether weights come and go, so that their addresses are others at another call."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for whoever uses the model."""
        if self.machine.memory is None or self.machine.device.type in CARDS:
            return ()
        return (f"The limit on a card's memory has no effect: the model runs on the {self.machine.device.type}.",)

    @property
    def home(self) -> torch.device:
        """Where weights are to be loaded."""
        return self.machine.device

    def prepare(self, network: nn.Module) -> None:
        """Make a network ready to run."""
        prepare(network, self.machine)

    @contextmanager
    def using(self, networks: Sequence[nn.Module], work: int) -> Iterator[None]:
        """Have these networks ready while the block runs, with `work` bytes beside their weights where that can be."""
        yield

    def fits(self, network: nn.Module, work: int) -> bool:
        """Tell whether so many bytes fit beside the weights of a network; true where that is not known."""
        free = free_for(self.machine)
        return free is None or work <= free

    def bring_home(self) -> None:
        """Have all weights where they may be changed."""

    def make_float32(self, network: nn.Module) -> None:
        """Convert a network to float32."""
        network.float()


class Offloaded(Kept):
    """Networks in the machine's memory, of which those that work are on the card."""

    moves = True

    def __init__(self, machine: Machine, room: int | None = None, stream: CopyStream | None = None) -> None:
        """`room` is the bytes for weights and work: by default what the limit leaves, or else what is free now."""
        super().__init__(machine)
        self.room = room_on_card(machine) or 0 if room is None else room
        self._stream = CopyStream(machine.device) if stream is None else stream
        self._networks: weakref.WeakKeyDictionary[nn.Module, CardNetwork] = weakref.WeakKeyDictionary()

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on how the card is used."""
        room = self.room / 2**30
        return (f"The card has no room for the whole model: what works is copied into {room:.1f} GB of it by turns.",)

    @property
    def home(self) -> torch.device:
        """The machine's own memory."""
        return torch.device("cpu")

    def prepare(self, network: nn.Module) -> None:
        """Take over a network whose weights are in the machine's memory; again when it has got others."""
        if (known := self._networks.pop(network, None)) is not None:
            known.forget()
        with torch.inference_mode(False), torch.no_grad():
            self._networks[network] = CardNetwork(network, self.machine.device, self._stream)

    @contextmanager
    def using(self, networks: Sequence[nn.Module], work: int) -> Iterator[None]:
        """As `Kept.using`; other networks leave the card where they are in the way."""
        try:
            with torch.inference_mode(False), torch.no_grad():
                self._make_room([self._networks[network] for network in networks], work)
            yield
        except BaseException:
            self.bring_home()  # the part that was computing still has the card's copy
            raise

    def fits(self, network: nn.Module, work: int) -> bool:
        """Tell whether so many bytes fit beside a network none of whose parts stays."""
        return self._networks[network].least + work <= self.room

    def bring_home(self) -> None:
        """Leave no weights on the card: those in the machine's memory may be changed."""
        for network in self._networks.values():
            network.leave()

    def make_float32(self, network: nn.Module) -> None:
        """Convert a network to float32."""
        self.bring_home()
        with torch.inference_mode(False), torch.no_grad():
            network.float()
        self.prepare(network)

    @property
    def on_card(self) -> int:
        """Bytes of weights on the card."""
        return sum(network.on_card for network in self._networks.values())

    def copied_each_call(self, network: nn.Module) -> int:
        """Return the bytes of weights that are copied onto the card at each call of a network, as it is placed now."""
        return self._networks[network].copied_each_call

    def _make_room(self, working: Sequence[CardNetwork], work: int) -> None:
        """Have networks on the card; the others leave first, and what does not fit even then comes part by part."""
        room = self.room - work
        for other in self._networks.values():
            coming = sum(network.whole for network in working if not network.on_card)
            if other not in working and self.on_card + coming > room:
                other.leave()
        if all(network.on_card for network in working) and self.on_card <= room:
            return
        for network in working:
            network.leave()
        room -= self.on_card
        for i, network in enumerate(working):
            network.enter(room - sum(later.least for later in working[i + 1 :]))
            room -= network.on_card


def kept_or_offloaded(networks: Sequence[nn.Module], machine: Machine) -> Kept:
    """Return who moves networks that were loaded onto the machine's device or, where `home_of` says so, beside it."""
    hold_to_limit(machine)
    loaded = next(networks[0].parameters()).device.type
    return Kept(machine) if loaded == machine.device.type else Offloaded(machine)


def home_of(networks: Sequence[nn.Module], work: int, machine: Machine) -> torch.device:
    """Return where to load networks that have no weights yet: the machine's device if they fit, `work` bytes included.

    Raises UserError where not even a part at a time would fit.
    """
    room = room_on_card(machine)
    sizes = [_sizes(network, machine.dtype.itemsize) for network in networks]
    if room is None or sum(rest + sum(parts) for parts, rest in sizes) + work <= room:
        return machine.device
    needed = max(least(parts, rest) for parts, rest in sizes)
    if needed > room:
        raise UserError(
            f"Of the card's memory {room / 2**30:.1f} GB are left for this model, which needs {needed / 2**30:.1f} GB "
            "at the least: leave it more, or choose the device cpu."
        )
    return torch.device("cpu")


def _sizes(network: nn.Module, itemsize: int) -> tuple[list[int], int]:
    """Return the bytes of the weights of each part of a network, and of the rest."""
    parts = [sum(p.numel() for p in part.parameters()) * itemsize for part in parts_of(network)]
    return parts, sum(p.numel() for p in network.parameters()) * itemsize - sum(parts)
