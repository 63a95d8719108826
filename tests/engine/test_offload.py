"""Small cards: what stays and what comes by turns, and that results are the same bits; the card is a stand-in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from benchmarks.small_cards import count
from instruct_pix2pix.engine import free_memory, offload, placement
from instruct_pix2pix.engine.card_copies import CopyStream, Slot, Weights, parts_of
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.loading.loader import Networks, load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks import layers
from instruct_pix2pix.engine.offload import Kept, Offloaded, home_of, kept_or_offloaded
from instruct_pix2pix.engine.placement import least, place, unet_work
from instruct_pix2pix.engine.precision import Machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.add_ons import AddOnFolders
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tools.reference_networks import CPU, SMALL_SDXL, TINY, random_model

GB = 2**30
CARD = Machine(torch.device("cuda"), torch.float16)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
SETTINGS = EditSettings(instruction="make it winter", seed=1, steps=2)


@pytest.fixture(autouse=True)
def plain_layers_on_a_fine_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card no layer packs its weights, and small networks are not rounded up to megabytes."""
    monkeypatch.setattr(layers, "packs", lambda machine: False)
    monkeypatch.setattr(placement, "GRAIN", 512)


def moved(config: Any, room: int, stream: CopyStream | None = None) -> EditModel:
    """Return a model of random weights whose card, a stand-in on the CPU, has so many bytes."""
    model = random_model(config)
    networks = Networks(model.unet, model.vae, model.text, config, (), model.text_2)
    return EditModel(networks, CPU, home=Offloaded(CPU, room, stream))


def pixels(model: EditModel, settings: EditSettings = SETTINGS) -> np.ndarray:
    return np.stack([np.asarray(one.image) for one in edit(model, PICTURE, settings)])


