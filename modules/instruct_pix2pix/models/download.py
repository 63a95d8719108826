"""Get a model from the Hugging Face hub: the right file of a repository, resumed, checked, landing whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..errors import UserError
from .checkpoints import inspect

HUB = "https://huggingface.co"
_INDEX = "model_index.json"  # the file that makes a folder a diffusers folder


@dataclass(frozen=True)
class Known:
    """A model with a short name: its repository, the file there (a pattern) and a line for lists."""

    repo: str
    file: str
    about: str


KNOWN = {
    "instruct-pix2pix": Known(
        "timbrooks/instruct-pix2pix",
        "instruct-pix2pix-00-22000.safetensors",
        "the authors' model with its EMA weights, SD1, float32, 7.7 GB",
    ),
    "instruct-pix2pix-fp16": Known(
        "webui/instruct-pix2pix", "*fp16*.safetensors", "the same, pruned to float16, 2.13 GB"
    ),
    "magicbrush": Known(
        "osunlp/InstructPix2Pix-MagicBrush",
        "MagicBrush-epoch-52-step-4999.ckpt",
        "trained further on hand-made edits (MagicBrush), SD1",
    ),
    "hq-edit": Known("UCSC-VLAA/HQ-Edit", _INDEX, "trained on the HQ-Edit pictures, SD1, a diffusers folder"),
}

# NAME as OWNER/REPO or OWNER/REPO/FILE, also as the address a browser shows.
_NAME = re.compile(
    r"(?:https://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)"
    r"(?:/(?:blob|resolve|tree)/main)?(?:/([^?#]+))?/?(?:\?download=true)?",
    re.ASCII,
)
_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)[.-]")


@dataclass(frozen=True)
class _Remote:
    """A file of a repository. `digest` is its SHA-256, or git's SHA-1 where the hub keeps a small file in git."""

    path: str
    size: int
    digest: str

    def __str__(self) -> str:
        sha = f", SHA-256 {self.digest}" if len(self.digest) == 64 else ""
        return f"{self.path}, {_amount(self.size)}{sha}"

    def is_at(self, place: Path) -> bool:
        """Whether `place` holds this very file, byte for byte."""
        if not place.is_file() or place.stat().st_size != self.size:
            return False
        if len(self.digest) == 64:
            content = hashlib.sha256()
        else:
            content = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        with place.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                content.update(chunk)
        return content.hexdigest() == self.digest


@dataclass(frozen=True)
class _Place:
    """Where a download comes from and goes to, for sentences."""

    repo: str
    file: str | None
    folder: Path

    @property
    def by_hand(self) -> str:
        """What a person can do without this program."""
        page = f"{HUB}/{self.repo}"
        if self.file is None or PurePosixPath(self.file).name == _INDEX:
            return f"download the model's files from {page} in a browser and put them into {self.folder}"
        return f"download {self.file} from {page} in a browser and put it into {self.folder}"


def download(name: str, folder: Path, *, report: Callable[[str], None]) -> Path:
    """Download a model into `folder` and return the path of its file or diffusers folder.

    `name` is one of KNOWN, OWNER/REPO (whose one checkpoint or diffusers folder is taken) or OWNER/REPO/FILE.
    `report` gets lines for a person: what comes with size and hash, then what the model is. The model appears
    under its name only when it is whole and its hash right; what an interrupted download left is used by the next.
    Raises UserError for a name that means nothing, a hub that cannot be reached or refuses, a full disk, and
    a file that is not what the hub says, which is removed.
    """
    known = KNOWN.get(name.strip().lower())
    repo, file = (known.repo, known.file) if known else _parse(name)
    place = _Place(repo, file, folder)
    with _explained(place):
        commit, files = _listing(repo)
    chosen = _choose(repo, files, file, exact=known is None)
    root = PurePosixPath(chosen[0].path).parent
    is_folder = PurePosixPath(chosen[0].path).name == _INDEX
    target = folder / ((root.name or repo.split("/")[1]) if is_folder else PurePosixPath(chosen[0].path).name)
    inside = {item: PurePosixPath(item.path).relative_to(root) for item in chosen}

    report(f"{repo}: {len(chosen)} files, {_amount(sum(i.size for i in chosen))}" if is_folder else f"{repo}:")
    for item in chosen:
        if len(item.digest) == 64 or not is_folder:
            report(f"  {item}")
    if target.exists():
        places = {item: target / below if is_folder else target for item, below in inside.items()}
        _require_same(target, places)
        report(f"{target} is here already, complete.")
    else:
        with _explained(place, under_way=True):
            _bring(repo, commit, inside, target, is_folder, report)
    found = inspect(target)
    report(f"{target.name} is {found.label}. {found.advice}".strip())
    return target


