"""Download a model from the Hugging Face hub: the right file of a repository, resumed, checked and landing whole."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ..errors import Remedy, UserError
from .checkpoints import inspect
from .hub import (
    DIFFUSERS_INDEX,
    HUB,
    DownloadSource,
    Follow,
    RemoteFile,
    explained,
    fetch,
    is_safe,
    list_files,
    size_text,
)
from .known import KNOWN, Offer, listed
from .registry import model_dirs

# NAME as OWNER/REPO or OWNER/REPO/FILE, also as the address a browser shows.
_NAME = re.compile(
    r"(?:https://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)"
    r"(?:/(?:blob|resolve|tree)/main)?(?:/([^?#]+))?/?(?:\?download=true)?",
    re.ASCII,
)
_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)[.-]")


def download(
    name: str,
    folder: Path | None = None,
    *,
    report: Callable[[str], None] = print,
    follow: Follow = lambda done, total: None,
) -> Path:
    """Download a model into the models folder `folder` and return the path of its file or diffusers folder.

    Without a folder it goes where `EditModel.load` finds it by its name.

    `name` is one of KNOWN, OWNER/REPO (whose one checkpoint or diffusers folder is taken) or OWNER/REPO/FILE. What goes
    beside a model goes into the folder of its kind; see `add_ons`. `report` gets lines for a person: on which terms it
    comes, what comes with size and hash, then what it is. `follow` is told of all bytes done, those of an earlier
    download too, and of bytes in all; while these are equal, hashes are checked.
    The model appears under its name only when it is whole and its hash right; what an interrupted download left is
    used by the next. Raises UserError for a name that means nothing, a hub that cannot be reached or refuses, a full
    disk, and a file that is not what the hub says, which is removed; and what `follow` raises.
    """
    folder = folder or model_dirs()[0]
    known = KNOWN.get(name.strip().lower())
    repo, file = (known.repo, known.file) if known else _parse(name)
    if known:
        folder = known.folder_in(folder)
        for note in known.notes:
            report(note)
    source = DownloadSource(repo, file, folder)
    with explained(source):
        listing = list_files(repo)
    if not known:
        report(f"Licence: {listing.licence or 'none named'} ({HUB}/{repo}).")
    chosen = _choose(repo, list(listing.files), file, exact=known is None)
    root = PurePosixPath(chosen[0].path).parent
    is_folder = _is_index(chosen[0])
    target = folder / ((known and known.save_as) or _name_of(repo, chosen[0]))
    inside = {item: PurePosixPath(item.path).relative_to(root) for item in chosen}

    report(f"{repo}: {len(chosen)} files, {size_text(sum(i.size for i in chosen))}" if is_folder else f"{repo}:")
    for item in chosen:
        if len(item.digest) == 64 or not is_folder:
            report(f"  {item}")
    if target.exists():
        places = {item: target / below if is_folder else target for item, below in inside.items()}
        _require_same(target, places, follow)
        report(f"{target} is here already, complete.")
    else:
        with explained(source, under_way=True):
            _bring(repo, listing.commit, inside, target, is_folder, report, follow)
    if known and known.use:
        report(f"{target.name}: {known.about}. {known.use}")
    else:
        found = inspect(target)
        report(f"{target.name} is {found.label}. {found.advice}".strip())
    return target


def look_up(name: str, folder: Path) -> Offer:
    """Return what a name of `download` means: one of KNOWN, or what the hub says. Raises UserError as that does.

    `folder` is the models folder, for the sentence about a hub that cannot be reached.
    """
    if known := KNOWN.get(name.strip().lower()):
        return known
    repo, file = _parse(name)
    with explained(DownloadSource(repo, file, folder)):
        listing = list_files(repo)
    chosen = _choose(repo, list(listing.files), file, exact=True)
    first = chosen[0]
    return Offer(
        repo,
        first.path,
        f"a diffusers folder, {len(chosen)} files" if _is_index(first) else "one file",
        sum(item.size for item in chosen),
        listing.licence or "none named",
        gated=listing.gated,
        save_as=_name_of(repo, first),
    )


def left_over(offer: Offer, folder: Path) -> int:
    """Return how many bytes of an offer an interrupted download left in the models folder."""
    with contextlib.suppress(OSError):
        return sum(map(_size, _stages(offer, folder)))
    return 0


def discard(offer: Offer, folder: Path) -> None:
    """Remove what an interrupted download of an offer left; not to be called while it is under way."""
    for stage in _stages(offer, folder):
        shutil.rmtree(stage, ignore_errors=True)


def _parse(name: str) -> tuple[str, str | None]:
    """Return the repository that a name means and the file in it, both safe to use in an address and in a path."""
    match = _NAME.fullmatch(name.strip())
    if match is None or ".." in match[1] or "--" in match[1]:
        names = "; ".join(listed())
        raise UserError(
            f"There is no model {name!r} to download: write OWNER/REPO or OWNER/REPO/FILE, or one of these: {names}."
        )
    if match[2] is not None and not is_safe(match[2]):
        raise UserError(f"{match[2]!r} cannot be a file of {match[1]}: copy its name from {HUB}/{match[1]}.")
    return match[1], match[2]


# --- which files ---


def _choose(repo: str, files: list[RemoteFile], wanted: str | None, exact: bool) -> list[RemoteFile]:
    """Return the one checkpoint, or the files of a diffusers folder with model_index.json first. Raises UserError.

    `wanted` is a path when `exact`, else a pattern that need not match: a known repository may have changed.
    """
    same = str.__eq__ if exact else fnmatchcase
    matches = [file for file in files if wanted and same(file.path, wanted)]
    if not matches and wanted and exact:
        raise UserError(f"{repo} has no file '{wanted}': it has {_models_in(files)}.")
    if not matches:
        matches = _single_files(files) or [file for file in files if file.path == DIFFUSERS_INDEX]
        if len(matches) > 1:
            raise UserError(
                f"{repo} holds several models: name one, as in 'download {repo}/{matches[0].path}'; "
                f"there are {_models_in(matches)}."
            )
    if not matches:
        raise UserError(f"{repo} holds no .safetensors or .ckpt file and no diffusers folder: take another.")
    first = matches[0]
    if _is_index(first):
        return [first, *_diffusers_files(repo, files, first.path.removesuffix(DIFFUSERS_INDEX))]
    if not first.path.endswith((".safetensors", ".ckpt")):
        raise UserError(f"'{first.path}' is not a model file: {repo} has {_models_in(files)}.")
    return [first]


def _name_of(repo: str, first: RemoteFile) -> str:
    """Return the name that a file, or a diffusers folder whose index this is, gets here unless it is given another."""
    path = PurePosixPath(first.path)
    return (path.parent.name or repo.split("/")[1]) if _is_index(first) else path.name


def _is_index(file: RemoteFile) -> bool:
    return PurePosixPath(file.path).name == DIFFUSERS_INDEX


def _models_in(files: list[RemoteFile]) -> str:
    models = [f for f in files if f.path.endswith((".safetensors", ".ckpt")) or _is_index(f)]
    names = ", ".join(f"{file.path} ({size_text(file.size)})" for file in models[:10])
    more = len(models) - 10
    return (names or "no model files") + (f" and {more} more" if more > 0 else "")


def _single_files(files: list[RemoteFile]) -> list[RemoteFile]:
    """Return the checkpoints at the top of a repository: .safetensors before .ckpt, full weights before others."""
    top = [file for file in files if "/" not in file.path]
    found = [f for f in top if f.path.endswith(".safetensors")] or [f for f in top if f.path.endswith(".ckpt")]
    return [file for file in found if not re.search(r"fp16|non_?ema", file.path, re.IGNORECASE)] or found


def _diffusers_files(repo: str, files: list[RemoteFile], root: str) -> list[RemoteFile]:
    """Return what is needed of the diffusers folder `root` ('' or 'a/b/'): weights once, configs, vocabulary."""
    chosen: list[RemoteFile] = []
    for component in _COMPONENTS:
        start = f"{root}{component}/"
        inside = [f for f in files if f.path.startswith(start) and "/" not in f.path.removeprefix(start)]
        weights = _weights(inside)
        if component == "unet" and not weights:
            raise UserError(f"{repo} has no unet/diffusion_pytorch_model.safetensors: take another repository.")
        chosen += weights
        chosen += [f for f in inside if f.path.endswith((".json", ".txt")) and ".index." not in f.path]
    return chosen


def _weights(files: list[RemoteFile]) -> list[RemoteFile]:
    """Return the weights of a component, with their index: those that `checkpoints.weight_files` will choose."""
    for ending in (".safetensors", ".bin"):
        variants: dict[str, list[RemoteFile]] = {}
        for file in files:
            name = PurePosixPath(file.path).name
            is_index = f"{ending}.index." in name and name.endswith(".json")
            if _WEIGHTS.match(name) and (name.endswith(ending) or is_index):
                # 'model.fp16' for model.fp16-00001-of-00002.safetensors and for model.safetensors.index.fp16.json
                variant = re.sub(r"-\d+-of-\d+|\.(safetensors|bin|index|json)(?=\.|$)", "", name)
                variants.setdefault(variant, []).append(file)
        if variants:
            return variants[min(variants, key=lambda v: ("non_ema" in v, len(v), v))]
    return []


# --- bringing them ---


def _bring(
    repo: str,
    commit: str,
    inside: dict[RemoteFile, PurePosixPath],
    target: Path,
    is_folder: bool,
    report: Callable[[str], None],
    follow: Follow,
) -> None:
    """Download into a hidden folder beside `target`, check, then move the whole model to `target`."""
    from huggingface_hub.utils import WeakFileLock

    stage = target.parent / _STAGES / f"{_stage_prefix(repo)}{target.name}"
    total, before = sum(item.size for item in inside), 0

    def follow_all(done: int, _: int) -> None:
        follow(before + done, total)

    stage.parent.mkdir(parents=True, exist_ok=True)
    # A second download of the same model waits, then finds it there. The lock's file stays: removing it is a race.
    with WeakFileLock(stage.with_name(f"{stage.name}.lock")):
        if not target.exists():
            stage.mkdir(exist_ok=True)
            _require_space(stage, total)
            for item, below in inside.items():
                fetch(repo, commit, item, stage / below, report, follow_all)
                before += item.size
            if is_folder:
                # Only the files of this commit: an earlier, interrupted download may have left others.
                wanted = {stage / below for below in inside.values()}
                for file in [path for path in stage.rglob("*") if path.is_file() and path not in wanted]:
                    file.unlink()
                stage.replace(target)
            else:
                (stage / inside.popitem()[1]).replace(target)
        shutil.rmtree(stage, ignore_errors=True)


_STAGES = ".download"
"""The hidden folder, in the folder where models go, of what is on its way."""


def _stage_prefix(repo: str) -> str:
    return f"{repo.replace('/', '--')}--"


def _stages(offer: Offer, folder: Path) -> list[Path]:
    """Return the folders in which an offer is on its way."""
    start = _stage_prefix(offer.repo)
    found = (offer.folder_in(folder) / _STAGES).glob(f"{start}*")
    return [path for path in found if path.is_dir() and offer.is_called(path.name.removeprefix(start))]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _require_space(stage: Path, size: int) -> None:
    free, needed = shutil.disk_usage(stage).free, size - _size(stage)
    if needed > free:
        raise UserError(
            "The disk of ",
            stage.parents[1],
            f" has {size_text(free)} free and {size_text(needed)} are to come: "
            "free some space, or choose a folder on another disk",
            Remedy.MODELS_FOLDER,
            ".",
        )


def _require_same(target: Path, places: dict[RemoteFile, Path], follow: Follow) -> None:
    """Raise UserError when what is at `target` is not what would be downloaded: it may be worth keeping."""
    total = sum(item.size for item in places)
    with contextlib.suppress(OSError):
        if all(item.is_at(place, lambda: follow(total, total)) for item, place in places.items()):
            return
    raise UserError(
        target,
        " is here already, but it is another file or damaged: move it away, or choose another folder",
        Remedy.MODELS_FOLDER,
        ", and ",
        Remedy.DOWNLOAD_AGAIN,
        ".",
    )