def size(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def tight(networks: Any, config: Any) -> int:
    """Return the least room in which all rows of a step are computed at once, a little more for gaps."""
    parts = [size(part) for part in parts_of(networks.unet)]
    work = unet_work(config, 3 * (config.size // config.vae.factor) ** 2, 4)
    return int(1.05 * least(parts, size(networks.unet) - sum(parts))) + work


# --- the plan -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(0, 1000), st.integers(0, 50_000))
def test_a_placement_never_takes_more_than_there_is_room_for(parts: list[int], rest: int, room: int):
    placed = place(parts, rest, room)
    assert placed.bytes(parts, rest) <= max(room, least(parts, rest))
    assert all(stays or size <= placed.slot for size, stays in zip(parts, placed.stays, strict=True))
    assert all(placed.stays) or rest + sum(parts) > room


def test_what_is_copied_in_lies_between_what_stays():
    """So that there is something to compute while it is copied."""
    stays = place([10] * 30, 0, 2 * 10 + 200).stays
    assert 19 <= sum(stays) <= 20
    assert "--" not in "".join("x" if stay else "-" for stay in stays)


# --- the same bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, SMALL_SDXL], ids=["sd1", "sdxl"])
def test_an_edit_is_the_same_to_the_bit_however_little_room_the_card_has(config):
    plain = random_model(config)
    whole, most, least_room = pixels(plain), size(plain.unet), tight(plain, config)
    for room in (4 * most, most, (most + least_room) // 2, least_room):
        model = moved(config, room)
        assert np.array_equal(pixels(model), whole), room
        assert len(model.notes) == 1 and "by turns" in model.notes[0]


def test_with_less_room_yet_rows_are_computed_one_by_one():
    difference = pixels(moved(TINY, 0)).astype(float) - pixels(random_model(TINY))
    assert np.abs(difference).max() <= 1


class LateCopies(CopyStream):
    """Copies at the last moment that a card may take, and refuses to fill a place that is in use."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.asked: dict[Slot, tuple[int, Weights]] = {}
        self.in_use: set[Slot] = set()
        self.fills = 0

    def fill(self, slot: Slot, part: int, weights: Weights) -> None:
        assert slot not in self.in_use
        slot.block.fill_(255)  # not a number, in every format
        slot.part, self.asked[slot] = part, (part, weights)

    def wait_for(self, slot: Slot) -> None:
        if slot in self.asked:
            super().fill(slot, *self.asked.pop(slot))
            self.fills += 1
        self.in_use.add(slot)

    def release(self, slot: Slot) -> None:
        self.in_use.discard(slot)


def test_weights_are_waited_for_and_no_place_is_filled_while_it_is_in_use():
    copies = LateCopies()
    model = moved(TINY, tight(random_model(TINY), TINY), copies)
    assert np.array_equal(pixels(model), pixels(random_model(TINY)))
    assert copies.fills > len(parts_of(model.unet))  # each step copies some


def test_the_next_part_is_asked_for_before_this_one_computes():
    copies = LateCopies()
    model = moved(TINY, 0, copies)
    asked: list[bool] = []
    for part in parts_of(model.unet):
        part.register_forward_pre_hook(lambda *_: asked.append(bool(copies.asked)))
    pixels(model)
    assert all(asked)


def test_what_computes_is_on_the_card_and_no_more_than_it_has_room_for():
    unet = random_model(TINY).unet
    room = 3 * size(unet) // 4
    model = moved(TINY, room)
    home = model.home
    assert isinstance(home, Offloaded)
    own = {p.data_ptr() for network in model.networks for p in network.parameters()}
    seen: list[bool] = []
    for part in parts_of(model.unet):
        part.register_forward_pre_hook(
            lambda part, _: seen.append(
                own.isdisjoint(p.data_ptr() for p in part.parameters()) and home.on_card <= room
            )
        )
    pixels(model)
    assert seen and all(seen)
    home.bring_home()
    assert home.on_card == 0
    assert {p.data_ptr() for network in model.networks for p in network.parameters()} == own


def test_with_room_enough_nothing_is_copied_twice():
    model = moved(TINY, GB)
    home = model.home
    assert isinstance(home, Offloaded)
    pixels(model)
    assert home.copied_each_call(model.unet) == 0
    there = [p.data_ptr() for p in model.unet.parameters()]
    pixels(model)
    assert [p.data_ptr() for p in model.unet.parameters()] == there


def test_an_edit_that_breaks_off_leaves_the_weights_as_they_were():
    model = moved(TINY, 0)
    before = pixels(model)
    broken: Callable[..., None] = lambda *_: (_ for _ in ()).throw(RuntimeError("a card ran out of memory"))  # noqa: E731
    hook = model.unet.middle_block[1].register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="ran out"):
        pixels(model)
    hook.remove()
    assert isinstance(model.home, Offloaded) and model.home.on_card == 0
    assert np.array_equal(pixels(model), before)


def test_a_lora_acts_and_leaves_no_trace(tmp_path):
    pair = {"up": torch.full((96, 1, 1, 1), 0.1), "down": torch.full((1, 8, 3, 3), 0.3)}
    file = {f"lora_unet_conv_in.lora_{side}.weight": one for side, one in pair.items()}
    (tmp_path / "Lora").mkdir()
    save_file(file, tmp_path / "Lora" / "night.safetensors")
    with_it = replace(SETTINGS, instruction="make it winter <lora:night>", steps=1)
    without = replace(SETTINGS, steps=1)
    networks = load_networks(DEMO, CPU)[1]
    homes = Kept(CPU), Offloaded(CPU, tight(networks, networks.config))
    whole, small = (
        EditModel(load_networks(DEMO, CPU)[1], CPU, folders=AddOnFolders.near(DEMO, [tmp_path]), home=home)
        for home in homes
    )
    for settings in (without, with_it, without):
        assert np.array_equal(pixels(small, settings), pixels(whole, settings))


def test_a_vae_that_overflows_goes_on_in_float32():
    half = replace(CPU, dtype=torch.float16)
    model = random_model(TINY, half)
    networks = Networks(model.unet, model.vae, model.text, TINY)
    model = EditModel(networks, half, home=Offloaded(half, 0))
    model.vae.decoder.conv_in.weight.data *= 60_000
    picture = model.decode(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert picture.isfinite().all()
    assert model.vae.quant_conv.weight.dtype == torch.float32


def test_a_model_that_is_let_go_of_goes_at_once():
    """Two models may not fit into memory, and nobody waits for the collector."""
    model = moved(TINY, 0)
    pixels(model)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(model.unet)
        del model
        assert gone() is None
    finally:
        gc.enable()


# --- the bytes, counted on the meta device ------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "side", "gigabytes", "copies"),
    [("sd1", 512, 3, False), ("sd1", 512, 2, True), ("sdxl", 768, 6, True), ("sdxl", 768, 4, True)],
)
def test_an_edit_holds_no_more_than_the_limit_leaves(monkeypatch, family, side, gigabytes, copies):
    monkeypatch.setattr(placement, "GRAIN", 2 << 20)
    held = count(family, side, gigabytes)
    assert held.room < gigabytes * GB
    assert max(held.peaks.values()) <= held.room
    assert (held.copied > 0) == copies
    assert held.peaks["steps"] > 1e9  # the weights are among what was counted


# --- where a model is loaded --------------------------------------------------------------------------


def with_room(monkeypatch: pytest.MonkeyPatch, room: int | None) -> None:
    monkeypatch.setattr(offload, "room_on_card", lambda machine: room)


def test_a_model_is_loaded_onto_the_card_if_it_fits_with_its_work_and_beside_it_otherwise(monkeypatch):
    networks = list(random_model(TINY).networks)
    weights = sum(map(size, networks)) // 2  # as float16
    for room, there in ((None, "cuda"), (weights + 1000, "cuda"), (weights + 999, "cpu")):
        with_room(monkeypatch, room)
        assert home_of(networks, 1000, CARD).type == there, room
    with_room(monkeypatch, 10_000)
    with pytest.raises(UserError, match="at the least: leave it more, or choose the device cpu"):
        home_of(networks, 1000, CARD)


def test_a_model_beside_a_card_is_laid_out_as_the_card_wants_it(monkeypatch):
    with_room(monkeypatch, 30_000_000)
    _, networks = load_networks(DEMO, CARD)
    weight = networks.unet.get_parameter("input_blocks.0.0.weight")
    assert (weight.device.type, weight.dtype) == ("cpu", torch.float16)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_moves_on_a_machine_without_a_card():
    networks = list(random_model(TINY).networks)
    assert home_of(networks, 1000, CPU) == CPU.device
    home = kept_or_offloaded(networks, CPU)
    assert not home.moves and home.notes == ()
    (note,) = kept_or_offloaded(networks, replace(CPU, memory=4 * GB)).notes
    assert "no effect" in note and "cpu" in note


# --- the limit ----------------------------------------------------------------------------------------


@pytest.fixture(params=["cuda", "xpu"])
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for a card of 8 GB, of which others have 2 and this process 1, half of it kept for later."""
    shares: list[tuple[float, int]] = []
    module = SimpleNamespace(
        mem_get_info=lambda device: (5 * GB, 8 * GB),
        memory_reserved=lambda device: GB,
        memory_allocated=lambda device: GB // 2,
        current_device=lambda: 2,
        set_per_process_memory_fraction=lambda share, index: shares.append((share, index)),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    return SimpleNamespace(device=torch.device(request.param), shares=shares)


def test_the_room_is_what_the_limit_leaves_or_what_is_free(card):
    machine = Machine(card.device, torch.float16)
    assert free_memory.available(card.device) == 5.5 * GB
    assert free_memory.room_on_card(machine) == int(0.9 * 6 * GB)
    assert free_memory.room_on_card(replace(machine, memory=4 * GB)) == 3.5 * GB
    assert free_memory.room_on_card(replace(machine, memory=24 * GB)) == 6 * GB
    assert free_memory.free_for(replace(machine, memory=4 * GB)) == 3 * GB
    assert free_memory.free_for(machine) == int(0.8 * 5.5 * GB)


def test_torch_is_held_to_the_limit(card):
    machine = Machine(card.device, torch.float16)
    free_memory.hold_to_limit(machine)
    assert card.shares == []
    free_memory.hold_to_limit(replace(machine, memory=4 * GB))
    assert card.shares == [(3.5 / 8, 2)]