def _parse(name: str) -> tuple[str, str | None]:
    """The repository and the file in it that a name means, both safe to use in an address and in a path."""
    match = _NAME.fullmatch(name.strip())
    if match is None or ".." in match[1] or "--" in match[1]:
        names = "; ".join(f"{known} ({model.about})" for known, model in KNOWN.items())
        raise UserError(
            f"There is no model {name!r} to download: write OWNER/REPO or OWNER/REPO/FILE, or one of these: {names}."
        )
    if match[2] is not None and not _is_safe(match[2]):
        raise UserError(f"{match[2]!r} cannot be a file of {match[1]}: copy its name from {HUB}/{match[1]}.")
    return match[1], match[2]


def _is_safe(path: str) -> bool:
    """Whether a repository's path stays inside its folder and is a name that every system can hold."""
    parts = path.split("/")
    plain = all(part and part[0] != "." and part[-1] not in ". " for part in parts)
    return plain and path.isprintable() and not re.search(r'[\\:*?"<>|]', path)


# --- which files ---


def _listing(repo: str) -> tuple[str, list[_Remote]]:
    """The newest commit of a repository and its files."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=_endpoint()).model_info(repo, files_metadata=True, timeout=30)
    files: list[_Remote] = []
    for entry in info.siblings or []:
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        is_digest = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest or "")
        if digest and is_digest and isinstance(entry.size, int) and _is_safe(entry.rfilename):
            files.append(_Remote(entry.rfilename, entry.size, digest))
    return info.sha or "main", sorted(files, key=lambda file: (file.size, file.path))


def _choose(repo: str, files: list[_Remote], wanted: str | None, exact: bool) -> list[_Remote]:
    """The one checkpoint, or the files of a diffusers folder with model_index.json first. Raises UserError.

    `wanted` is a path, or a pattern where it need not be `exact`: a known repository may have changed.
    """
    same = str.__eq__ if exact else fnmatchcase
    matches = [file for file in files if wanted and same(file.path, wanted)]
    if not matches and wanted and exact:
        raise UserError(f"{repo} has no file '{wanted}': it has {_models_in(files)}.")
    if not matches:
        matches = _single_files(files) or [file for file in files if file.path == _INDEX]
        if len(matches) > 1:
            raise UserError(
                f"{repo} holds several models: name one, as in 'download {repo}/{matches[0].path}'; "
                f"there are {_models_in(matches)}."
            )
    if not matches:
        raise UserError(f"{repo} holds no .safetensors or .ckpt file and no diffusers folder: take another.")
    first = matches[0]
    if PurePosixPath(first.path).name == _INDEX:
        return [first, *_diffusers_files(repo, files, first.path.removesuffix(_INDEX))]
    if not first.path.endswith((".safetensors", ".ckpt")):
        raise UserError(f"'{first.path}' is no model file: {repo} has {_models_in(files)}.")
    return [first]


def _models_in(files: list[_Remote]) -> str:
    models = [f for f in files if f.path.endswith((".safetensors", ".ckpt", "/" + _INDEX)) or f.path == _INDEX]
    names = ", ".join(f"{file.path} ({_amount(file.size)})" for file in models[:10])
    more = len(models) - 10
    return (names or "no model files") + (f" and {more} more" if more > 0 else "")


def _single_files(files: list[_Remote]) -> list[_Remote]:
    """The checkpoints at the top of a repository; .safetensors, and full weights, before their lesser twins."""
    top = [file for file in files if "/" not in file.path]
    found = [f for f in top if f.path.endswith(".safetensors")] or [f for f in top if f.path.endswith(".ckpt")]
    return [file for file in found if not re.search(r"fp16|non_?ema", file.path, re.IGNORECASE)] or found


def _diffusers_files(repo: str, files: list[_Remote], root: str) -> list[_Remote]:
    """What the program needs of the diffusers folder `root` ('' or 'a/b/'): weights once, configs, vocabulary."""
    chosen: list[_Remote] = []
    for component in _COMPONENTS:
        start = f"{root}{component}/"
        inside = [f for f in files if f.path.startswith(start) and "/" not in f.path.removeprefix(start)]
        weights = _weights(inside)
        if component == "unet" and not weights:
            raise UserError(f"{repo} has no unet/diffusion_pytorch_model.safetensors: take another repository.")
        chosen += weights
        chosen += [f for f in inside if f.path.endswith((".json", ".txt")) and ".index." not in f.path]
    return chosen


def _weights(files: list[_Remote]) -> list[_Remote]:
    """The weights of one component with their index: those that `checkpoints.weight_files` will then choose."""
    for ending in (".safetensors", ".bin"):
        variants: dict[str, list[_Remote]] = {}
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
    inside: dict[_Remote, PurePosixPath],
    target: Path,
    is_folder: bool,
    report: Callable[[str], None],
) -> None:
    """Download into a hidden folder beside `target`, check, then move there what is whole."""
    from huggingface_hub.utils import WeakFileLock

    stage = target.parent / ".download" / f"{repo.replace('/', '--')}--{target.name}"
    stage.parent.mkdir(parents=True, exist_ok=True)
    # A second download of the same waits, then finds the model there. The lock's file stays: to remove it is a race.
    with WeakFileLock(stage.with_name(f"{stage.name}.lock")):
        if not target.exists():
            stage.mkdir(exist_ok=True)
            _require_space(stage, sum(item.size for item in inside))
            for item, below in inside.items():
                _fetch(repo, commit, item, stage / below, report)
            if is_folder:
                # Only the files of this commit: an earlier, interrupted download may have left others.
                wanted = {stage / below for below in inside.values()}
                for file in [path for path in stage.rglob("*") if path.is_file() and path not in wanted]:
                    file.unlink()
                stage.replace(target)
            else:
                (stage / inside.popitem()[1]).replace(target)
        shutil.rmtree(stage, ignore_errors=True)


def _fetch(repo: str, commit: str, item: _Remote, place: Path, report: Callable[[str], None]) -> None:
    """Download one file to `place`, going on with what is there of it. Raises UserError when its hash is wrong."""
    # Not hf_hub_download: it throws away what it has when it is interrupted, and shows the file before the check.
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if item.is_at(place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{item.digest[:12]}.part")
    if part.exists() and part.stat().st_size > item.size:
        part.unlink()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # packed bytes could not be resumed
    url = hf_hub_url(repo, item.path, revision=commit, endpoint=_endpoint())
    try:
        with part.open("ab") as stream:
            if done := stream.tell():
                report(f"Going on with {item.path} after {_amount(done)}.")
            http_get(
                url,
                stream,
                resume_size=done,
                headers=headers,
                expected_size=item.size,
                displayed_filename=item.path,
            )
    except OSError:
        if part.stat().st_size <= item.size:
            raise  # more than the hub announced is a wrong file; less can be resumed
    if not item.is_at(part):
        part.unlink()
        raise UserError(
            f"What came for {item.path} has not the size and hash that the hub names for it, so it was removed: "
            "run the same command again."
        )
    part.replace(place)


def _require_space(stage: Path, size: int) -> None:
    here = sum(file.stat().st_size for file in stage.rglob("*") if file.is_file())
    free, needed = shutil.disk_usage(stage).free, size - here
    if needed > free:
        raise UserError(
            f"The disk of {stage.parents[1]} has {_amount(free)} free and {_amount(needed)} are to come: "
            "free some space, or choose a folder on another disk with --models-dir."
        )


def _require_same(target: Path, places: dict[_Remote, Path]) -> None:
    """Raise UserError when what lies at `target` is not what would be downloaded: it may be of worth."""
    with contextlib.suppress(OSError):
        if all(item.is_at(place) for item, place in places.items()):
            return
    raise UserError(
        f"{target} is here already but is another or damaged one: move it away, or choose another folder with "
        "--models-dir, and run the same command again."
    )


# --- the hub ---


def _endpoint() -> str:
    """The address of the hub, or of the mirror that HF_ENDPOINT names now."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


