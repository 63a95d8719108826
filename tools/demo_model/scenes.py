"""The drawn world of the demo model: small landscapes, edits of them in words, and the true outcome of each.

A scene is a value; a picture is a pure function of it. An edit is a sentence and the scene it leads to, so
that (before, instruction, after, mask) can be drawn without end, and an answer compared with the truth.
Whatever a picture hides (the stars by day, the ground behind a house) is the same in every scene or follows
from what is seen, so that there is one right answer to learn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 96
"""Side in pixels at which the model works; lengths below are in these pixels and scale with the picture."""

KINDS = ("time", "season", "colour", "add", "remove", "replace")
ALL_KINDS = (*KINDS, "style", "two", "absent")
"""The kinds of `edits`, then those of `style_edit`, `two_edit` and `absent_edit`."""

THINGS = ("house", "tree", "ball", "cube", "car")
TIMES = ("day", "night", "sunset")
SEASONS = ("summer", "autumn", "winter")
SKIES = ("clear", "clouds")
STYLES = ("plain", "black and white", "sketch")
PLACES = ("on the left", "in the middle", "on the right")

Rgb = tuple[int, int, int]
_T = TypeVar("_T")

COLOURS: dict[str, Rgb] = {
    "red": (219, 44, 44),
    "orange": (248, 136, 28),
    "yellow": (253, 216, 53),
    "green": (34, 152, 84),
    "blue": (45, 108, 223),
    "purple": (130, 66, 190),
    "pink": (250, 140, 186),
    "white": (248, 248, 250),
}


class Chance(Protocol):
    """What is asked of a random generator; `random.Random` and `numpy.random.Generator` both have it."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


@dataclass(frozen=True)
class Thing:
    """One thing on the ground. A tree is always 'green' here: its leaves are drawn as the season has them."""

    kind: str
    colour: str
    slot: int


@dataclass(frozen=True)
class Look:
    """What no edit changes. x, y in pixels at `SIZE`; hills are (rise, turns, phase), clouds (x, y, size)."""

    horizon: float
    far: tuple[float, float, float]
    near: tuple[float, float, float]
    sun_x: float
    clouds: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Scene:
    """A landscape: when it is, and at most one thing in each of three slots and at most one of each kind."""

    time: str
    season: str
    sky: str
    things: tuple[Thing, ...]
    look: Look
    style: str = "plain"


@dataclass(frozen=True)
class Edit:
    """A sentence, the kind of edit it asks for (one of `ALL_KINDS`), and the scene that follows."""

    kind: str
    instruction: str
    after: Scene
    halves: tuple[Edit, ...] = ()
    """Of two instructions in one: each alone."""


# ------------------------------------------------------------------------------------------------ scenes


def scene(seed: int) -> Scene:
    """Return the scene of this seed: the same on every machine, with one to three things."""
    rng = random.Random(seed)
    count = _pick(rng, (1, 2, 2, 2, 3))
    kinds = _shuffled(rng, THINGS)[:count]
    slots = _shuffled(rng, (0, 1, 2))[:count]
    things = tuple(_thing(rng, kind, slot) for kind, slot in zip(kinds, slots, strict=True))
    return Scene(
        time=_pick(rng, ("day", "day", "night", "sunset")),
        season=_pick(rng, SEASONS),
        sky=_pick(rng, SKIES),
        things=_in_order(things),
        look=_look(rng),
    )


