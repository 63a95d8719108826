"""The plan of a batch: which pictures, with which settings, under which names. Nothing is decoded or written."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..camera_files import HEIC
from ..engine.candidates import Search
from ..errors import Remedy, UserError
from ..files import is_folder, short_name, status_of
from ..images import WRITABLE
from ..infotext import parse
from ..prompts import network_notes
from ..settings import BEST_OF, KNOBS, SEEDS, STRENGTH, EditSettings
from ..variations import literal, variations
from .animation import ANIMATED, PictureHeader, read_header
from .instruction_table import InstructionTable, match, plain_name, read_instructions, sidecar_of
from .journal import PictureState
from .units import Item

OLDEST = frozenset(
    (
        "instruction",
        "negative",
        "text_cfg",
        "image_cfg",
        "steps",
        "sampler",
        "schedule",
        "seed",
        "count",
        "rescale",
        "denoise",
        "size",
        "randomize_cfg",
        "speed",
    )
)
"""The settings of the first version, all of which are part of a fingerprint."""

PHOTOGRAPHS = (".jfif", ".jpe", ".mpo", *HEIC)
"""Their results are JPEGs."""
PICTURES = (*WRITABLE, *PHOTOGRAPHS, ".apng", ".bmp", ".dib", ".gif")
UNREADABLE = (".jxl", ".jp2", ".psd")
"""Pictures that cannot be read here: they fail with a reason rather than being ignored."""
PASSED_OVER = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    *(".ai", ".dds", ".eps", ".exr", ".hdr", ".ico", ".j2k", ".jpf", ".jpx", ".pbm", ".pcx", ".pdf", ".pgm", ".pnm"),
    *(".ppm", ".psb", ".qoi", ".svg", ".tga", ".xcf"),
)
"""What lies beside pictures: camera raw files, drawings and others. They are only counted."""


@dataclass(frozen=True)
class BatchRequest:
    """All that a person can ask of a batch."""

    input: Path
    output: Path
    settings: EditSettings
    """The settings of every picture for which nothing nearer says otherwise; the instruction may be empty."""
    batch_size: int | None = None
    """Results, or candidates of one, to compute together; None: as many as their size suggests."""
    instructions: Path | None = None
    """A CSV or JSONL file: name, instruction, any setting."""
    recursive: bool = False
    overwrite: bool = False
    """Replace files in the output folder that come from another request."""
    retry_failed: bool = False
    fmt: str | None = None
    """The file extension of the results of still pictures, such as 'png' or '.jpg'; None keeps each picture's own."""
    quality: int = 95
    masks: Path | None = None
    contact_sheet: bool = False
    use_infotext: bool = True
    """Take the instruction of an earlier edit from the picture's infotext where nothing nearer gives one."""
    search: Search = field(default_factory=Search)
    """How results are found where nothing nearer says otherwise; animations fail if they are to be searched for."""
    asked: frozenset[str] = frozenset()
    """The names of the settings that a person has named: see `Search.settled`."""


@dataclass(frozen=True)
class RefusedPicture:
    """A picture that will not be edited, and why."""

    name: str
    state: PictureState
    problem: UserError
    fingerprint: str = ""


@dataclass(frozen=True)
class Listing:
    """The pictures in a folder."""

    names: tuple[str, ...]
    """Sorted, with '/' between their parts."""
    refused: tuple[RefusedPicture, ...]
    """Folders that cannot be read."""
    passed_over: Mapping[str, int]
    """How many files of other kinds of pictures there are, by their endings."""


@dataclass(frozen=True)
class BatchPlan:
    """What is to be done for a request."""

    items: tuple[Item, ...]
    refused: tuple[RefusedPicture, ...]
    origins: Mapping[str, int]
    """How many pictures have their instruction from each source: 'table', 'sidecar', 'infotext', 'command'."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the request was read, a sentence each."""


