"""Every setting of an edit, defined once: command line, page, API and infotext follow from this file."""

from __future__ import annotations

import contextlib
import random
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from .errors import UserError
from .text import number_text
from .variations import variations

SEEDS = 2**32
"""Seeds are 0 to SEEDS - 1; after the last comes 0 again."""

SHORTEST_SIDE, LONGEST_SIDE = 64, 4096
LONGEST_TEXT = 10_000

SPEEDS = ("exact", "balanced", "fast")
"""See `guidance/cached.py`."""

RESULT_SIZES = ("auto", "own", "model")
LONGEST_RESULT = 32_768
"""See `engine/result_size.py`."""

NO_TEXT = ("empty", "zeros")
"""See `engine/text.py`."""

GUIDANCES = ("instruct-pix2pix", "instruct-diffusion")
"""See `guidance/rows.py`."""

RANDOMIZE_CFG = ("off", "text", "image", "both")

KEEP_REST = ("off", "automatic", "always")
"""See `guidance/relevance.py`."""


@dataclass(frozen=True)
class Knob:
    """What a door has to know about one setting; its values are of the type of its default."""

    default: Any
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    infotext: str | None = None
    flag: str | None = None
    rule: Callable[[object], Any] | None = None  # replaces the checks below

    @property
    def range_text(self) -> str:
        """'between 1 and 30', or '' for a knob without a range."""
        if self.minimum is None or self.maximum is None:
            return ""
        return f"between {number_text(self.minimum)} and {number_text(self.maximum)}"

    def check(self, value: object) -> Any:  # noqa: ANN401
        """Return `value` in the knob's own type, or raise UserError naming label, value and range."""
        if self.rule is not None:
            return self.rule(value)
        if isinstance(self.default, bool):
            return self._check_switch(value)
        if isinstance(self.default, str):
            return self._check_text(value)
        return self._check_number(value)

    def parse(self, text: str) -> Any:  # noqa: ANN401
        """Read a value from text (infotext, command line) and check it; raises UserError."""
        if isinstance(self.default, str):
            return self.check(text)
        word = text.strip()
        if isinstance(self.default, bool):
            return self.check({"true": True, "false": False}.get(word.lower(), text))
        try:
            return self.check(int(word))
        except ValueError:
            pass
        try:
            return self.check(float(word))
        except ValueError:
            return self.check(text)  # not a number: the check says so

    def _check_switch(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise self._error(value, "true or false", "choose one of them")

    def _check_number(self, value: object) -> float:
        whole = isinstance(self.default, int)
        kind = f"{'a whole number' if whole else 'a number'} {self.range_text}".strip()
        advice = "choose a value in that range"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise self._error(value, kind, advice)
        if isinstance(value, Integral):
            # Exact, where a float would round a seed; no range reaches the bound that keeps messages short.
            number: float = max(-(10**18), min(int(value), 10**18))
        else:
            number = float(value)
        # Written so that NaN, which fails every comparison, is refused too.
        if not (self.minimum is None or number >= self.minimum) or not (self.maximum is None or number <= self.maximum):
            raise UserError(f"{self.label} is {number_text(number)}, but must lie {self.range_text}: {advice}.")
        if whole and number != int(number):
            raise self._error(value, kind, advice)
        return int(number) if whole else float(number)

    def _check_text(self, value: object) -> str:
        if not isinstance(value, str):
            raise self._error(value, "text", "write it as text")
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > LONGEST_TEXT:
            raise UserError(f"{self.label} is {len(text)} characters long, but at most {LONGEST_TEXT} fit: shorten it.")
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{self.label} holds bytes that are not text: type it again as plain text.")
        if self.default and not text.strip():
            raise UserError(f"{self.label} is empty: choose one by name, for example '{self.default}'.")
        if self.choices is not None and text not in self.choices:
            raise self._error(text, "one of " + ", ".join(self.choices), "choose one of them")
        return text

    def _error(self, value: object, wanted: str, advice: str) -> UserError:
        return UserError(f"{self.label} is {_shown(value)}, but must be {wanted}: {advice}.")


def knob(
    default: Any,  # noqa: ANN401 - a setting is of the type of its default
    *,
    label: str,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
    infotext: str | None = None,
    flag: str | None = None,
    rule: Callable[[object], Any] | None = None,
) -> Any:  # noqa: ANN401 - a dataclass field, typed as what it holds
    """Declare a field of a settings dataclass whose metadata is a Knob."""
    described = Knob(default, label, help, minimum, maximum, step, choices, infotext, flag, rule)
    return field(default=default, metadata={"knob": described})


def _check_size(value: object) -> str:
    """Return 'auto', '512' or '512x768' from what a person wrote. Raises UserError."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = None
    if isinstance(text, str):
        text = text.strip().lower()
        if text == "auto":
            return text
        found = re.fullmatch(r"([0-9]{1,9})(?:\s*[x×]\s*([0-9]{1,9}))?", text)
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in sides):
        raise UserError(
            f"Size is {_shown(value)}, but must be auto, a longest side such as 512, or a width and height "
            f"such as 512x768: choose sides between {SHORTEST_SIDE} and {LONGEST_SIDE}."
        )
    return "x".join(map(str, sides))


def _check_result_size(value: object) -> str:
    """Return 'auto', 'own', 'model' or '2048' from what a person wrote. Raises UserError."""
    word = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if word in RESULT_SIZES or (re.fullmatch("[0-9]{1,6}", word) and SHORTEST_SIDE <= int(word) <= LONGEST_RESULT):
        return word if word in RESULT_SIZES else str(int(word))
    raise UserError(
        f"Result size is {_shown(value)}, but must be auto, own, model, or a longest side from {SHORTEST_SIDE} to "
        f"{LONGEST_RESULT}: choose one of them."
    )


def _check_strength(value: object) -> float:
    """Return 0 to 1 from a number or one of `STRENGTHS`. Raises UserError."""
    if isinstance(value, str) and value.strip().lower() in STRENGTHS:
        return STRENGTHS[value.strip().lower()]
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)  # pyright: ignore[reportArgumentType]
        if 0 <= number <= 1 and not isinstance(value, bool):
            return number
    raise UserError(
        f"{STRENGTH.label} is {_shown(value)}, but must be {', '.join(STRENGTHS)}, or a number between 0 and 1: choose "
        "one of them."
    )


def _check_randomize(value: object) -> str:
    """Return one of `RANDOMIZE_CFG` from what a person chose, or from a switch, which is for both. Raises UserError."""
    word = str(value).strip().lower() if isinstance(value, (str, bool)) else ""
    word = {"true": "both", "false": "off"}.get(word, word)
    if word in RANDOMIZE_CFG:
        return word
    raise UserError(
        f"Randomize CFG is {_shown(value)}, but must be one of {', '.join(RANDOMIZE_CFG)}: choose one of them."
    )


def _check_seed(value: object) -> int:
    """Return -1, or the remainder by SEEDS, as torch's generator on the CPU takes it. Raises UserError."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(number, bool) or not isinstance(number, Integral) or number < -1:
        raise UserError(f"Seed is {_shown(value)}, but must be a whole number from 0, or -1: choose one of them.")
    return -1 if number == -1 else int(number) % SEEDS


def seed_notes(asked: float | str | None) -> list[str]:
    """Return a sentence where a seed, a number or its text, is used by its remainder; nothing where as it is."""
    try:
        word = str(asked)
        used = KNOBS["seed"].parse(word)
    except (UserError, ValueError):
        return []
    if used == -1 or float(word) < SEEDS:
        return []
    return [f"Seed {word.strip()[:40]} is longer than 32 bits: {used} was used, its remainder by {SEEDS}."]


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 60 else shown[:57] + "..."


@dataclass(frozen=True)
class EditSettings:
    """All that a person can set for one edit; checked when it is made, so that no other code checks again.

    Raises UserError for a value that is out of range, NaN, or of the wrong type.
    """

    instruction: str = knob("", label="Instruction", help="What to change, as you would tell a person.")
    negative: str = knob(
        "",
        label="Negative prompt",
        help="What the result should not look like; stands in for the empty text.",
        flag="--negative",
    )
    text_cfg: float = knob(
        7.5,
        label="Text CFG",
        help="How strongly the instruction is followed: higher changes more.",
        minimum=1.0,
        maximum=30.0,
        step=0.1,
        infotext="CFG scale",
        flag="--text-cfg",
    )
    image_cfg: float = knob(
        1.5,
        label="Image CFG",
        help="How closely the input picture is kept: higher changes less.",
        minimum=0.0,
        maximum=5.0,
        step=0.05,
        infotext="Image CFG scale",
        flag="--image-cfg",
    )
    steps: int = knob(
        20,
        label="Steps",
        help="Sampling steps: 20 to 30 suit most edits; time grows with them.",
        minimum=1,
        maximum=150,
        step=1,
        infotext="Steps",
        flag="--steps",
    )
    sampler: str = knob(
        "Euler a",
        label="Sampler",
        help="The rule that takes each step from noise to picture.",
        infotext="Sampler",
        flag="--sampler",
    )
    schedule: str = knob(
        "Automatic",
        label="Schedule type",
        help="How the noise levels are spaced; Automatic takes the sampler's own.",
        infotext="Schedule type",
        flag="--schedule",
    )
    seed: int = knob(
        -1,
        label="Seed",
        help="The same seed gives the same edit; -1 draws a new one.",
        minimum=-1,
        maximum=SEEDS - 1,
        step=1,
        infotext="Seed",
        flag="--seed",
        rule=_check_seed,  # longer ones, as other programs have, are taken by their remainder
    )
    count: int = knob(
        1,
        label="Count",
        help="How many edits to make, each with the next seed.",
        minimum=1,
        maximum=1000,
        step=1,
        flag="--count",
    )
    batch_size: int = knob(
        1,
        label="Batch size",
        help="How many edits are computed together: faster on a large GPU, more memory.",
        minimum=1,
        maximum=64,
        step=1,
        flag="--batch-size",
    )
    rescale: float = knob(
        0.0,
        label="Guidance rescale",
        help="Tames washed-out or burnt colours at high Text CFG; 0 is off.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        infotext="Guidance rescale",
        flag="--rescale",
    )
    denoise: float = knob(
        1.0,
        label="Denoising strength",
        help="1 starts from pure noise, as in the paper; lower starts from the noised input.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        infotext="Denoising strength",
        flag="--denoise",
    )
    size: str = knob(
        "auto",
        label="Size",
        help=(
            "Size at which the edit is computed: auto, the longest side (512), or width x height "
            f"(512x768); sides from {SHORTEST_SIDE} to {LONGEST_SIDE}."
        ),
        infotext="Edit size",  # A1111's 'Size' is the size of the picture
        flag="--size",
        rule=_check_size,
    )
    randomize_cfg: str = knob(
        "off",
        label="Randomize CFG",
        help="Draws one scale or both for each picture, from its seed: up to a fifth below or above what is set.",
        choices=RANDOMIZE_CFG,
        flag="--randomize-cfg",
        rule=_check_randomize,
    )
    speed: str = knob(
        "exact",
        label="Speed",
        help="exact is the guidance as published; balanced and fast evaluate less and differ a little.",
        choices=SPEEDS,
        infotext="Speed",
        flag="--speed",
    )

    vae: str = knob(
        "automatic",
        label="VAE",
        help="What turns latents into pictures: automatic is the model's own; else a name, or taesd, small and fast.",
        infotext="VAE",
        flag="--vae",
    )

    keep_rest: str = knob(
        "off",
        label="Keep the rest",
        help=(
            "Leaves as it was what the instruction does not mean. automatic: except in edits of the whole picture, "
            "such as 'make it winter'; always: in every edit."
        ),
        choices=KEEP_REST,
        infotext="Keep the rest",
        flag="--keep-rest",
    )
    keep_amount: float = knob(
        0.5,
        label="Keep amount",
        help="How much of the picture is kept when the rest is: higher keeps more.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        infotext="Keep amount",
        flag="--keep-amount",
    )
    result_size: str = knob(
        "auto",
        label="Result size",
        help=(
            "Size of the finished picture: own is the input's, model that of the edit, a number the longest side; "
            "auto is own where the input is larger."
        ),
        infotext="Result size",
        flag="--result-size",
        rule=_check_result_size,
    )
    zoom: bool = knob(
        False,
        label="Only the region",
        help="Where edit or mask cover a small part, edits that part at the model's full size and puts it back.",
        infotext="Only the region",
        flag="--zoom",
    )
    apg_eta: float = knob(
        1.0,
        label="APG eta",
        help="Against burnt colours at high Text CFG: the share of the guidance along the picture itself; 1 is off.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        infotext="APG eta",
        flag="--apg-eta",
    )
    apg_threshold: float = knob(
        0.0,
        label="APG norm threshold",
        help="Against burnt colours at high Text CFG: the most that the guidance may weigh, usually 15; 0 is off.",
        minimum=0.0,
        maximum=1000.0,
        step=0.5,
        infotext="APG norm threshold",
        flag="--apg-threshold",
    )
    apg_momentum: float = knob(
        0.0,
        label="APG momentum",
        help="How much of the last step's guidance is added to this one's, usually -0.5; 0 is off.",
        minimum=-1.0,
        maximum=1.0,
        step=0.05,
        infotext="APG momentum",
        flag="--apg-momentum",
    )
    no_text: str = knob(
        "empty",
        label="No text",
        help=(
            "What SDXL models take for no text, without a negative prompt: empty, as they were trained, or zeros, as "
            "diffusers does it."
        ),
        choices=NO_TEXT,
        infotext="No text",
        flag="--no-text",
    )
    guidance: str = knob(
        "instruct-pix2pix",
        label="Guidance",
        help=(
            "How the two scales act: as in InstructPix2Pix, or as InstructDiffusion's checkpoint needs it, which looks "
            "the same."
        ),
        choices=GUIDANCES,
        infotext="Guidance",
        flag="--guidance",
    )

    def __post_init__(self) -> None:
        """Check every field and store it in its own type (7 becomes 7.0, '512 X 768' becomes '512x768')."""
        for name, one in KNOBS.items():
            object.__setattr__(self, name, one.check(getattr(self, name)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EditSettings:
        """Make settings from names and values; None means the default. Raises UserError."""
        for name in values:
            if name not in KNOBS:
                close = get_close_matches(str(name), KNOBS, n=1)
                advice = f"did you mean '{close[0]}'?" if close else f"the settings are {', '.join(KNOBS)}."
                raise UserError(f"There is no setting '{str(name)[:60]}': {advice}")
        return cls(**{name: value for name, value in values.items() if value is not None})

    @property
    def target_size(self) -> int | tuple[int, int] | None:
        """The size in pixels: the longest side, or (width, height), or None for 'auto'."""
        if self.size == "auto":
            return None
        sides = [int(side) for side in self.size.split("x")]
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])

    @property
    def target_longest(self) -> int | None:
        """The longest side of the size, in pixels; None for 'auto'."""
        size = self.target_size
        return max(size) if isinstance(size, tuple) else size

    def require_instruction(self) -> EditSettings:
        """Return these settings, or raise UserError when the instruction is blank."""
        if not self.instruction.strip():
            raise UserError("The instruction is empty: say what to change, for example 'make it winter'.")
        return self

    def seeds(self) -> list[int]:
        """Return a seed for each of the `count` pictures; with a seed of -1 every call draws a new first one."""
        first = secrets.randbelow(SEEDS) if self.seed == -1 else self.seed
        return [(first + index) % SEEDS for index in range(self.count)]

    @property
    def results(self) -> int:
        """How many pictures are asked for: `count` of each variation of the instruction."""
        return self.count * len(variations(self.instruction))

    def pictures(self) -> list[EditSettings]:
        """Return the settings of each picture: each variation of the instruction with each seed (see `seeds`)."""
        seeds, texts = self.seeds(), variations(self.instruction)
        varied = [replace(self, instruction=text) for text in texts]
        return [one.for_image(seed) for one in varied for seed in seeds]

    def picture(self, index: int) -> EditSettings:
        """Return the settings of the picture of this index, from 0; with a seed that is set."""
        variation, number = divmod(index, self.count)
        one = replace(self, instruction=variations(self.instruction)[variation])
        return one.for_image((self.seed + number) % SEEDS)

    def for_image(self, seed: int) -> EditSettings:
        """Return the settings of the picture with this seed, with the scales that it draws, if any."""
        text_cfg, image_cfg = random_scales(seed, self.text_cfg, self.image_cfg, self.randomize_cfg)
        return replace(self, seed=seed, randomize_cfg="off", text_cfg=text_cfg, image_cfg=image_cfg)


def random_scales(seed: int, text_cfg: float, image_cfg: float, which: str) -> tuple[float, float]:
    """Draw (Text CFG, Image CFG) for a seed, with the decimals of the authors' edit_app.py; `which` of RANDOMIZE_CFG.

    Around 7.5 and 1.5 the ranges are its too, 6 to 9 and 1.2 to 1.8.
    """
    draw = random.Random(seed)
    drawn = []
    for name, value in (("text_cfg", text_cfg), ("image_cfg", image_cfg)):
        least, most = KNOBS[name].minimum or 0, KNOBS[name].maximum or 0
        near = round(draw.uniform(0.8 * value, 1.2 * value), 2)
        drawn.append(min(max(near, least), most) if which in ("both", name.removesuffix("_cfg")) else value)
    return drawn[0], drawn[1]


KNOBS: Mapping[str, Knob] = MappingProxyType({one.name: one.metadata["knob"] for one in fields(EditSettings)})
"""The knob of each field of EditSettings, in order."""

BEST_OF = Knob(
    1,
    label="Best of",
    help="How many seeds to begin for each result; the one that leaves the rest as it was is finished. Keeps the rest.",
    minimum=1,
    maximum=64,
    step=1,
)
"""How a result is found, as is `STRENGTH`: no settings of the result itself (see `engine/search.py`)."""

STRENGTHS = {"subtle": 0.2, "normal": 0.5, "strong": 0.8}

STRENGTH = Knob(
    "",
    label="How much to change",
    help="subtle, normal, strong, or 0 to 1: finds Text CFG and Image CFG itself. Keeps the rest.",
    minimum=0.0,
    maximum=1.0,
    step=0.05,
    rule=_check_strength,
)

FOCUS = Knob(
    "off",
    label="Focus",
    help="found: lets the instruction act only where its first steps mean to change something; mask: only in the mask.",
    choices=("off", "found", "mask"),
)
"""Where the instruction acts (see `guidance/focus.py`), at doors that leave the guidance to others' workflows."""

FROM_NOISE = Knob(
    True,
    label="Start from noise",
    help="As in the paper. Off: start from the noised input, by the denoising strength.",
)
"""The switch of a form that has a denoising strength of its own: on is a strength of 1."""
