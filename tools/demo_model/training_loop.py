"""The training loop: sittings that go on where they were stopped, and averaged weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def fit(
    name: str,
    parts: dict[str, nn.Module],
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    runs: Path,
    more: int | None = None,
    save_every: int = 200,
) -> dict[str, Tensor]:
    """Train `parts` with `loss_of(step)` and return the averaged weights, named 'part.key'.

    AdamW, gradients clipped to norm 1, an exponential average of the weights. Training comes in sittings, each with a
    warm-up and a cosine to zero: the first has `steps` steps, and when one is over, `more` asks for another, which
    begins with the averaged weights. The state file keeps module, optimizer, average, step, and the sitting as
    (first, last, peak rate): one that was stopped goes on as it was planned, whatever is asked for.
    """
    module = nn.ModuleDict(parts)
    learnt = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    state_file, curve_file = runs / f"{name}.pt", runs / f"{name}-loss.json"
    start, first, last, curve = 0, 0, steps, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
        first, last, peak = state.get("sitting", (0, start, lr))
        if start < last:
            lr = peak
        elif more:
            first, last = start, start + more
            module.load_state_dict(average)
            average = {key: value.clone() for key, value in average.items()}
        curve = [row for row in json.loads(curve_file.read_text()) if row["step"] <= start]
        print(f"{name}: going on at step {start}, in a sitting from {first} to {last}", flush=True)

    warmup = max(1, min(300, (last - first) // 10))
    began, losses = time.perf_counter(), []
    for step in range(start, last):
        done = step - first
        rate = min(1.0, (done + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * done / (last - first)))
        for group in optimizer.param_groups:
            group["lr"] = lr * float(rate)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        decay = min(0.999, (done + 1) / (done + 10), 1 - 10 / (last - first))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(module.state_dict().values()), 1 - decay)
        losses.append(loss.detach())
        if (step + 1) % 50 == 0:
            each = (time.perf_counter() - began) / (step + 1 - start)
            left = each * (last - step - 1) / 60
            mean = float(torch.stack(losses).mean())
            curve.append({"step": step + 1, "loss": mean})
            print(f"{name} {step + 1}/{last} loss {mean:.4f} {each:.3f} s/step, {left:.0f} min left", flush=True)
            losses = []
        if (step + 1) % save_every == 0 or step + 1 == last:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            save(state_file, {**state, "average": average, "step": step + 1, "sitting": (first, last, lr)})
            curve_file.write_text(json.dumps(curve))
    return average


def save(path: Path, state: dict[str, object]) -> None:
    """Write a state, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
