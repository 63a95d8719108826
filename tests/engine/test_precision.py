"""Number formats: what a machine gets, and that half precision falls back where it is too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instruct_pix2pix.engine import precision
from instruct_pix2pix.engine.cpu_kind import LIMITS
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import CAPABILITIES, DTYPES, Machine, choose_machine, cpu_multiplies_bf16
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.infotext import parse
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.paths import cache_folder
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes
from tools.reference_networks import CPU, TINY, random_model

FP16, BF16 = (Machine(torch.device("cpu"), dtype) for dtype in (torch.float16, torch.bfloat16))
native_bf16 = pytest.mark.skipif(not cpu_multiplies_bf16(), reason="this CPU emulates bf16, far too slowly")

@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A user for whom nothing was measured yet; his cache folder."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return cache_folder()


@pytest.fixture
def measured(monkeypatch):
    """A CPU with the instructions; what each measurement gives, to be set, and how many there were."""
    for name in CAPABILITIES:
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    answers: list[bool] = []
    seen: list[bool] = []

    def measure() -> bool:
        seen.append(answers[-1])
        return answers[-1]

    monkeypatch.setattr(precision, "bf16_is_faster", measure)
    return answers, seen


# --- the choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_a_precision_that_is_asked_for_is_taken(name):
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
    assert choose_machine("cpu", name) == Machine(torch.device("cpu"), wanted)


@pytest.mark.parametrize("name", ["fp8", "float32", "", "FP16"])
def test_an_unknown_precision_is_told_with_those_there_are(name):
    with pytest.raises(UserError, match="choose auto, fp32, fp16, bf16"):
        choose_machine("cpu", name)


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "mps", "xpu", "toaster", "cpu:x", ""])
def test_a_device_that_is_not_there_is_told(device):
    if device in ("cuda", "mps", "xpu") and torch.get_device_module(device).is_available():
        pytest.skip(f"this machine has {device}")
    with pytest.raises(UserError) as caught:
        choose_machine(device)
    assert repr(device) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("there", ["cuda", "xpu", "mps"])
def test_the_card_that_is_there_is_taken(monkeypatch, there):
    """Stand-ins: of torch's modules one says that its device is there."""
    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(torch.get_device_module(name), "is_available", lambda name=name: name == there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: False)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    dtype = torch.bfloat16 if there == "xpu" else torch.float16
    assert choose_machine() == Machine(torch.device(there), dtype)
    assert choose_machine("auto", "fp32", 6) == Machine(torch.device(there), torch.float32, 6 * 2**30)


@pytest.mark.parametrize("memory", [0, -4, 0.5, float("nan"), float("inf")])
def test_a_limit_that_leaves_nothing_is_told(memory):
    with pytest.raises(UserError, match="give 1 GB or more"):
        choose_machine("cpu", "fp32", memory)


def test_the_automatic_choice_runs_here():
    machine = choose_machine()
    x = torch.ones(4, 4, device=machine.device, dtype=machine.dtype)
    assert float((x @ x).sum()) == 64


def test_bf16_is_not_chosen_without_the_instructions_and_not_even_tried(monkeypatch, fresh):
    """Emulated, a single measurement would take minutes on a slow machine."""
    for name in CAPABILITIES:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    multiply, seen = torch.mm, []
    monkeypatch.setattr(torch, "mm", lambda a, b: seen.append(a.dtype) or multiply(a, b))
    assert choose_machine("cpu").dtype == torch.float32
    assert torch.bfloat16 not in seen


def test_bf16_is_not_chosen_where_torch_cannot_say(monkeypatch, fresh):
    for name in CAPABILITIES:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_machine("cpu").dtype == torch.float32


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_with_the_instructions_the_faster_format_is_chosen(monkeypatch, fresh, capability, faster):
    """A build of torch may have the instructions and not use them: then bf16 is slow."""
    for name in CAPABILITIES:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == capability, raising=False)
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: 1.0 if dtype == faster else 2.0)
    assert choose_machine("cpu").dtype == faster


def test_the_choice_is_measured_once_and_kept_for_later_runs(fresh, measured):
    """A busy machine may measure otherwise: the same batch would come out in other bits."""
    answers, seen = measured
    answers.append(True)
    assert choose_machine("cpu").dtype == torch.bfloat16
    answers.append(False)
    assert [choose_machine("cpu").dtype for _ in range(3)] == [torch.bfloat16] * 3
    assert seen == [True]


def test_it_is_measured_again_when_a_person_says_so(fresh, measured):
    answers, seen = measured
    for answer, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        answers.append(answer)
        assert choose_machine("cpu", "measure").dtype == dtype
        assert choose_machine("cpu").dtype == dtype
    assert seen == [True, False]


@pytest.mark.parametrize("name", ["__version__", "version.git_version"])
def test_another_build_of_torch_is_measured_by_itself(fresh, measured, monkeypatch, name):
    answers, seen = measured
    answers.append(True)
    choose_machine("cpu")
    monkeypatch.setattr(f"torch.{name}", "another")
    answers.append(False)
    assert choose_machine("cpu").dtype == torch.float32
    assert seen == [True, False]