def slot_columns(slot: int, size: int = SIZE) -> slice:
    """Return the picture columns that belong to a slot; a thing is never drawn outside them."""
    return slice(size * slot // 3, size * (slot + 1) // 3)


def _look(rng: Chance) -> Look:
    def between(low: float, high: float) -> float:
        return low + (high - low) * rng.random()

    # The sun stands over a gap between two slots, so that a setting sun is not hidden behind a house.
    sun_x = _pick(rng, (32.0, 64.0)) + between(-3, 3)
    cloud_xs = (12.0, 72.0) if sun_x < 48 else (24.0, 84.0)
    return Look(
        horizon=between(48, 52),
        far=(between(3, 5.5), between(1.1, 1.7), between(0, 2 * math.pi)),
        near=(between(1, 2.5), between(0.5, 1.0), between(0, 2 * math.pi)),
        sun_x=sun_x,
        clouds=tuple((x + between(-3, 3), between(11, 24), between(0.85, 1.1)) for x in cloud_xs),
    )


def _thing(rng: Chance, kind: str, slot: int) -> Thing:
    return Thing(kind, "green" if kind == "tree" else _pick(rng, tuple(COLOURS)), slot)


def _in_order(things: Sequence[Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(things, key=lambda thing: thing.slot))


def _pick(rng: Chance, options: Sequence[_T]) -> _T:
    return options[int(rng.random() * len(options))]


def _shuffled(rng: Chance, options: Sequence[_T]) -> list[_T]:
    keys = [rng.random() for _ in options]
    return [options[i] for i in sorted(range(len(options)), key=keys.__getitem__)]


# ------------------------------------------------------------------------------------------------ pictures

_SKY: dict[str, tuple[Rgb, Rgb]] = {
    "day": ((92, 176, 240), (206, 236, 252)),
    "night": ((12, 16, 52), (48, 58, 112)),
    "sunset": ((122, 84, 160), (255, 176, 96)),
}
_CLOUD: dict[str, Rgb] = {"day": (255, 255, 255), "night": (74, 84, 132), "sunset": (255, 196, 178)}
_LIGHT: dict[str, tuple[tuple[float, float, float], tuple[int, int, int]]] = {
    "day": ((1.0, 1.0, 1.0), (0, 0, 0)),
    "night": ((0.44, 0.48, 0.62), (4, 8, 28)),
    "sunset": ((0.98, 0.78, 0.66), (6, 0, 12)),
}
_THING_LIGHT: dict[str, tuple[tuple[float, float, float], tuple[int, int, int]]] = {
    "day": ((1.0, 1.0, 1.0), (0, 0, 0)),
    "night": ((0.72, 0.70, 0.78), (4, 6, 18)),
    "sunset": ((1.0, 0.88, 0.80), (0, 0, 6)),
}
# far hills, then the ground where it meets them and at the foot of the picture
_LAND: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "summer": ((112, 178, 122), (158, 210, 98), (108, 178, 72)),
    "autumn": ((186, 132, 92), (222, 178, 104), (182, 128, 66)),
    "winter": ((196, 216, 236), (244, 248, 253), (214, 227, 243)),
}
_LEAVES: dict[str, tuple[Rgb, Rgb]] = {
    "summer": ((74, 158, 62), (48, 126, 58)),
    "autumn": ((232, 122, 36), (194, 84, 30)),
    "winter": ((250, 252, 255), (204, 220, 240)),
}
_STARS = ((9, 9, 2.8), (16, 31, 2.3), (48, 7, 2.6), (47, 30, 2.3), (78, 31, 2.4), (87, 9, 2.8))


class _Pen:
    """Draws in pixels at `SIZE` around an origin, in the light of the hour, onto a larger canvas."""

    def __init__(
        self,
        canvas: ImageDraw.ImageDraw,
        scale: float,
        light: tuple[tuple[float, float, float], tuple[int, int, int]],
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.canvas, self.scale, self.light, self.origin = canvas, scale, light, origin

    def lit(self, colour: Rgb) -> Rgb:
        (r, g, b), (dr, dg, db) = self.light
        return (
            min(255, round(colour[0] * r + dr)),
            min(255, round(colour[1] * g + dg)),
            min(255, round(colour[2] * b + db)),
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.origin[0] + x * self.scale, self.origin[1] + y * self.scale

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        self.canvas.ellipse((*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)), fill=self.lit(colour))

    def shape(self, points: Sequence[tuple[float, float]], colour: Rgb) -> None:
        self.canvas.polygon([self.at(x, y) for x, y in points], fill=self.lit(colour))

    def block(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb, radius: float = 0.0) -> None:
        box = (*self.at(x0, y0), *self.at(x1, y1))
        self.canvas.rounded_rectangle(box, radius=radius * self.scale, fill=self.lit(colour))


def draw(scene: Scene, size: int = SIZE) -> np.ndarray:
    """Return the scene as a uint8 picture [size, size, 3]; the same drawing at any size from 32."""
    fine = 4 if size <= 2 * SIZE else 3  # drawn larger and averaged: the edges come out smooth
    side = size * fine
    scale = side / SIZE
    look = scene.look

    picture = _gradient(side, 0, look.horizon * scale, *_SKY[scene.time])
    canvas = ImageDraw.Draw(picture)
    _draw_sky(_Pen(canvas, scale, _LIGHT["day"]), scene)

    land = _Pen(canvas, scale, _LIGHT[scene.time])
    far, top, foot = _LAND[scene.season]
    land.shape(_hill(look.horizon, look.far), far)
    ground = _gradient(side, (look.horizon + 6) * scale, side, land.lit(top), land.lit(foot))
    inside = Image.new("L", (side, side))
    ImageDraw.Draw(inside).polygon([land.at(x, y) for x, y in _hill(look.horizon + 9, look.near)], fill=255)
    picture.paste(ground, mask=inside)

    for thing in scene.things:
        x, y, grow = _stand(look, thing.slot)
        origin, unit = (x * scale, y * scale), scale * grow
        shadow = _mix(foot, (40, 50, 80), 0.34)
        _Pen(canvas, unit, _LIGHT[scene.time], origin).disc(0.4, 0.2, 13.8, 2.8, shadow)
        _DRAWN[thing.kind](_Pen(canvas, unit, _THING_LIGHT[scene.time], origin), thing, scene)
    if scene.style == "black and white":
        picture = picture.convert("L").convert("RGB")
    elif scene.style == "sketch":
        picture = _sketched(picture, scale)
    return np.asarray(picture.reduce(fine))


def mask(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the edited region of two uint8 pictures [h, w, 3] as bool [h, w].

    A pixel counts where a channel differs by more than 8 of 255; the region then grows by 1/48 of the width.
    """
    differs = np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2) > 8
    reach = max(1, before.shape[1] // 48)
    grown = Image.fromarray(differs.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * reach + 1))
    return np.asarray(grown) > 0


def _sketched(picture: Image.Image, scale: float) -> Image.Image:
    """Return the picture as pencil on paper: a dark line wherever its colours part, hatching for its shade.

    The hatching repeats every eight pixels at `SIZE`, which is the side of a cell of the latent: it looks the same
    in every cell, so that an autoencoder need not remember where its lines run.
    """
    reach = round(0.4 * scale) + 1
    pixels = np.asarray(picture)
    logarithm = np.log1p(np.arange(256, dtype=np.float32) / 30)
    light = logarithm[_spread(pixels, reach, np.maximum)]
    dark = logarithm[_spread(pixels, reach, np.minimum)]
    line = np.clip((light - dark).max(axis=2) * 11 - 0.8, 0, 1)  # by ratios, so that lines show by night too
    shade = np.clip(1.23 - np.asarray(picture.convert("L"), dtype=np.float32) / 178, 0, 1)
    place = np.arange(picture.width) / scale
    hatched = np.abs((place[:, None] + place) % 8 - 4) < 1.76
    paper = 250 - shade * (44 + 72 * hatched)
    return Image.fromarray((paper + (48 - paper) * line).round().astype(np.uint8)).convert("RGB")


def _spread(pixels: np.ndarray, reach: int, extreme: np.ufunc) -> np.ndarray:
    """Return the largest or smallest value of each channel in the square of pixels up to `reach` away."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = extreme.reduce([padded[k : k + height] for k in range(2 * reach + 1)])
    return extreme.reduce([rows[:, k : k + width] for k in range(2 * reach + 1)])


def _gradient(side: int, start: float, stop: float, first: Rgb, last: Rgb) -> Image.Image:
    way = np.clip((np.arange(side) - start) / (stop - start), 0, 1)[:, None]
    column = np.asarray(first) * (1 - way) + np.asarray(last) * way
    strip = Image.fromarray(column.round().astype(np.uint8)[:, None])
    return strip.resize((side, side), Image.Resampling.NEAREST)


def _mix(a: Rgb, b: Rgb, part: float) -> Rgb:
    return (
        round(a[0] + (b[0] - a[0]) * part),
        round(a[1] + (b[1] - a[1]) * part),
        round(a[2] + (b[2] - a[2]) * part),
    )


def _crest(x: float, height: float, wave: tuple[float, float, float]) -> float:
    rise, turns, phase = wave
    return height - rise * math.sin(2 * math.pi * turns * x / SIZE + phase)


def _hill(height: float, wave: tuple[float, float, float]) -> list[tuple[float, float]]:
    crest = [(x, _crest(x, height, wave)) for x in range(-2, SIZE + 3, 2)]
    return [*crest, (SIZE + 2, SIZE + 2), (-2, SIZE + 2)]


def _stand(look: Look, slot: int) -> tuple[float, float, float]:
    """Return where a slot's thing stands, x and y, and how large it is drawn.

    All three follow from the visible ground, so that where a new thing belongs can be told from the picture.
    """
    x = 16 + 32 * slot
    y = _crest(x, look.horizon + 9, look.near) + (25 if slot == 1 else 22)
    return x, y, 0.92 + 0.008 * (y - 76)  # the nearer, the larger


def _draw_sky(pen: _Pen, scene: Scene) -> None:
    x, sky, horizon = scene.look.sun_x, _SKY[scene.time], scene.look.horizon
    if scene.time == "day":
        pen.disc(x, 15, 11, 11, (190, 222, 232))
        pen.disc(x, 15, 8, 8, (255, 222, 84))
    elif scene.time == "sunset":
        pen.disc(x, horizon - 8, 13.5, 13.5, (255, 190, 104))
        pen.disc(x, horizon - 8, 10, 10, (255, 232, 140))
    else:
        pen.disc(x, 15, 11, 11, (38, 46, 92))
        pen.disc(x, 15, 8, 8, (250, 244, 206))
        pen.disc(x - 2.4, 12.6, 1.9, 1.9, (226, 218, 180))
        pen.disc(x + 2.6, 17.2, 1.5, 1.5, (226, 218, 180))
        for star_x, star_y, radius in _STARS:
            if math.hypot(star_x - x, star_y - 15) > 13:
                _draw_star(pen, star_x, star_y, radius)
    if scene.sky == "clouds":
        white = _CLOUD[scene.time]
        for x, y, size in scene.look.clouds:
            cloud = _Pen(pen.canvas, pen.scale * size, pen.light, pen.at(x, y))
            cloud.block(-10, 0, 10, 5, _mix(white, sky[1], 0.35), 2.5)
            for puff_x, puff_y, radius in ((-5, 0, 3.6), (0, -2.2, 5), (5, -0.2, 3.8)):
                cloud.disc(puff_x, puff_y, radius, radius, white)
            cloud.block(-9.5, -0.5, 9.5, 3.4, white, 1.9)


def _draw_star(pen: _Pen, x: float, y: float, radius: float) -> None:
    points = []
    for corner in range(8):
        reach, angle = radius * (1.25 if corner % 2 == 0 else 0.55), corner * math.pi / 4
        points.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    pen.shape(points, (255, 246, 196))


def _tones(colour: str) -> tuple[Rgb, Rgb, Rgb]:
    """Return the bright, the plain and the shaded tone of a colour."""
    plain = COLOURS[colour]
    return _mix(plain, (255, 255, 255), 0.35), plain, _mix(plain, (52, 50, 104), 0.30)


def _draw_house(pen: _Pen, thing: Thing, scene: Scene) -> None:
    _, plain, shade = _tones(thing.colour)
    winter, night = scene.season == "winter", scene.time == "night"
    roof = (112, 74, 72)
    pen.block(6, -35, 10, -24, (150, 104, 92))
    pen.block(-12, -20, 12, 0, plain)
    pen.block(5.5, -20, 12, 0, shade)
    pen.shape([(-15, -19), (0, -34), (15, -19)], roof)
    if winter:
        pen.shape([(-15, -19), (0, -34), (15, -19), (10, -21.5), (0, -26), (-10, -21.5)], (250, 252, 255))
        pen.block(5.4, -36.4, 10.6, -33.6, (250, 252, 255), 1.2)
    pen.block(-3.4, -11, 3.0, 0, (96, 62, 56))
    glass = _Pen(pen.canvas, pen.scale, _LIGHT["day"], pen.origin) if night else pen
    for left in (-10, 5.5):
        pen.block(left - 0.8, -15.3, left + 5.3, -7.7, (250, 246, 236))
        glass.block(left, -14.5, left + 4.5, -8.5, (255, 216, 96) if night else (150, 206, 236))


def _draw_tree(pen: _Pen, thing: Thing, scene: Scene) -> None:
    bright, shade = _LEAVES[scene.season]
    pen.shape([(-2.6, -16), (2.6, -16), (3.6, 0.6), (-3.6, 0.6)], (124, 82, 56))
    for x, y, r in ((-6.2, -17, 7.4), (6.2, -17, 7.4), (0, -26, 10)):
        pen.disc(x, y, r, r, shade)
    for x, y, r in ((-6.4, -18.8, 6.2), (4.4, -18.8, 6.0), (-1.2, -27.2, 8.4)):
        pen.disc(x, y, r, r, bright)


def _draw_ball(pen: _Pen, thing: Thing, scene: Scene) -> None:
    bright, plain, shade = _tones(thing.colour)
    pen.disc(0, -12, 12.5, 12.5, shade)
    pen.disc(-1.2, -13.2, 11, 11, plain)
    pen.disc(-4.4, -17, 4, 3.4, _mix(bright, (255, 255, 255), 0.45))


def _draw_cube(pen: _Pen, thing: Thing, scene: Scene) -> None:
    bright, plain, shade = _tones(thing.colour)
    pen.shape([(-12.5, -20), (0, -26), (12.5, -20), (0, -14)], bright)
    pen.shape([(-12.5, -20), (0, -14), (0, 1.5), (-12.5, -4.5)], plain)
    pen.shape([(12.5, -20), (0, -14), (0, 1.5), (12.5, -4.5)], shade)


def _draw_car(pen: _Pen, thing: Thing, scene: Scene) -> None:
    _, plain, shade = _tones(thing.colour)
    night = scene.time == "night"
    pen.shape([(-10, -11), (-6.6, -19), (5, -19), (9.6, -11)], plain)
    pen.block(-7, -20, 5.4, -17, plain, 1.4)
    pen.shape([(-7.2, -11), (-4.9, -17.2), (-1.2, -17.2), (-1.2, -11)], (176, 220, 242))
    pen.shape([(0.8, -11), (0.8, -17.2), (3.9, -17.2), (7.0, -11)], (176, 220, 242))
    pen.block(-14.6, -12, 14.6, -3, plain, 3)
    pen.block(-14.6, -6, 14.6, -2.6, shade, 1.6)
    lamp = _Pen(pen.canvas, pen.scale, _LIGHT["day"], pen.origin) if night else pen
    lamp.disc(13, -8.6, 1.5, 1.7, (255, 236, 140))
    for x in (-8, 8):
        pen.disc(x, -3, 4.2, 4.2, (46, 46, 58))
        pen.disc(x, -3, 1.8, 1.8, (206, 208, 216))


_DRAWN: dict[str, Callable[[_Pen, Thing, Scene], None]] = {
    "house": _draw_house,
    "tree": _draw_tree,
    "ball": _draw_ball,
    "cube": _draw_cube,
    "car": _draw_car,
}

# ------------------------------------------------------------------------------------------------ edits
# {x} a thing in the scene, {old} its colour, {c} a colour, {a} a new thing with its article and colour,
# {p} a place, {t} {s} a time or season, {at} a time with its preposition, {was} the time or season before,
# {n} a style as a noun or adjective, {as} a style as an adverb, {one} {two} instructions that begin with a verb.

TRAINING: dict[str, tuple[str, ...]] = {
    "time": (
        "make it {t}",
        "turn it into {t}",
        "turn {was} into {t}",
        "change {was} to {t}",
        "change the time to {t}",
        "change the time of day to {t}",
        "turn the picture into {t}",
        "it should be {t}",
        "let it be {t}",
        "as if {at}",
        "make it look like {t}",
        "make it look {at}",
        "show the scene {at}",
        "what would it look like {at}",
        "what if it was {t}",
        "{at}",
        "change it into {t}",
        "turn the time to {t}",
        "i want it to be {t}",
        "let me see it {at}",
        "make the scene look {at}",
    ),
    "season": (
        "make it {s}",
        "turn it into {s}",
        "turn {was} into {s}",
        "change {was} to {s}",
        "change the season to {s}",
        "turn the picture into {s}",
        "it should be {s}",
        "let it be {s}",
        "as if in {s}",
        "make it look like {s}",
        "show the scene in {s}",
        "what would it look like in {s}",
        "what if it was {s}",
        "in {s}",
        "make it look as in {s}",
        "change it into {s}",
        "turn the season to {s}",
        "i want it to be {s}",
        "let me see it in {s}",
    ),
    "colour": (
        "paint the {x} {c}",
        "make the {x} {c}",
        "turn the {x} {c}",
        "colour the {x} {c}",
        "color the {x} {c}",
        "change the colour of the {x} to {c}",
        "change the color of the {x} to {c}",
        "change the {x} colour to {c}",
        "the {x} should be {c}",
        "let the {x} be {c}",
        "i want the {x} to be {c}",
        "make the {old} {x} {c}",
        "turn the {old} {x} {c}",
        "make the {x} look {c}",
        "repaint the {x} {c}",
        "repaint the {x} in {c}",
        "paint the {x} in {c}",
        "the {x} should be painted {c}",
        "make the {old} {x} look {c}",
        "change the {old} {x} to {c}",
        "change the {x} from {old} to {c}",
        "give the {x} the colour {c}",
        "turn the colour of the {x} to {c}",
        "make the colour of the {x} {c}",
        "the {x} becomes {c}",
        "let the {x} become {c}",
        "i want the {old} {x} to be {c}",
        "the color of the {x} is {c}",
    ),
    "add": (
        "add {a}",
        "add {a} to the picture",
        "put {a} in the picture",
        "place {a} in the scene",
        "insert {a}",
        "draw {a}",
        "there should be {a}",
        "let there be {a}",
        "i want {a} in the picture",
        "show {a} in the scene",
        "show me {a}",
        "show {a} in the picture",
        "show us {a}",
        "let me see {a}",
        "i want to see {a}",
        "i want {a}",
        "include {a}",
        "include {a} in the scene",
        "draw {a} into the picture",
        "draw {a} in the scene",
        "paint {a}",
        "paint {a} into the scene",
        "put {a} into the picture",
        "place {a} in the picture",
        "insert {a} into the scene",
        "add {a} too",
        "add {a} here",
        "there is {a}",
    ),
    "add at": (
        "add {a} {p}",
        "put {a} {p}",
        "place {a} {p}",
        "insert {a} {p}",
        "draw {a} {p}",
        "there should be {a} {p}",
        "let there be {a} {p}",
        "i want {a} {p}",
        "{p} add {a}",
        "put {a} {p} of the picture",
        "{p} place {a}",
        "{p} draw {a}",
        "{p} show {a}",
        "{p} i want {a}",
        "{p} there is {a}",
        "{p} let there be {a}",
        "show me {a} {p}",
        "let me see {a} {p}",
        "i want to see {a} {p}",
        "include {a} {p}",
        "there is {a} {p}",
        "place {a} {p} of the scene",
        "insert {a} {p} of the picture",
        "draw {a} {p} of the picture",
        "add {a} {p} of the scene",
        "paint {a} {p}",
    ),
    "remove": (
        "remove the {x}",
        "remove the {old} {x}",
        "remove the {x} from the picture",
        "take away the {x}",
        "take the {x} away",
        "take the {x} out of the picture",
        "delete the {x}",
        "erase the {x}",
        "erase the {x} from the scene",
        "get rid of the {x}",
        "make the {x} disappear",
        "there should be no {x}",
        "i do not want the {x}",
        "no {x}",
        "erase the {old} {x}",
        "take away the {old} {x}",
        "get rid of the {old} {x}",
        "take the {old} {x} away",
        "remove the {x} from the scene",
        "take away the {x} from the picture",
        "take out the {x}",
        "make the {old} {x} disappear",
        "let the {x} disappear",
        "the {x} should disappear",
        "make the {x} vanish",
        "i want the {x} gone",
        "i want the {x} to be gone",
        "i want the {x} to go away",
        "i want the {x} removed",
        "i want to remove the {x}",
        "i want to delete the {x}",
        "i want no {x}",
        "the {x} should be gone",
        "the {x} should go",
        "let the {x} be gone",
        "show the scene without the {x}",
        "the picture without the {x}",
        "there is no {x}",
        "i want to delete the {old} {x}",
        "i want to remove the {old} {x}",
        "i want the {old} {x} gone",
        "i want the {old} {x} removed",
        "let the {old} {x} disappear",
        "make the {old} {x} vanish",
        "take out the {old} {x}",
        "the {old} {x} should disappear",
        "the {old} {x} should be gone",
    ),
    "replace": (
        "replace the {x} with {a}",
        "replace the {x} by {a}",
        "turn the {x} into {a}",
        "turn the {old} {x} into {a}",
        "swap the {x} for {a}",
        "swap the {x} with {a}",
        "change the {x} into {a}",
        "make the {x} into {a}",
        "exchange the {x} for {a}",
        "put {a} in place of the {x}",
        "put {a} where the {x} is",
        "i want {a} instead of the {x}",
        "the {x} should be {a}",
        "replace the {old} {x} by {a}",
        "swap the {old} {x} for {a}",
        "change the {old} {x} into {a}",
        "exchange the {old} {x} for {a}",
        "exchange the {x} with {a}",
        "transform the {x} into {a}",
        "convert the {x} into {a}",
        "the {x} becomes {a}",
        "let the {x} become {a}",
        "the {x} should become {a}",
        "show {a} instead of the {x}",
        "draw {a} instead of the {x}",
        "add {a} instead of the {x}",
        "place {a} in place of the {x}",
        "let there be {a} instead of the {x}",
        "i want {a} in place of the {x}",
        "i want {a} where the {x} is",
        "there should be {a} where the {x} is",
        "turn the {x} to {a}",
    ),
    "style": (
        "{as}",
        "make it {n}",
        "turn it into {n}",
        "turn the picture into {n}",
        "make it look like {n}",
        "it should be {n}",
        "show the scene {as}",
        "show it {as}",
        "draw it {as}",
        "make it look {as}",
        "what would it look like {as}",
        "change the picture to {n}",
    ),
    "two": (
        "{one} and {two}",
        "{one}, and {two}",
        "{one}, {two}",
        "{one} and then {two}",
        "{one} then {two}",
        "{one} and also {two}",
        "first {one} then {two}",
        "{one}, and then {two}",
    ),
}
"""Phrasings that training draws from, by kind of edit."""

HELD_OUT: dict[str, tuple[str, ...]] = {
    "time": (
        "change it to {t}",
        "turn the scene into {t}",
        "the picture should look like {t}",
        "show it {at}",
    ),
    "season": (
        "change it to {s}",
        "turn the scene into {s}",
        "the picture should look like {s}",
        "show it in {s}",
    ),
    "colour": (
        "change the {x} to {c}",
        "paint the {old} {x} {c}",
        "the colour of the {x} should be {c}",
        "make the color of the {x} {c}",
    ),
    "add": ("put {a} in the scene", "add {a} to the scene", "draw {a} in the picture", "show {a}"),
    "add at": ("show {a} {p}", "{p} there should be {a}", "add {a} {p} of the picture", "{p} put {a}"),
    "remove": (
        "delete the {x} from the picture",
        "take the {x} out of the scene",
        "delete the {old} {x}",
        "i want the {x} to disappear",
    ),
    "replace": (
        "put {a} instead of the {x}",
        "there should be {a} in place of the {x}",
        "replace the {old} {x} with {a}",
        "change the {x} to {a}",
    ),
    "style": ("turn the scene into {n}", "let it be {n}", "draw the scene {as}", "show the picture {as}"),
    "two": ("first {one} and then {two}", "{one}, then {two}", "first {one}, then {two}", "{one}, and also {two}"),
}
"""Phrasings that training never sees, made of words that it does see."""

# Sentences that name no time or season by the pattern; for training only.
_OWN_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("let the sun shine", "make it bright"),
    "night": ("make it dark", "let the moon and the stars shine", "add the moon and stars"),
    "sunset": ("let the sun set", "make the sun go down"),
    "summer": ("make the grass green", "make everything green"),
    "autumn": ("make the leaves fall", "make the grass brown"),
    "winter": ("cover everything in snow", "make it snow", "add snow", "put snow on the ground"),
}
_NAMES: dict[str, tuple[str, ...]] = {
    "day": ("day", "daytime"),
    "night": ("night", "nighttime"),
    "sunset": ("sunset", "dusk"),
    "summer": ("summer",),
    "autumn": ("autumn", "fall"),
    "winter": ("winter",),
}
_AT: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight"),
    "night": ("at night", "by night"),
    "sunset": ("at sunset", "at dusk"),
}
_STYLE_AS: dict[str, tuple[str, ...]] = {
    "black and white": ("in black and white",),
    "sketch": ("as a pencil sketch", "as a sketch", "as a pencil drawing", "in pencil"),
}
_STYLE_NOUNS: dict[str, tuple[str, ...]] = {
    "black and white": ("black and white", "a black and white picture"),
    "sketch": ("a pencil sketch", "a sketch", "a pencil drawing"),
}
_VERBS = (
    *("add", "change", "color", "colour", "convert", "cover", "delete", "draw", "erase", "exchange", "get", "give"),
    *("include", "insert", "make", "paint", "place", "put", "remove", "repaint", "replace", "show", "swap", "take"),
    *("transform", "turn"),
)
_APART = frozenset({("time", "replace"), ("season", "colour"), ("add", "colour"), ("remove", "replace")})
"""Kinds that training never joins in one sentence, in either order; held-out phrasings do."""


def edits(scene: Scene, rng: Chance, held_out_phrasing: bool = False) -> list[Edit]:
    """Return one random edit of each kind that this scene allows, in the order of `KINDS`.

    Adding needs a free slot, and takes the left-most one unless the sentence names a place. What is added or
    put in another's stead is of a kind that the scene does not have, so that 'the car' stays one car.
    """
    say = _Speaker(rng, HELD_OUT if held_out_phrasing else TRAINING)
    made = [say.time(scene), say.season(scene)]
    coloured = [thing for thing in scene.things if thing.kind != "tree"]
    missing = [kind for kind in THINGS if all(thing.kind != kind for thing in scene.things)]
    free = [slot for slot in range(3) if all(thing.slot != slot for thing in scene.things)]
    if coloured:
        made.append(say.colour(scene, _pick(rng, coloured)))
    if free:
        made.append(say.add(scene, _pick(rng, missing), free))
    if scene.things:
        made.append(say.remove(scene, _pick(rng, scene.things)))
        made.append(say.replace(scene, _pick(rng, scene.things), _pick(rng, missing)))
    return made


def absent_edit(scene: Scene, rng: Chance, held_out_phrasing: bool = False) -> Edit:
    """Return an edit of kind 'absent': it speaks of a thing that the scene lacks, and so nothing changes."""
    say = _Speaker(rng, HELD_OUT if held_out_phrasing else TRAINING)
    missing = [kind for kind in THINGS if all(thing.kind != kind for thing in scene.things)]
    phantom = _thing(rng, _pick(rng, missing), 0)
    others = [kind for kind in missing if kind != phantom.kind]
    way = _pick(rng, ("colour", "remove", "replace"))
    if way == "colour" and phantom.kind != "tree":
        said = say.colour(scene, phantom)
    elif way == "replace" and others:
        said = say.replace(scene, phantom, _pick(rng, others))
    else:
        said = say.remove(scene, phantom)
    return Edit("absent", said.instruction, scene)


def style_edit(scene: Scene, rng: Chance, held_out_phrasing: bool = False) -> Edit:
    """Return an edit of kind 'style': the whole picture in black and white, or as a pencil sketch."""
    say = _Speaker(rng, HELD_OUT if held_out_phrasing else TRAINING)
    return say.style(scene)


def two_edit(scene: Scene, rng: Chance, held_out_phrasing: bool = False) -> Edit:
    """Return an edit of kind 'two': two instructions in one sentence, about different things.

    The time or the season and one thing, or two things. Each half is as if it were alone: an added thing that is
    given no place stands in the left-most slot that was free before.
    """
    say = _Speaker(rng, HELD_OUT if held_out_phrasing else TRAINING, verbs_only=True)
    things = _shuffled(rng, scene.things)
    first_new, second_new = _shuffled(rng, [kind for kind in THINGS if all(thing.kind != kind for thing in things)])[:2]
    free = [slot for slot in range(3) if all(thing.slot != slot for thing in scene.things)]

    def local(thing: Thing | None, new: str) -> list[Edit]:
        made = [say.add(scene, new, free)] if free else []
        if thing is not None:
            made += [say.remove(scene, thing), say.replace(scene, thing, new)]
            made += [say.colour(scene, thing)] if thing.kind != "tree" else []
        return made

    first, second = [*things, None, None][:2]
    wholes = [say.time(scene), say.season(scene)]
    pairs = [(whole, part) for whole in wholes for part in local(first, first_new)]
    if second is not None and rng.random() < 0.5:
        pairs = [(a, b) for a in local(first, first_new) for b in local(second, second_new)]
        pairs = [(a, b) for a, b in pairs if not a.kind == b.kind == "add"]
    if not held_out_phrasing:
        pairs = [(a, b) for a, b in pairs if not {(a.kind, b.kind), (b.kind, a.kind)} & _APART]
    one, two = _shuffled(rng, _pick(rng, pairs))
    said = _pick(rng, say.phrasings["two"]).format(one=one.instruction, two=two.instruction)
    gone = set(scene.things) - (set(one.after.things) & set(two.after.things))
    come = (set(one.after.things) | set(two.after.things)) - set(scene.things)
    both = replace(
        scene,
        time=two.after.time if one.after.time == scene.time else one.after.time,
        season=two.after.season if one.after.season == scene.season else one.after.season,
        things=_in_order([*(thing for thing in scene.things if thing not in gone), *come]),
    )
    return Edit("two", said, both, (one, two))


def every_edit(scene: Scene, seed: int, held_out_phrasing: bool = False) -> list[Edit]:
    """Return one edit of each of `ALL_KINDS` that the scene allows; each new kind draws from a stream of its own."""
    made = edits(scene, random.Random(seed), held_out_phrasing)
    for kind, make in (("style", style_edit), ("two", two_edit), ("absent", absent_edit)):
        made.append(make(scene, random.Random(f"{kind} {seed}"), held_out_phrasing))
    return made


def casual(instruction: str, rng: Chance) -> str:
    """Return the sentence as people also type it: politely, with a full stop, or without articles."""
    bare = " ".join(word for word in instruction.split() if word not in ("the", "a", "an"))
    ways = ("{}", "{}", "{}", "{}.", "{}!", "please {}", "{} please", "please {}.", "now {}", bare)
    return _pick(rng, ways).format(instruction)


class _Speaker:
    """Makes edits and words them from one set of phrasings, or only from those of them that begin with a verb."""

    def __init__(self, rng: Chance, phrasings: dict[str, tuple[str, ...]], verbs_only: bool = False) -> None:
        self.rng, self.phrasings, self.verbs_only = rng, phrasings, verbs_only

    def time(self, scene: Scene) -> Edit:
        new = _pick(self.rng, [time for time in TIMES if time != scene.time])
        words = {"t": self._name(new), "at": _pick(self.rng, _AT[new]), "was": self._name(scene.time)}
        return Edit("time", self._own_or_said("time", new, words), replace(scene, time=new))

    def season(self, scene: Scene) -> Edit:
        new = _pick(self.rng, [season for season in SEASONS if season != scene.season])
        words = {"s": self._name(new), "was": self._name(scene.season)}
        return Edit("season", self._own_or_said("season", new, words), replace(scene, season=new))

    def style(self, scene: Scene) -> Edit:
        new = _pick(self.rng, [style for style in STYLES[1:] if style != scene.style])
        words = {"as": _pick(self.rng, _STYLE_AS[new]), "n": _pick(self.rng, _STYLE_NOUNS[new])}
        return Edit("style", self._said("style", words), replace(scene, style=new))

    def colour(self, scene: Scene, thing: Thing) -> Edit:
        new = _pick(self.rng, [colour for colour in COLOURS if colour != thing.colour])
        said = self._said("colour", {"x": thing.kind, "old": thing.colour, "c": new})
        return Edit("colour", said, _with(_without(scene, thing), replace(thing, colour=new)))

    def add(self, scene: Scene, kind: str, free: Sequence[int]) -> Edit:
        named = self.rng.random() < 0.5
        new = _thing(self.rng, kind, _pick(self.rng, free) if named else free[0])
        said = self._said("add at" if named else "add", {"a": _called(new), "p": PLACES[new.slot]})
        return Edit("add", said, _with(scene, new))

    def remove(self, scene: Scene, thing: Thing) -> Edit:
        said = self._said("remove", {"x": thing.kind, "old": thing.colour}, tree=thing.kind == "tree")
        return Edit("remove", said, _without(scene, thing))

    def replace(self, scene: Scene, thing: Thing, kind: str) -> Edit:
        new = _thing(self.rng, kind, thing.slot)
        words = {"x": thing.kind, "old": thing.colour, "a": _called(new)}
        said = self._said("replace", words, tree=thing.kind == "tree")
        return Edit("replace", said, _with(_without(scene, thing), new))

    def _said(self, kind: str, words: dict[str, str], tree: bool = False) -> str:
        options = self.phrasings[kind]
        if self.verbs_only:
            options = tuple(option for option in options if option.split()[0] in _VERBS)
        if tree:  # a tree has no colour to call it by
            options = tuple(option for option in options if "{old}" not in option)
        return _pick(self.rng, options).format(**words)

    def _own_or_said(self, kind: str, new: str, words: dict[str, str]) -> str:
        if self.phrasings is TRAINING and self.rng.random() < 0.15:
            return _pick(self.rng, _OWN_WORDS[new])
        return self._said(kind, words)

    def _name(self, when: str) -> str:
        return _pick(self.rng, _NAMES[when])


def _called(thing: Thing) -> str:
    if thing.kind == "tree":
        return "a tree"
    return f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.kind}"


def _without(scene: Scene, thing: Thing) -> Scene:
    return replace(scene, things=tuple(other for other in scene.things if other != thing))


def _with(scene: Scene, thing: Thing) -> Scene:
    return replace(scene, things=_in_order((*scene.things, thing)))