@contextlib.contextmanager
def _explained(place: _Place, under_way: bool = False) -> Iterator[None]:
    """Turn what the hub, the network or the disk answers into one sentence."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    # The library's own network errors derive from those of its HTTP library, which changed over its versions.
    network: type[Exception] = next(b for b in HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
    try:
        yield
    except (OSError, ValueError, network) as error:
        repo, page, host = place.repo, f"{HUB}/{place.repo}", urlsplit(_endpoint()).netloc or _endpoint()
        code = getattr(getattr(error, "response", None), "status_code", None)
        again = "run the same command again to go on where it stopped" if under_way else "try again later"
        if isinstance(error, GatedRepoError) or code == 403:
            sentence = (
                f"{repo} is open only to those who accepted its terms: accept them on {page}, then sign in here "
                "with 'hf auth login' (or set HF_TOKEN) and run the same command again."
            )
        elif code in (401, 404):
            sentence = (
                f"{host} shows no {repo}: check the name on {page}; if it is private, sign in here with "
                "'hf auth login' (or set HF_TOKEN)."
            )
        elif code is not None:
            sentence = f"{host} answers with error {code}: {again}, or {place.by_hand}."
        elif isinstance(error, OfflineModeIsEnabled):
            sentence = f"HF_HUB_OFFLINE forbids to ask {host}: unset it, or {place.by_hand}."
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sentence = f"The disk of {place.folder} is full: free some space, then {again}."
        elif isinstance(error, OSError) and error.errno:
            sentence = f"{place.folder} cannot be written ({error.strerror}): choose another with --models-dir."
        elif isinstance(error, ValueError):
            sentence = f"{host} answers, but not as the hub does (a login page?): {again}, or {place.by_hand}."
        elif under_way:
            sentence = f"The connection to {host} was lost: {again}, or {place.by_hand}."
        else:
            sentence = f"{host} cannot be reached: look to the network, or {place.by_hand}."
        raise UserError(sentence) from error


def _amount(size: int) -> str:
    """Bytes as people read them: 7.70 GB."""
    if size >= 10**8:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size:,} bytes"