def make_plan(
    request: BatchRequest, run_seed: int, model: Sequence[str | None], check: Callable[[EditSettings], EditSettings]
) -> BatchPlan:
    """Read every picture's header and decide what becomes of it.

    `model` is what fingerprints say of it: its hash, and its number format except in a run of an older version, which
    did not tell it. The settings of the request are resolved already; `check` resolves those of a picture that has
    its own sampler, schedule or instruction. Raises UserError for a request that cannot be carried out: no pictures,
    no instruction for any of them, an output folder that holds the inputs, a table with a mistake.
    """
    check_folders(request)
    listing = find_pictures(request.input, recursive=request.recursive, leave_out=_not_inputs(request))
    names, refused = listing.names, list(listing.refused)
    passed_over = _passed_over_notes(listing.passed_over)
    if not names:
        nothing = ("There are no pictures in ", request.input.name or request.input)
        if passed_over:
            raise UserError(*nothing, " that can be read. ", *passed_over)
        raise UserError(*nothing, ".") if request.recursive else UserError(*nothing, remedy=Remedy.LOOK_INTO_FOLDERS)
    table = read_instructions(request.instructions) if request.instructions else InstructionTable({})
    rows, unmatched = match(table.rows, names, request.instructions)
    masks = _by_name(request.masks) if request.masks else None
    refused += [RefusedPicture(name, PictureState.FAILED, problem) for name, problem in unmatched]
    origins: Counter[str] = Counter()
    drafts: list[Item] = []
    for name in names:
        row = rows.get(name, {})
        found = _item_or_refusal(request, name, row, masks, run_seed, model, check)
        if isinstance(found, RefusedPicture):
            refused.append(found)
        else:
            item, origin = found
            drafts.append(item)
            origins[origin] += 1
    if not drafts and refused and all(one.state is PictureState.SKIPPED for one in refused):
        raise UserError("The instruction is empty: say what to change, for example 'make it winter'.")
    outputs = output_names([(item.name, item.outputs[0], item.settings.results) for item in drafts])
    items = tuple(replace(item, outputs=names) for item, names in zip(drafts, outputs, strict=True))
    _check_outputs(request, names, items)
    notes = (*table.notes, *_network_notes(request, items), *passed_over)
    return BatchPlan(items, tuple(refused), origins, notes)


def _network_notes(request: BatchRequest, items: Iterable[Item]) -> list[str]:
    """Return a sentence where instructions of their own ask for what is not here, with the first of them."""
    own = (item.settings.instruction for item in items if item.settings.instruction != request.settings.instruction)
    return next(filter(None, (network_notes(text) for asked in own for text in variations(asked))), [])


def _item_or_refusal(
    request: BatchRequest,
    name: str,
    row: Mapping[str, Any],
    masks: Mapping[str, Path] | None,
    run_seed: int,
    model: Sequence[str | None],
    check: Callable[[EditSettings], EditSettings],
) -> tuple[Item, str] | RefusedPicture:
    """Return a picture's item, with its extension alone for outputs, and where its instruction comes from."""
    source = request.input / name
    state = _state_of(source)
    try:
        header = read_header(source)
        settings, origin = _settings_of(request, source, row, header, name, run_seed)
        if settings is None:
            problem = UserError("It has no instruction.")
            return RefusedPicture(name, PictureState.SKIPPED, problem, state)
        mask = None if masks is None else _mask_of(name, masks, request.masks)
        search = _search_of(request, row)
        settings = search.settled(settings, row.keys() | (request.asked & {"keep_rest"}))
        if header.frames > 1 and search.candidates > 1:
            raise UserError(f"{BEST_OF.label} and {STRENGTH.label} are for still pictures: edit this one without them.")
        if origin != "command" or row.keys() & {"sampler", "schedule"}:
            settings = check(settings)
    except UserError as error:
        return RefusedPicture(name, PictureState.FAILED, error.bare(), state)
    suffix, fmt = _format(name, header, request.fmt)
    # what a newer version brings counts where it is set: runs of before go on
    said = {name: value for name, value in asdict(settings).items() if name in OLDEST or value != KNOBS[name].default}
    said["randomize_cfg"] = said["randomize_cfg"] != "off" and said["randomize_cfg"]  # which was a switch
    found = [asdict(search)] if search.candidates > 1 else []
    asked = [said, state, mask and _state_of(mask), model[0], fmt, request.quality, *model[1:], *found]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    frames = header.frames
    item = Item(name, source, settings, (suffix,), fmt, request.quality, header.size, frames, digest, mask, search)
    return item, origin


