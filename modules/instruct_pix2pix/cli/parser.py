"""A parser whose errors are one sentence, with what may have been meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from ..text import printable, say_hint, say_problem


class Parser(argparse.ArgumentParser):
    """A parser of the command line, or of one command."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, not all that there is, and end with status 2."""
        # a sentence of ours names what it is about; argparse would name it again
        sentence = printable(re.sub(r"^argument [^:]+: (?=[A-Z'])", "", message))
        say_problem(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.")
        say_hint(f"{self.prog} --help shows what there is.")
        sys.exit(2)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Say what is wrong with words that were left over, and end with status 2."""
        if unknown[0].startswith("-"):
            word = unknown[0].partition("=")[0]
            self.error(f"There is no option {word} here{nearest(word, self._option_string_actions)}")
        self.error(f"{' '.join(unknown)!r} is too much: put an instruction of several words into quotes")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the word that comes nearest to one, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