@pytest.mark.parametrize("name", LIMITS)
def test_with_a_limit_on_instructions_it_is_measured_by_itself(fresh, measured, monkeypatch, name):
    answers, seen = measured
    answers.append(True)
    choose_machine("cpu")
    monkeypatch.setenv(name, "AVX2")
    answers.append(False)
    assert choose_machine("cpu").dtype == torch.float32
    monkeypatch.delenv(name)
    assert choose_machine("cpu").dtype == torch.bfloat16
    assert seen == [True, False]


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"x": 7}', b"\xff\xfe", b"null", None])
def test_a_damaged_memory_is_measured_anew(fresh, measured, content):
    answers, seen = measured
    answers.append(True)
    file = fresh / "precision.json"
    if content is None:
        file.mkdir(parents=True)  # nothing can be kept
    else:
        fresh.mkdir()
        file.write_bytes(content)
    assert choose_machine("cpu").dtype == torch.bfloat16
    answers.append(False)
    choose_machine("cpu")
    assert seen == ([True] if content is not None else [True, False])


def test_what_other_programs_interrupt_does_not_decide(monkeypatch):
    """Nine of ten products of the faster format take a time slice longer."""
    calls = 0

    def seconds(dtype: torch.dtype) -> float:
        nonlocal calls
        calls += 1
        return 1.0 if dtype == torch.float32 else 0.5 + (calls % 10 != 1) * 30

    monkeypatch.setattr(precision, "product_seconds", seconds)
    assert precision.bf16_is_faster()


def test_measuring_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    precision.bf16_is_faster() if cpu_multiplies_bf16() else precision.product_seconds(torch.float32)
    assert torch.get_num_threads() == before


# --- edits in half precision ----------------------------------------------------------------------------


def picture(size: int = 64) -> Image.Image:
    return Image.fromarray(np.asarray(scenes.draw(scenes.scene(920_000)), dtype=np.uint8)).resize((size, size))


QUICK = EditSettings(instruction="make it winter", sampler="Euler", steps=3, seed=3, size="64")


@pytest.mark.parametrize(
    ("machine", "least"), [(FP16, 40), pytest.param(BF16, 25, marks=native_bf16)], ids=["fp16", "bf16"]
)
def test_an_edit_in_half_precision_is_near_the_one_in_float32(machine, least):
    (exact,) = edit(EditModel.load(DEMO, CPU), picture(), QUICK)
    model = EditModel.load(DEMO, machine)
    (half,) = edit(model, picture(), QUICK)
    assert {p.dtype for net in (model.unet, model.vae, model.text) for p in net.parameters()} == {machine.dtype}
    told = [parse(one.infotext("demo", None)).fields["Precision"] for one in (exact, half)]
    assert told == ["fp32", machine.precision]
    error = np.asarray(exact.image).astype(float) - np.asarray(half.image)
    psnr = 10 * np.log10(255**2 / np.square(error).mean())
    assert psnr > least


# --- overflow -----------------------------------------------------------------------------------------


def overflowing(machine: Machine, half: str) -> EditModel:
    """Return a model whose encoder or decoder leaves the range of fp16, 65504, but not that of float32."""
    model = random_model(TINY, machine)
    weight = getattr(model.vae, half).mid.block_1.conv2.weight
    weight.mul_(20_000 / float(weight.abs().max()))
    assert weight.isfinite().all()
    return model


def exact_twin(model: EditModel) -> EditModel:
    """Return the same weights, as rounded, in float32."""
    twin = random_model(TINY)
    for ours, theirs in ((twin.unet, model.unet), (twin.vae, model.vae), (twin.text, model.text)):
        ours.load_state_dict({key: value.float() for key, value in theirs.state_dict().items()})
    return twin


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_an_autoencoder_that_overflows_in_fp16_is_repeated_in_float32(half):
    model = overflowing(FP16, half)
    exact = exact_twin(model)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():  # it does overflow
        raw = model.vae.moments(x.half())[0] if half == "encoder" else model.vae.decode(z.half())
    assert not raw.isfinite().all()
    ours, theirs = (m.encode_image(x) if half == "encoder" else m.decode(z) for m in (model, exact))
    assert ours.isfinite().all() and torch.allclose(ours, theirs, atol=1e-4)
    # it stays in float32 from then on, and it alone
    assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
    assert {p.dtype for net in (model.unet, model.text) for p in net.parameters()} == {torch.float16}


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_whole_edit_survives_the_overflow(half):
    model = overflowing(FP16, half)
    edited = list(edit(model, picture(), replace(QUICK, steps=1, count=2)))
    assert all(np.asarray(one.image).std() > 0 for one in edited)


def test_an_autoencoder_that_does_not_overflow_stays_as_it_is():
    model = random_model(TINY, FP16)
    model.decode(torch.randn(1, 4, 4, 4))
    model.encode_image(torch.zeros(1, 3, 32, 32))
    assert {p.dtype for p in model.vae.parameters()} == {torch.float16}


@pytest.mark.parametrize("machine", [CPU, FP16, pytest.param(BF16, marks=native_bf16)], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_weights_that_are_not_numbers_are_told(machine, part):
    model = random_model(TINY, machine)
    next(getattr(model, part).parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="precision fp32"):
        list(edit(model, picture(), replace(QUICK, steps=1)))