def check_folders(request: BatchRequest) -> None:
    """Raise UserError for folders, a format or a quality that cannot be used."""
    for folder, what in ((request.input, "input"), (request.masks, "masks")):
        if folder is not None and not is_folder(folder):
            kind = "is not a folder" if status_of(folder) else "does not exist"
            raise UserError(f"The {what} folder ", folder, f" {kind}: check the name.")
    if request.instructions is not None and not status_of(request.instructions):
        raise UserError("The file of instructions ", request.instructions, " does not exist: check the name.")
    if status_of(request.output):
        if not is_folder(request.output):
            raise UserError(request.output, " is a file: give the name of a folder for the results.")
        if request.output.samefile(request.input):
            raise UserError("The results would lie among the pictures: choose another folder, inside it if you like.")
    if request.fmt is not None and _ending(request.fmt) not in WRITABLE:
        raise UserError(f"There is no format '{request.fmt[:20]}': choose one of {', '.join(WRITABLE)}.")
    if not 1 <= request.quality <= 100:
        raise UserError(f"Quality is {request.quality}, but must lie between 1 and 100: choose one in that range.")


def find_pictures(folder: Path, *, recursive: bool = False, leave_out: Collection[Path] = ()) -> Listing:
    """Return the pictures in a folder.

    Names that begin with a dot are ignored, and so are the folders `leave_out`. Links are followed; a folder that was
    seen under another name, as in a circle of links, is not read again. Raises UserError if `folder` cannot be read.
    """
    seen = {os.path.realpath(path) for path in leave_out}
    names: list[str] = []
    refused: list[RefusedPicture] = []
    others: Counter[str] = Counter()
    folders, links = [""], []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)  # a folder's own name comes before that of a link to it
        real = os.path.realpath(folder / here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder / here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            why = f" cannot be read ({error.strerror}): check its permissions."
            problem = UserError("The folder ", here or folder, why)
            if not here:
                raise problem from error
            refused.append(RefusedPicture(here, PictureState.FAILED, problem))
            continue
        for entry in entries:
            name = f"{here}{entry.name}"
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # noqa: PTH112 - where the entry itself would raise for a link to itself
                if recursive:
                    (links if entry.is_symlink() else folders).append(f"{name}/")
            elif entry.name.lower().endswith((*PICTURES, *UNREADABLE)):
                names.append(name)
            elif entry.name.lower().endswith(PASSED_OVER):
                others[PurePosixPath(entry.name).suffix.lower()] += 1
    return Listing(tuple(sorted(names)), tuple(refused), others)


def _passed_over_notes(others: Mapping[str, int]) -> list[str]:
    if not others:
        return []
    counted = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items(), key=lambda one: (-one[1], one)))
    return [f"Passed over: {counted}, which cannot be read here. To edit one, save it as JPEG, PNG or TIFF."]


# --- what is asked for each ---


def _settings_of(
    request: BatchRequest, source: Path, row: Mapping[str, Any], header: PictureHeader, name: str, run_seed: int
) -> tuple[EditSettings | None, str]:
    """Return what is asked for a picture, or None, and where its instruction comes from. Raises UserError."""
    values = {key: value for key, value in row.items() if key in KNOBS}
    origin = "table" if values.get("instruction", "").strip() else ""
    if not origin:
        nearest = [(sidecar_of(source), "sidecar")]
        if request.use_infotext and header.infotext and "Image CFG scale" in parse(header.infotext).fields:
            nearest.append((header.infotext, "infotext"))
        for text, where in nearest:
            read = parse(text)
            if read.instruction.strip():
                # an infotext is of one result, so there are no variations in it
                values["instruction"] = literal(read.instruction) if read.fields else read.instruction
                origin = where
                if read.negative:
                    values.setdefault("negative", read.negative)
                break
        else:
            origin, _ = "command", values.pop("instruction", None)
    settings = replace(request.settings, **values)
    if not settings.instruction.strip():
        return None, origin
    if settings.seed == -1:
        settings = replace(settings, seed=seed_of(run_seed, name))
    return settings, origin


def _search_of(request: BatchRequest, row: Mapping[str, Any]) -> Search:
    """Return how the results of a picture are found: as its row says, and by no other scales than it says."""
    said = {key: row[key] for key in ("best_of", "strength") if key in row}
    if said:
        return Search(**said)
    own_scales = row.keys() & {"text_cfg", "image_cfg", "randomize_cfg"}
    return Search(request.search.best_of) if own_scales else request.search


