"""How well a small edit is brought to the size of its photograph, beside enlarging it, and what that costs.

    python -m benchmarks.full_size [--pictures FOLDER] [--sheet FILE]     quality
    python -m benchmarks.full_size --megapixels 24 100 [--mask]           seconds and memory (Linux)

A photograph at full size, a known operator: the truth is what the operator makes of it at full size, the small edit is
the truth made four times smaller (Lanczos), blurred and with noise as by a VAE. The photographs are scikit-image's,
which the tests need too, or those of a folder, at most 2048 pixels long.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter
from skimage import data

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]

from instruct_pix2pix.engine.full_size import enlarge  # noqa: E402

FACTOR = 4
LONGEST = 2048
VAE_BLUR, VAE_NOISE = 0.6, 2 / 255
"""Pixels and standard deviation at the small size: what a VAE of the SD1 kind loses and adds."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Edited:
    """What an operator made of a picture: [h, w, 3] in 0..1, and the region (1 inside) where it is a local one."""

    truth: np.ndarray
    region: np.ndarray | None = None


# --- operators: each takes [h, w, 3] in 0..1 ---


def places(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of each pixel, 0..1, as [1, w] and [h, 1]."""
    h, w = picture.shape[:2]
    return np.linspace(0, 1, w, dtype=np.float32)[None], np.linspace(0, 1, h, dtype=np.float32)[:, None]


def luma(picture: np.ndarray) -> np.ndarray:
    """Return [h, w, 1]."""
    return (picture @ LUMA)[..., None]


def drawn(picture: np.ndarray, draw: Callable[[ImageDraw.ImageDraw, int, int], object]) -> np.ndarray:
    """Return the coverage [h, w, 1] of what `draw` fills with 255, with smooth edges."""
    h, w = picture.shape[:2]
    canvas = Image.new("L", (2 * w, 2 * h))
    draw(ImageDraw.Draw(canvas), 2 * w, 2 * h)
    return np.asarray(canvas.resize((w, h), Image.Resampling.BOX), np.float32)[..., None] / 255


def ellipse(picture: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return the coverage of an ellipse, its box in shares of the picture."""
    return drawn(picture, lambda d, w, h: d.ellipse((left * w, top * h, right * w, bottom * h), fill=255))


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur [h, w, c] by a Gaussian."""
    return gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")


def night(p: np.ndarray) -> Edited:
    """Dark and blue, with more contrast."""
    return Edited(p**1.3 * np.array([0.3, 0.38, 0.6], np.float32))


def black_and_white(p: np.ndarray) -> Edited:
    """Grey everywhere."""
    return Edited(np.repeat(luma(p), 3, 2))


def winter(p: np.ndarray) -> Edited:
    """Pale and cold; what is green turns white."""
    green = np.clip(4 * (p[..., 1:2] - np.maximum(p[..., :1], p[..., 2:])), 0, 1)
    pale = 0.5 * p + 0.5 * luma(p)
    cold = 0.15 + 0.85 * pale * np.array([0.93, 0.98, 1.08], np.float32)
    return Edited(cold * (1 - 0.8 * green) + 0.8 * green * (0.6 + 0.4 * luma(p)))


def sunset(p: np.ndarray) -> Edited:
    """Warm light from the top, dusk at the bottom."""
    _, y = places(p)
    tint = (
        np.array([1.15, 0.75, 0.45], np.float32) * (1 - y[..., None])
        + np.array([0.75, 0.45, 0.5], np.float32) * (y[..., None])
    )
    return Edited(0.9 * p**1.1 * tint + np.array([0.12, 0.05, 0.0], np.float32) * (1 - y[..., None]))


def sepia(p: np.ndarray) -> Edited:
    """The customary matrix."""
    matrix = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)
    return Edited(p @ matrix.T)


def vignetting(p: np.ndarray) -> Edited:
    """Dark corners."""
    x, y = places(p)
    return Edited(p * np.exp(-3.5 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None])


def snow(p: np.ndarray) -> Edited:
    """White on the ground, through which its shades are still seen."""
    _, y = places(p)
    amount = np.clip((y - 0.5) * 6, 0, 1)[..., None]
    return Edited(p * (1 - amount) + amount * (0.65 + 0.35 * luma(p)) * np.array([0.96, 0.98, 1], np.float32))


def recolour(p: np.ndarray) -> Edited:
    """One region with its channels turned round."""
    inside = ellipse(p, 0.25, 0.3, 0.7, 0.85)
    return Edited(p * (1 - inside) + inside * p[..., [2, 0, 1]], inside)


def object_added(p: np.ndarray) -> Edited:
    """A striped, shaded balloon with a basket, opaque."""
    x, y = places(p)
    ball = ellipse(p, 0.3, 0.12, 0.62, 0.68)
    basket = drawn(p, lambda d, w, h: d.rectangle((0.42 * w, 0.7 * h, 0.5 * w, 0.8 * h), fill=255))
    ropes = drawn(
        p,
        lambda d, w, h: [
            d.line((a * w, 0.6 * h, b * w, 0.72 * h), fill=255, width=max(2, w // 200))
            for a, b in ((0.38, 0.43), (0.46, 0.46), (0.54, 0.49))
        ],
    )
    across = (x - 0.46) / np.sqrt(np.clip(1 - ((y - 0.4) / 0.28) ** 2, 0.05, 1))
    stripe = (np.sin(across * 60) > 0).astype(np.float32)[..., None]
    shade = np.clip(1 - 2.2 * np.hypot(x - 0.4, y - 0.32), 0.3, 1)[..., None]
    cloth = shade * (stripe * np.array([0.9, 0.15, 0.1], np.float32) + (1 - stripe) * np.array([0.95, 0.85, 0.3]))
    out = p * (1 - ropes) + ropes * 0.1
    out = out * (1 - basket) + basket * np.array([0.45, 0.3, 0.15], np.float32)
    out = out * (1 - ball) + ball * cloth
    return Edited(out.astype(np.float32), np.maximum(np.maximum(ball, basket), ropes))


def object_removed(p: np.ndarray) -> Edited:
    """A region filled smoothly from what surrounds it."""
    inside = ellipse(p, 0.35, 0.35, 0.65, 0.7)
    keep = (inside == 0).astype(np.float32)
    filled, scale = np.zeros_like(p), max(p.shape)
    weight = np.zeros_like(keep)
    for sigma, share in ((scale / 12, 1e-3), (scale / 40, 1.0), (scale / 120, 30.0)):
        filled += share * blurred(p * keep, sigma)
        weight += share * blurred(keep, sigma)
    return Edited(p * (1 - inside) + inside * filled / np.maximum(weight, 1e-6), inside)


def texture_changed(p: np.ndarray) -> Edited:
    """The lower part becomes a brick wall, lit as what was there."""
    h, w = p.shape[:2]
    inside = drawn(p, lambda d, w, h: d.rectangle((0.1 * w, 0.45 * h, 0.8 * w, 0.95 * h), fill=255))
    rows, columns = np.arange(h)[:, None] / (h / 40), np.arange(w)[None] / (w / 26)
    mortar = (rows % 1 < 0.15) | ((columns + 0.5 * (rows.astype(int) % 2)) % 1 < 0.1)
    colour = np.where(mortar[..., None], [0.75, 0.72, 0.68], [0.62, 0.28, 0.2]).astype(np.float32)
    light = 0.5 + 0.7 * blurred(luma(p), max(h, w) / 40)
    return Edited(p * (1 - inside) + inside * colour * light, inside)


KEEPING = (night, black_and_white, winter, recolour, sunset, sepia, vignetting, snow)
"""Operators that keep the picture's structure."""
OTHERS = (object_added, object_removed, texture_changed)
Operator = Callable[[np.ndarray], Edited]


SHOWN = (("coffee", "night"), ("cat", "recolour"), ("motorcycle", "snow"), ("astronaut", "object added"))
"""Of which photographs and operators `--sheet` shows a part."""


# --- pictures ---


def photographs(folder: Path | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and pictures [h, w, 3] in 0..1, sides multiples of 8 * FACTOR, at most LONGEST long."""
    if folder:
        found: Iterable[tuple[str, np.ndarray]] = (
            (file.stem, np.asarray(Image.open(file).convert("RGB"))) for file in sorted(folder.iterdir())
        )
    else:
        found = (
            ("astronaut", data.astronaut()),
            ("camera", np.repeat(data.camera()[..., None], 3, 2)),
            ("cat", data.cat()),
            ("coffee", data.coffee()),
            ("galaxies", data.hubble_deep_field()),
            ("motorcycle", data.stereo_motorcycle()[0]),
            ("retina", data.retina()),
            ("rocket", data.rocket()),
        )
    for name, pixels in found:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        if max(image.size) > LONGEST:
            scale = LONGEST / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        unit = 8 * FACTOR
        image = image.crop((0, 0, image.width // unit * unit, image.height // unit * unit))
        yield name, np.asarray(image, np.float32) / 255


def eight_bit(picture: np.ndarray) -> np.ndarray:
    """Return 0..1 as uint8."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def small(picture: np.ndarray) -> Image.Image:
    """Make an 8-bit picture smaller by FACTOR."""
    image = Image.fromarray(picture)
    return image.resize((image.width // FACTOR, image.height // FACTOR), Image.Resampling.LANCZOS)


def through_a_vae(image: Image.Image, seed: int) -> Image.Image:
    """Blur and noise as of a VAE."""
    values = blurred(np.asarray(image, np.float32) / 255, VAE_BLUR)
    return Image.fromarray(eight_bit(values + np.random.default_rng(seed).normal(0, VAE_NOISE, values.shape)))


def painted(region: np.ndarray) -> Image.Image:
    """Return the mask (L) that a person paints around a region: a little wider."""
    grown = Image.fromarray((region[..., 0] > 0).astype(np.uint8) * 255)
    return grown.filter(ImageFilter.MaxFilter(2 * (max(grown.size) // 100) + 1))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit pictures in dB."""
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))))


Way = Callable[[np.ndarray, Image.Image, Image.Image, "Image.Image | None"], np.ndarray]


def enlarged(picture: np.ndarray, before: Image.Image, after: Image.Image, inside: Image.Image | None) -> np.ndarray:
    """What everybody does: enlarge the edit."""
    return np.asarray(after.resize((picture.shape[1], picture.shape[0]), Image.Resampling.LANCZOS))


def laid(picture: np.ndarray, before: Image.Image, after: Image.Image, inside: Image.Image | None) -> np.ndarray:
    """Enlarge the edit and lay it on the picture where the mask says."""
    edit = Image.fromarray(enlarged(picture, before, after, None))
    return np.asarray(Image.composite(edit, Image.fromarray(picture), inside) if inside else edit)


def compared(
    pictures: Iterable[tuple[str, np.ndarray]], ways: dict[str, Way]
) -> Iterator[tuple[str, str, dict[str, float], dict[str, np.ndarray]]]:
    """Yield picture, operator (' + mask' where one is given), PSNR of each way, and the pictures."""
    for name, p in pictures:
        original = eight_bit(p)
        before = small(original)
        for operator in (*KEEPING, *OTHERS):
            edited = operator(p)
            truth = eight_bit(edited.truth)
            after = through_a_vae(small(truth), len(name))
            masks = [None] if edited.region is None else [None, painted(edited.region)]
            for mask in masks:
                made = {way: make(original, before, after, mask) for way, make in ways.items()}
                label = operator.__name__.replace("_", " ") + (" + mask" if mask else "")
                yield (
                    name,
                    label,
                    {way: psnr(result, truth) for way, result in made.items()},
                    {
                        "original": original,
                        "truth": truth,
                        **made,
                    },
                )


def table(rows: list[tuple[str, dict[str, float]]]) -> None:
    """Print the mean of each operator's PSNR over the pictures, and the least gain of ours."""
    print("| operator | Lanczos dB | ours dB | gain | least gain | Lanczos within the mask dB |")
    print("|---|---:|---:|---:|---:|---:|")
    gains = []
    for label in dict.fromkeys(label for label, _ in rows):
        scores = [score for other, score in rows if other == label]
        base, ours, laid = (np.array([score[way] for score in scores]) for way in ("lanczos", "ours", "laid"))
        within = f"{laid.mean():.1f}" if "mask" in label else ""
        gain = ours - base
        print(
            f"| {label} | {base.mean():.1f} | {ours.mean():.1f} | {gain.mean():+.1f} | {gain.min():+.1f} | {within} |",
            flush=True,
        )
        gains += [gain.mean()] if label in [operator.__name__.replace("_", " ") for operator in KEEPING] else []
    print(f"\nThe operators that keep the structure gain {np.mean(gains):.1f} dB on average.")


def sheet(shown: list[tuple[str, list[np.ndarray]]], side: int) -> Image.Image:
    """Lay rows of pictures side by side, of each a square of `side` pixels with most of the difference."""
    rows = []
    for _, (original, truth, *made) in shown:
        change = blurred(np.abs(truth.astype(np.float32) - original).mean(-1, keepdims=True), side / 8)[..., 0]
        change *= 1 + 4 * blurred(np.abs(np.diff(luma(truth / 255.0), axis=0, prepend=0)), side / 8)[..., 0]
        half = side // 2
        middle = change[half:-half, half:-half]
        y, x = np.unravel_index(np.argmax(middle), middle.shape)
        rows.append(np.concatenate([part[y : y + side, x : x + side] for part in (original, *made, truth)], 1))
    return Image.fromarray(np.concatenate(rows))


def measure(megapixels: float, masked: bool) -> dict[str, float]:
    """Edit one photograph enlarged, once, in this process."""
    photograph = Image.fromarray(data.astronaut())
    side = round((megapixels * 1e6) ** 0.5)
    picture = np.asarray(photograph.resize((side, side), Image.Resampling.BILINEAR))
    after = through_a_vae(Image.fromarray(eight_bit(night(np.asarray(photograph, np.float32) / 255).truth)), 0)
    inside = Image.new("L", photograph.size)
    inside.paste(255, (100, 100, 400, 400))
    began, worked = time.perf_counter(), time.process_time()
    enlarge(picture, photograph, after, inside if masked else None)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - worked,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="photographs of your own")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write parts of some results as one picture")
    parser.add_argument("--megapixels", type=float, nargs="+", help="measure seconds and memory instead")
    parser.add_argument("--mask", action="store_true", help="with --megapixels: edit a part")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.megapixels[0], args.mask)))
        return
    if args.megapixels:
        print("| megapixels | s | CPU s | most memory of the process, MB |")
        print("|---:|---:|---:|---:|")
        for megapixels in args.megapixels:
            words = ["--here", "--megapixels", str(megapixels), *(["--mask"] if args.mask else [])]
            command = [sys.executable, "-m", "benchmarks.full_size", *words]
            f = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)
            print(f"| {megapixels:.0f} | {f['seconds']:.1f} | {f['cpu']:.1f} | {f['peak']:.0f} |", flush=True)
        return
    rows, shown = [], []
    ways: dict[str, Way] = {"lanczos": enlarged, "laid": laid, "ours": enlarge}
    for name, label, scores, made in compared(photographs(args.pictures), ways):
        rows.append((label, scores))
        print(name, label, *(f"{way} {score:.1f}" for way, score in scores.items()), file=sys.stderr, flush=True)
        if args.sheet and (name, label) in SHOWN:
            shown.append((label, [made[way] for way in ("original", "truth", "lanczos", "ours")]))
    table(rows)
    if args.sheet:
        sheet(shown, 160).save(args.sheet)


if __name__ == "__main__":
    main()
