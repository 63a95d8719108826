"""Writes predict.py: its signature is every setting of settings.py, in words that `cog build` can read.

    python deploy/replicate/write_predict.py

cog reads the file as text and never runs it. Each default must be a literal, and each text one string without escapes:
of several strings side by side it takes the quotation marks between them too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if (HERE.parents[1] / "modules").is_dir():
    sys.path.insert(0, str(HERE.parents[1] / "modules"))

from instruct_pix2pix.engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES  # noqa: E402
from instruct_pix2pix.models.checkpoints import SUITED  # noqa: E402
from instruct_pix2pix.settings import BEST_OF, KNOBS, STRENGTH, Knob  # noqa: E402
from instruct_pix2pix.text import number_text  # noqa: E402

MOST_PICTURES = 4
"""Pictures of one prediction."""

CHOICES = {"sampler": SAMPLER_NAMES, "schedule": SCHEDULE_NAMES}
FORMATS = '["png", "jpg", "webp"]'
MOST = {"count": MOST_PICTURES, "batch_size": MOST_PICTURES, "best_of": 16}
"""Ends of ranges that are nearer here than elsewhere."""

HEAD = '''"""What Replicate runs: up to {most} edits of a picture. Written by write_predict.py: change that."""

from cog import BaseRunner, Input, Path
from prediction import Editor


class Runner(BaseRunner):
    """The model in memory, and what it is asked."""

    def setup(self) -> None:
        """Load the model."""
        self.editor = Editor.load()

    def run(
        self,
'''
BODY = '''    ) -> list[Path]:
        """Edit a picture; the files go with the next prediction."""
        values = {names}
        found = self.editor.edit(image, mask, output_format, values)
        return [Path(file) for file in found]
'''


def source() -> str:
    """Return the text of predict.py."""
    knobs = {**KNOBS, "best_of": BEST_OF, "strength": STRENGTH}
    lines = [
        '        image: Path = Input(description="The picture to edit."),',
        *(f"        {line}," for line in inputs(knobs)),
        '        mask: Path | None = Input(default=None, description="White is edited, black is kept as it is."),',
        f'        output_format: str = Input(default="png", description="Format of the results.", choices={FORMATS}),',
    ]
    pairs = ["{", *(f'            "{name}": {name},' for name in knobs), "        }"]
    return HEAD.format(most=MOST_PICTURES) + "\n".join(lines) + "\n" + BODY.format(names="\n".join(pairs))


def inputs(knobs: dict[str, Knob]) -> Iterator[str]:
    """Yield the parameter of each setting; those without a default come first, as Python wants it."""
    for name, one in knobs.items():
        kind = "str" if name == "strength" else type(one.default).__name__
        words: dict[str, Any] = {"default": one.default, "description": one.help}
        if name == "instruction":
            del words["default"]
        elif name in SUITED:  # None is what suits the model
            kind += " | None"
            words["default"] = None
            words["description"] += f" Left out: {number_text(one.default)}, or what suits the model."
        if isinstance(one.default, (int, float)) and not isinstance(one.default, bool):
            words["ge"], words["le"] = one.minimum, min(one.maximum or 0, MOST.get(name, one.maximum or 0))
        choices = CHOICES.get(name, one.choices)
        if choices:
            words["choices"] = list(choices)
        yield f"{name}: {kind} = Input({', '.join(f'{key}={_literal(value)}' for key, value in words.items())})"


def _literal(value: object) -> str:
    """Return a value as cog's parser reads it."""
    if isinstance(value, str):
        if '"' in value or "\\" in value or "\n" in value:
            raise ValueError(f"cog cannot read this text as it is: {value!r}")
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.1f}"
    return repr(value)


if __name__ == "__main__":
    (HERE / "predict.py").write_text(source(), encoding="utf-8")