def seed_of(run_seed: int, name: str) -> int:
    """Return the seed of a picture that has none; it follows from the run's seed and its name alone."""
    digest = hashlib.sha256(f"{run_seed}:{plain_name(name)}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS


# --- masks ---


def _by_name(folder: Path) -> dict[str, Path]:
    """Return the masks below a folder by their names without extensions."""
    masks: dict[str, Path] = {}
    for name in find_pictures(folder, recursive=True).names:
        masks.setdefault(plain_name(name).rpartition(".")[0], folder / name)
    return masks


def _mask_of(name: str, masks: Mapping[str, Path], folder: Path | None) -> Path:
    stem = plain_name(name).rpartition(".")[0]
    mask = masks.get(stem) or masks.get(stem.rpartition("/")[2])
    if mask is None:
        where = folder.name if folder else ""
        raise UserError(f"There is no mask with its name in {where}: add one, white where it is to be edited.")
    return mask


# --- names ---


def output_names(wishes: Iterable[tuple[str, str, int]]) -> list[tuple[str, ...]]:
    """Return the names of the results of each (name, extension, count), no two the same.

    A picture's results are called after it, with -1, -2 … for several. Pictures whose results would have the same name,
    such as a.png and a.jpg as WebP, keep their old extension as a part of it.
    """
    wishes = list(wishes)

    def numbered(name: str, suffix: str, count: int, attempt: int) -> tuple[str, ...]:
        path = PurePosixPath(name)
        stem = path.stem if attempt == 0 else path.name
        mark = f"~{attempt}" if attempt > 1 else ""
        ends = [suffix] if count == 1 else [f"-{number}{suffix}" for number in range(1, count + 1)]
        return tuple((path.parent / short_name(stem, f"{mark}{end}")).as_posix() for end in ends)

    first = [numbered(*wish, 0) for wish in wishes]
    claims = Counter(_folded(name) for names in first for name in names)
    alone = [all(claims[_folded(name)] == 1 for name in names) for names in first]
    taken = {_folded(name) for names, free in zip(first, alone, strict=True) if free for name in names}
    chosen = []
    for wish, names, free in zip(wishes, first, alone, strict=True):
        attempt = 0
        while not free:
            attempt += 1
            names = numbered(*wish, attempt)
            free = not any(_folded(name) in taken for name in names)
        taken.update(_folded(name) for name in names)
        chosen.append(names)
    return chosen


def _format(name: str, header: PictureHeader, wanted: str | None) -> tuple[str, str]:
    """Return the extension and the format of a picture's results."""
    own = PurePosixPath(name).suffix
    if header.frames > 1:
        return (own, own[1:].upper()) if own[1:].upper() in ANIMATED else (".gif", "GIF")
    kept = own if own.lower() in WRITABLE else ".jpg" if own.lower() in PHOTOGRAPHS else ".png"
    ending = _ending(wanted) if wanted else kept
    return ending, WRITABLE[ending.lower()]


def _ending(fmt: str) -> str:
    return f".{fmt.strip().lower().removeprefix('.')}"


def _check_outputs(request: BatchRequest, names: Iterable[str], items: Iterable[Item]) -> None:
    """Raise UserError if a link leads the results into a folder of inputs."""
    inputs = {_identity(folder) for folder in {(request.input / name).parent for name in names}}
    for folder in {(request.output / name).parent for item in items for name in item.outputs}:
        if status_of(folder) and _identity(folder) in inputs:
            raise UserError(folder, " leads to the pictures themselves: choose another output folder.")


def _not_inputs(request: BatchRequest) -> list[Path]:
    """Return the folders whose pictures are not inputs, wherever they are."""
    return [path for path in (request.output, request.masks) if path is not None and status_of(path)]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _state_of(path: Path) -> str:
    """Return a text that changes when the file does."""
    try:
        status = path.stat()
    except OSError:  # opening it will raise a sentence
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _folded(name: str) -> str:
    """Return a name as a file system sees it that ignores case and the composition of letters."""
    return unicodedata.normalize("NFC", name).casefold()
