"""Instructions from files: a table for many pictures, or a text file beside one picture."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import LONGEST_NAME, status_of
from ..settings import BEST_OF, KNOBS, STRENGTH, seed_notes

MOST_SIDECAR_BYTES = 1 << 16

SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How .xlsx and .ods files begin, and .xls files."""

SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*', re.IGNORECASE)
"""The first line of a table for Excel, which says what separates its cells."""

COLUMNS = {**KNOBS, "best_of": BEST_OF, "strength": STRENGTH}
"""What may be said of a picture, by the name of its column."""

DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")


@dataclass(frozen=True)
class InstructionTable:
    """What a table of instructions says."""

    rows: Mapping[str, dict[str, Any]]
    """Settings by the names in COLUMNS, each in its range, for each name of a picture."""
    notes: tuple[str, ...] = ()
    """What was read in another way than it is written, a sentence each."""


def read_instructions(path: Path) -> InstructionTable:
    """Read a table of instructions.

    CSV as spreadsheets save it, with a line of titles (separated by commas, semicolons or tabs; UTF-8 or, with its
    mark, UTF-16), or JSONL, one object a line. Raises UserError that names the line.
    """
    status_of(path)
    try:
        text = _decoded(path.read_bytes(), path.name, "'CSV UTF-8', or as JSONL")
    except OSError as error:
        raise UserError(path, f" cannot be read ({error.strerror}): check the name.") from error
    lines = _json_lines(text) if text.lstrip().startswith("{") else _csv_lines(text)
    rows: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    try:
        for number, line in lines:
            try:
                name, values = _row(line, notes)
            except UserError as error:
                raise UserError(f"Line {number} of {path.name}: ", *error.parts, remedy=error.remedy) from error
            if name in rows:
                raise UserError(f"Line {number} of {path.name}: '{name}' has a line before this one: keep one of them.")
            rows[name] = values
    except csv.Error as error:
        raise UserError(f"{path.name} is not a table that can be read ({error}): save it as CSV in UTF-8.") from error
    if not rows:
        raise UserError(f"{path.name} holds no instructions: write 'name,instruction', then a line for each picture.")
    more = [f"So it was with {len(notes) - 1} more seeds of {path.name}."] if len(notes) > 1 else []
    return InstructionTable(rows, (*notes[:1], *more))


def _decoded(data: bytes, name: str, advice: str) -> str:
    """Return the text of a file, without its byte order mark. Raises UserError, whose sentence ends with the advice."""
    if data.startswith(SPREADSHEETS):
        raise UserError(f"{name} is a spreadsheet, not text: save it as {advice}.")
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's 'Unicode text'
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except ValueError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{name} is not UTF-8 text: save it as {advice}.")
    return text


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            yield number, value if isinstance(value, dict) else {"": ""}


def _csv_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = next((line for line in re.split(r"[\r\n]+", text) if line.strip(',;\t" ')), "")
    said = SEPARATOR.fullmatch(first)
    unquoted = re.sub('"[^"]*"', "", first)
    delimiter = said[1] if said else max(",;\t", key=unquoted.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = ([_plain_cell(cell) for cell in row] for row in reader)
    filled = ((reader.line_num, row) for row in rows if any(row))
    if said:
        next(filled)
    _, keys = next(filled, (0, []))
    for number, row in filled:
        beyond = any(cell for n, cell in enumerate(row) if n >= len(keys) or not keys[n])
        yield number, {"": ""} if beyond else {key: cell for key, cell in zip(keys, row, strict=False) if cell}


def _plain_cell(cell: str) -> str:
    """Return what a cell shows: spreadsheets write ="007" for text that shall not become a number."""
    cell = cell.strip()
    return cell[2:-1].replace('""', '"') if len(cell) > 2 and cell.startswith('="') and cell.endswith('"') else cell


def _row(line: Mapping[str, Any], notes: list[str]) -> tuple[str, dict[str, Any]]:
    if "" in line:
        raise UserError("it does not have the form of the others: a comma in an instruction needs quotation marks.")
    values: dict[str, Any] = {}
    for title, value in line.items():
        key = title.strip().lower().replace(" ", "_").replace("-", "_")
        if value is None:
            continue
        if key in ("name", "file", "file_name", "filename"):
            values["name"] = plain_name(str(value))
        elif one := COLUMNS.get(key):
            values[key] = one.parse(_number(value, key)) if isinstance(value, str) else one.check(value)
            notes += seed_notes(value) if key == "seed" else []
        else:
            raise UserError(f"there is no setting '{title[:40]}': the settings are {', '.join(COLUMNS)}.")
    if not values.get("name"):
        raise UserError("it names no picture: its column 'name' is empty or missing.")
    values.pop("batch_size", None)
    return values.pop("name"), values


def _number(word: str, key: str) -> str:
    """Return a number of a spreadsheet as it is written here. Raises UserError for a seed without its last digits."""
    if (key == "strength" or isinstance(COLUMNS[key].default, float)) and DECIMAL_COMMA.fullmatch(word):
        return word.replace(",", ".")
    if key == "seed" and "e" in word.lower() and word.strip().lower().replace("e", "").strip("+-.,0123456789") == "":
        raise UserError(f"the seed {word.strip()[:40]} was rounded by a spreadsheet: show its column without decimals.")
    return word


def match(
    table: Mapping[str, dict[str, Any]], names: Sequence[str], path: Path | None
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, UserError]]]:
    """Return the settings by the pictures' own names, and the names that no picture has, each with its problem.

    Raises UserError for a name that two pictures have.
    """
    file = path.name if path else ""
    whole = {plain_name(name): name for name in names}
    last: dict[str, list[str]] = {}
    for name in names:
        last.setdefault(plain_name(name).rpartition("/")[2], []).append(name)
    rows: dict[str, dict[str, Any]] = {}
    unmatched: list[tuple[str, UserError]] = []
    for asked, values in sorted(table.items(), key=lambda row: row[0] not in whole):
        found = [whole[asked]] if asked in whole else [name for name in last.get(asked, []) if name not in rows]
        if len(found) > 1:
            raise UserError(f"'{asked}' in {file} may be {found[0]} or {found[1]}: write the folder too.")
        if found:
            rows[found[0]] = values
        else:
            problem = UserError(f"{asked} is named in {file}, but there is no such picture.")
            unmatched.append((asked, problem))
    return rows, unmatched


def sidecar_of(source: Path) -> str:
    """Return the text in NAME.txt beside a picture, '' without one. Raises UserError for a file that is no text."""
    names = [name for name in (f"{source.stem}.txt", f"{source.name}.txt") if len(os.fsencode(name)) <= LONGEST_NAME]
    for path in map(source.with_name, names):
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(MOST_SIDECAR_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path.name} cannot be read ({error.strerror}): check its permissions.") from error
        if len(data) > MOST_SIDECAR_BYTES:
            raise UserError(f"{path.name} is too long for an instruction: shorten it, or give it another name.")
        return _decoded(data, path.name, "UTF-8").strip()
    return ""


def plain_name(name: str) -> str:
    """Return a name in the spelling in which names are compared: file systems differ in how they store an umlaut."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")
