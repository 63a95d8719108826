"""Ctrl+C during an edit: it ends between two steps, and the model is as it was."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from torch import nn

from instruct_pix2pix.engine.edit import Edited, edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.settings import EditSettings

PLAIN = EditSettings("make it winter", steps=4, seed=1)
WITH_LORA = EditSettings("make it winter <lora:demo-lcm:1>", steps=4, seed=1)


@pytest.fixture(autouse=True)
def pythons_handler() -> Iterator[None]:
    """Python's own handler, which a program in the background of a shell does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def pixels(edited: Edited) -> np.ndarray:
    return np.asarray(edited.image)


@contextmanager
def within_call(network: nn.Module, number: int, do: Callable[[], object]) -> Iterator[None]:
    """Do something in the middle of the call of this number, from 1, of a network."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            do()

    handle = network.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("settings", [PLAIN, WITH_LORA], ids=["plain", "lora"])
def test_ctrl_c_ends_an_edit_after_the_step_and_leaves_the_model_as_it_was(
    model: EditModel, picture: Image.Image, settings: EditSettings
) -> None:
    [before] = edit(model, picture, PLAIN)
    seen: list[int] = []
    with within_call(model.unet, 2, press), pytest.raises(KeyboardInterrupt):
        list(edit(model, picture, settings, on_step=lambda progress: seen.append(progress.step)))
    assert seen == [1, 2]  # Python's own would have come within the second
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    [after] = edit(model, picture, PLAIN)
    assert np.array_equal(pixels(before), pixels(after))


def test_a_result_whose_last_step_was_done_is_had_before_the_interrupt(model: EditModel, picture: Image.Image) -> None:
    results = edit(model, picture, EditSettings("make it winter", steps=2, seed=1, count=3))
    with within_call(model.vae.decoder, 1, press):
        assert next(results).settings.seed == 1
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_ctrl_c_between_two_results_is_pythons_own_and_finds_the_model_as_it_was(
    model: EditModel, picture: Image.Image
) -> None:
    [before] = edit(model, picture, PLAIN)
    results = edit(model, picture, EditSettings(WITH_LORA.instruction, steps=2, seed=1, count=2))
    next(results)
    with pytest.raises(KeyboardInterrupt):
        press()
    # the first generator is still there, as in the traceback that a notebook keeps
    [after] = edit(model, picture, PLAIN)
    assert np.array_equal(pixels(before), pixels(after))
    assert next(results).settings.seed == 2


def test_another_handler_and_another_thread_are_left_alone(model: EditModel, picture: Image.Image) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        with within_call(model.unet, 1, press):
            assert len(list(edit(model, picture, PLAIN))) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [signal.SIGINT]

    made: list[Edited] = []
    thread = threading.Thread(target=lambda: made.extend(edit(model, picture, PLAIN)))
    thread.start()
    thread.join()
    assert len(made) == 1
