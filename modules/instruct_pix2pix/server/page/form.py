"""From the values of the page's controls to the settings of an edit, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...engine.candidates import Search
from ...errors import UserError
from ...settings import BEST_OF, KNOBS, STRENGTH, STRENGTHS, EditSettings

AUTOMATIC, LONGEST, BY_HAND = "Automatic", "Longest side", "Width × height"
SIZINGS = (AUTOMATIC, LONGEST, BY_HAND)
"""How the size of the edit is chosen."""

RESULT_WORDS = {AUTOMATIC: "auto", "Own": "own", "Model": "model"}
RESULT_SIZINGS = (*RESULT_WORDS, LONGEST)
"""How the size of the result is chosen, and the word of the setting for each but a longest side."""

SAME = (
    "instruction",
    "negative",
    "text_cfg",
    "image_cfg",
    "steps",
    "sampler",
    "schedule",
    "seed",
    "rescale",
    "randomize_cfg",
    "speed",
    "keep_rest",
    "keep_amount",
    "zoom",
    "apg_eta",
    "apg_threshold",
    "apg_momentum",
    "no_text",
    "guidance",
    "vae",
)
"""Settings that have a control of the same name and meaning."""

NAMES = (
    *SAME,
    "from_noise",
    "denoise",
    "sizing",
    "longest",
    "width",
    "height",
    "result_sizing",
    "result_longest",
    "batches",
    "batch_size",
)
"""All controls of an edit's settings."""

SEARCH: Mapping[str, Any] = {"best_of": BEST_OF.default, "by_strength": False, "strength": STRENGTHS["normal"]}
"""The controls that say how a result is found, and their values at first."""
SHOWN = frozenset({"keep_rest"})
"""What is done as its control says also where results are found."""
FOUND = ("text_cfg", "image_cfg", "randomize_cfg")
"""Controls that are out of sight, and play no part, where scales are found."""
ONE_EDIT: Mapping[str, Any] = {"best_of": 1, "by_strength": False}
"""Of these, what makes a result of the settings as they stand."""


def settings_of(values: Mapping[str, Any]) -> EditSettings:
    """Return the settings of an edit from the value of each control in NAMES; an empty one means the default.

    Raises UserError.
    """
    size = {
        LONGEST: f"{_whole(values['longest'])}",
        BY_HAND: f"{_whole(values['width'])}x{_whole(values['height'])}",
    }.get(values["sizing"], "auto")
    result_sizing = values["result_sizing"] or AUTOMATIC
    result_size = RESULT_WORDS.get(result_sizing) or f"{_whole(values['result_longest'])}"
    batches, batch_size = values["batches"] or 1, values["batch_size"] or 1
    return EditSettings.from_mapping(
        {
            **{name: values[name] for name in SAME},
            "denoise": 1.0 if values["from_noise"] else values["denoise"],
            "size": size,
            "result_size": result_size,
            "count": batches * batch_size,
            "batch_size": batch_size,
        }
    )


def search_of(values: Mapping[str, Any]) -> Search:
    """Return how results are found, from the value of each control in SEARCH. Raises UserError."""
    found = {name: default if values.get(name) is None else values[name] for name, default in SEARCH.items()}
    if found["by_strength"]:
        return Search(strength=STRENGTH.check(found["strength"]))
    return Search(BEST_OF.check(found["best_of"]))


def edit_of(values: Mapping[str, Any]) -> tuple[EditSettings, Search]:
    """Return what is asked for by the controls that are in sight, of NAMES and SEARCH. Raises UserError."""
    search = search_of(values)
    replaced = {} if search.strength is None else {name: KNOBS[name].default for name in FOUND}
    return settings_of({**values, **replaced}), search


def search_values(remembered: object) -> dict[str, Any]:
    """Return values of the controls in SEARCH, those that were remembered where they can be."""
    found = remembered if isinstance(remembered, dict) else {}
    try:
        best_of, strength = BEST_OF.check(found["best_of"]), STRENGTH.check(found["strength"])
    except (KeyError, UserError):
        return dict(SEARCH)
    return {"best_of": best_of, "by_strength": found.get("by_strength") is True, "strength": strength}


def values_of(settings: EditSettings) -> dict[str, Any]:
    """Return values of controls for these settings; a control that would have no effect is left out."""
    values = {name: getattr(settings, name) for name in SAME}
    values["batches"], values["batch_size"] = math.ceil(settings.count / settings.batch_size), settings.batch_size
    values["from_noise"] = settings.denoise >= 1
    if settings.denoise < 1:
        values["denoise"] = settings.denoise
    size = settings.target_size
    values["sizing"] = AUTOMATIC if size is None else LONGEST if isinstance(size, int) else BY_HAND
    if isinstance(size, int):
        values["longest"] = size
    elif size is not None:
        values["width"], values["height"] = size
    by_word = {word: sizing for sizing, word in RESULT_WORDS.items()}
    values["result_sizing"] = by_word.get(settings.result_size, LONGEST)
    if values["result_sizing"] == LONGEST:
        values["result_longest"] = int(settings.result_size)
    return values


def _whole(value: float | None) -> object:
    return int(value) if isinstance(value, float) and value == int(value) else value
