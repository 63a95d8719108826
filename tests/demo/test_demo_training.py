"""Training of the demo model: sittings, and what is learnt without an instruction."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tools.demo_model import autoencoder, scenes, train, training_loop


def _fit(runs, seen, steps=20, **options):
    """Fit one number to 3, noting at which steps and rates; returns the module and the averaged weights."""
    torch.manual_seed(0)
    module = nn.Linear(1, 1, bias=False)

    def loss_of(step):
        seen.append(step)
        if step == options.get("stop"):
            raise KeyboardInterrupt
        return (module.weight - 3).square().sum()

    given = {key: value for key, value in options.items() if key != "stop"}
    given |= {"steps": steps, "lr": 0.1, "runs": runs, "save_every": 5}
    average = training_loop.fit("number", {"it": module}, loss_of, **given)
    return module, average


def test_another_sitting_begins_with_the_averaged_weights_and_has_as_many_steps_as_asked(tmp_path):
    seen: list[int] = []
    _, average = _fit(tmp_path, seen)
    assert seen == list(range(20))
    _, again = _fit(tmp_path, seen)
    assert seen == list(range(20))  # it was over
    assert torch.equal(average["it.weight"], again["it.weight"])
    _fit(tmp_path, seen, more=10)
    assert seen == list(range(30))
    state = torch.load(tmp_path / "number.pt", weights_only=True)
    assert (state["step"], *state["sitting"]) == (30, 20, 30, 0.1)


def test_a_sitting_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        _fit(folder, [])
    straight, _ = _fit(whole, [], more=20)
    with pytest.raises(KeyboardInterrupt):
        _fit(parts, [], more=20, stop=32)
    seen: list[int] = []
    resumed, _ = _fit(parts, seen, more=500)
    assert seen == list(range(30, 40))
    assert torch.equal(straight.weight, resumed.weight)


def test_without_the_instruction_only_pushed_halves_are_undone():
    undone = set()
    for seed in range(80):
        scene = scenes.scene(seed)
        for edit in scenes.every_edit(scene, seed):
            answer = train.without_instruction(scene, edit)
            kinds = {half.kind for half in edit.halves} or {edit.kind}
            if kinds <= set(train.PUSHED):
                assert answer == scene
            elif not kinds & set(train.PUSHED):
                assert answer == edit.after
            else:
                (kept,) = [half.after for half in edit.halves if half.kind not in train.PUSHED]
                assert answer == kept
                assert answer not in (scene, edit.after)
            undone.add(frozenset(kinds))
    assert frozenset(("season", "add")) in undone


def test_a_doodle_is_a_coloured_drawing_and_the_same_each_time():
    first, again = (autoencoder.doodle(random.Random(1)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (96, 96, 3)
    assert first.std() > 5


def test_training_goes_on_from_a_checkpoint_and_without_a_step_leaves_it_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    for words in (
        ["--stage", "vae", "--begin-with", str(autoencoder.DEMO)],
        ["--stage", "pairs", "--scenes", "1"],
        ["--stage", "unet", "--steps", "0", "--begin-with", str(autoencoder.DEMO)],
        ["--stage", "export", "--out", str(out)],
    ):
        monkeypatch.setattr("sys.argv", ["train", "--runs", str(tmp_path), "--device", "cpu", *words])
        train.main()
    before, after = load_file(autoencoder.DEMO), load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
