"""Instructions from files: a table for many pictures, or a text file beside one picture."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import LONGEST_NAME, status_of
from ..settings import KNOBS

MOST_SIDECAR_BYTES = 1 << 16


def read_instructions(path: Path) -> dict[str, dict[str, Any]]:
    """Read a table of instructions: name -> settings by their names in EditSettings, each in its range.

    CSV with a line of titles (separated by commas, semicolons or tabs) or JSONL, one object a line. Raises UserError
    that names the line.
    """
    status_of(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(path, f" cannot be read ({error.strerror}): check the name.") from error
    except ValueError as error:
        raise UserError(f"{path.name} is not UTF-8 text: save it as CSV in UTF-8, or as JSONL.") from error
    lines = _json_lines(text) if text.lstrip().startswith("{") else _csv_lines(text)
    table: dict[str, dict[str, Any]] = {}
    try:
        for number, line in lines:
            try:
                name, values = _row(line)
            except UserError as error:
                raise UserError(f"Line {number} of {path.name}: ", *error.parts, remedy=error.remedy) from error
            if name in table:
                raise UserError(f"Line {number} of {path.name}: '{name}' has a line before this one: keep one of them.")
            table[name] = values
    except csv.Error as error:
        raise UserError(f"{path.name} is not a table that can be read ({error}): save it as CSV in UTF-8.") from error
    if not table:
        raise UserError(f"{path.name} holds no instructions: write 'name,instruction', then a line for each picture.")
    return table


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            yield number, value if isinstance(value, dict) else {"": ""}


def _csv_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    titles = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=titles.count), strict=True)
    keys = [title.strip() for title in next(reader, [])]
    for cells in reader:
        if len(cells) > len(keys) and any(cells[len(keys) :]):
            yield reader.line_num, {"": ""}
        elif any(cell.strip() for cell in cells):
            yield reader.line_num, {key: cell for key, cell in zip(keys, cells, strict=False) if key and cell.strip()}


def _row(line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if "" in line:
        raise UserError("it does not have the form of the others: a comma in an instruction needs quotation marks.")
    values: dict[str, Any] = {}
    for title, value in line.items():
        key = title.strip().lower().replace(" ", "_").replace("-", "_")
        if value is None:
            continue
        if key in ("name", "file", "file_name", "filename"):
            values["name"] = plain_name(str(value))
        elif key in KNOBS:
            values[key] = KNOBS[key].parse(value) if isinstance(value, str) else KNOBS[key].check(value)
        else:
            raise UserError(f"there is no setting '{title[:40]}': the settings are {', '.join(KNOBS)}.")
    if not values.get("name"):
        raise UserError("it names no picture: its column 'name' is empty or missing.")
    values.pop("batch_size", None)
    return values.pop("name"), values


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
    """Return the text in NAME.txt beside a picture, '' without one. Raises UserError for a file that is not UTF-8."""
    names = [name for name in (f"{source.stem}.txt", f"{source.name}.txt") if len(os.fsencode(name)) <= LONGEST_NAME]
    for path in map(source.with_name, names):
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                return file.read(MOST_SIDECAR_BYTES).decode("utf-8-sig").strip()
        except OSError as error:
            raise UserError(f"{path.name} cannot be read ({error.strerror}): check its permissions.") from error
        except ValueError as error:
            raise UserError(f"{path.name} is not UTF-8 text: save it as UTF-8.") from error
    return ""


def plain_name(name: str) -> str:
    """Return a name in the spelling in which names are compared: file systems differ in how they store an umlaut."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")
