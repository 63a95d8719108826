"""Draws a loss curve that training left.

    python -m tools.demo_model.plot_loss tools/demo_model/runs/unet-loss.json docs/demo-model-loss.png
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 300, 64, 36


def plot(rows: list[dict[str, float]]) -> Image.Image:
    """Return the curve of rows of 'step' and 'loss', the loss on a logarithmic scale."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    last = rows[-1]["step"]
    low = math.log10(min(row["loss"] for row in rows)) - 0.02
    high = math.log10(max(row["loss"] for row in rows)) + 0.02

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 16) * step / last
        return x, 12 + (HEIGHT - BOTTOM - 12) * (high - math.log10(loss)) / (high - low)

    for i in range(5):
        loss = 10 ** (low + (high - low) * i / 4)
        _, y = place(0, loss)
        pen.line((LEFT, y, WIDTH - 16, y), fill=(225, 225, 225))
        pen.text((LEFT - 8, y), f"{loss:.3f}", fill="black", anchor="rm", font_size=13)
        step = last * i / 4
        pen.text((place(step, loss)[0], HEIGHT - BOTTOM + 10), f"{step:.0f}", fill="black", anchor="mt", font_size=13)
    pen.line([place(row["step"], row["loss"]) for row in rows], fill=(30, 90, 200), width=2)
    return page


def main() -> None:
    """Read the curve, write the picture."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.plot_loss", description=about)
    parser.add_argument("curve", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    plot(json.loads(args.curve.read_text())).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
