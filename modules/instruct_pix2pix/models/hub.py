"""The Hugging Face hub: which files a repository has, bringing one of them, and a sentence for what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from ..errors import Remedy, UserError

Follow = Callable[[int, int], None]
"""Told of bytes done and bytes in all, after each piece. What it raises ends a download; what came stays."""

CHUNK = 1 << 20

HUB = "https://huggingface.co"

DIFFUSERS_INDEX = "model_index.json"
"""The file that makes a folder a diffusers folder."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest` is its SHA-256, or git's SHA-1 where the hub keeps a small file in git."""

    path: str
    size: int
    digest: str

    def __str__(self) -> str:
        sha = f", SHA-256 {self.digest}" if len(self.digest) == 64 else ""
        return f"{self.path}, {size_text(self.size)}{sha}"

    def is_at(self, place: Path, follow: Callable[[], None] = lambda: None) -> bool:
        """Whether `place` holds this very file, byte for byte; `follow` is called after each piece."""
        if not place.is_file() or place.stat().st_size != self.size:
            return False
        if len(self.digest) == 64:
            content = hashlib.sha256()
        else:
            content = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        with place.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                content.update(chunk)
                follow()
        return content.hexdigest() == self.digest


@dataclass(frozen=True)
class DownloadSource:
    """Where a download comes from and where it goes, for the sentences about it."""

    repo: str
    file: str | None
    folder: Path

    @property
    def by_hand(self) -> tuple[str | Path, ...]:
        """The end of a sentence, in parts: what a person can do without this program."""
        page = f"{HUB}/{self.repo}"
        if self.file is None or PurePosixPath(self.file).name == DIFFUSERS_INDEX:
            return (f", or download the model's files from {page} in a browser and put them into ", self.folder, ".")
        return (f", or download {self.file} from {page} in a browser and put it into ", self.folder, ".")


@dataclass(frozen=True)
class RepoListing:
    """What a repository holds now."""

    commit: str
    files: tuple[RemoteFile, ...]
    """The smallest first."""
    licence: str
    """As the hub calls it, such as 'mit'; empty where its page names none."""
    gated: bool
    """Whether it is open only to those who accepted its terms."""


def has_token() -> bool:
    """Whether a token is set on this machine, which the hub asks for before it gives some files."""
    from huggingface_hub import get_token

    return get_token() is not None


def show_no_bars() -> None:
    """Let the library draw no progress bars on the terminal of this program from now on."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def list_files(repo: str) -> RepoListing:
    """Return what the newest commit of a repository holds."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=_endpoint()).model_info(repo, files_metadata=True, timeout=30)
    files: list[RemoteFile] = []
    for entry in info.siblings or []:
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        is_digest = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest or "")
        if digest and is_digest and isinstance(entry.size, int) and is_safe(entry.rfilename):
            files.append(RemoteFile(entry.rfilename, entry.size, digest))
    files.sort(key=lambda file: (file.size, file.path))
    named = (tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:"))
    return RepoListing(info.sha or "main", tuple(files), next(named, ""), bool(info.gated))


def fetch(
    repo: str, commit: str, item: RemoteFile, place: Path, report: Callable[[str], None], follow: Follow
) -> None:
    """Download one file of a commit to `place`, going on with what an interrupted download left there.

    Raises UserError when its size or hash is wrong, what `explained` explains, and what `follow` raises.
    """
    # Not hf_hub_download: it throws away what it has when it is interrupted, and shows the file before the check.
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    def checking() -> None:
        follow(item.size, item.size)

    if item.is_at(place, checking):
        return
    # There is no argument for it. 10 MB by default: until a piece is whole nobody is told, and a break loses it.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{item.digest[:12]}.part")
    if part.exists() and (not part.is_file() or part.stat().st_size > item.size):
        part.unlink()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # packed bytes could not be resumed
    url = hf_hub_url(repo, item.path, revision=commit, endpoint=_endpoint())
    try:
        with part.open("ab") as stream:
            if done := stream.tell():
                report(f"Going on with {item.path} after {size_text(done)}.")
            http_get(
                url,
                cast("BinaryIO", _FollowedFile(stream, item.size, follow)),
                resume_size=done,
                headers=headers,
                expected_size=item.size,
                displayed_filename=item.path,
            )
    except OSError:
        if part.stat().st_size <= item.size:
            raise  # more than the hub announced is a wrong file; less can be resumed
    if not item.is_at(part, checking):
        part.unlink()
        raise UserError(
            f"{item.path} came without the size and hash that the hub gives for it, so it was removed: ",
            Remedy.DOWNLOAD_AGAIN,
            ".",
        )
    part.replace(place)


class _FollowedFile:
    """A file that is written, and tells after each piece how long it is."""

    def __init__(self, file: BinaryIO, size: int, follow: Follow) -> None:
        self._file, self._size, self._follow = file, size, follow

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._follow(self._file.tell(), self._size)
        return written


def _endpoint() -> str:
    """Return the address of the hub, or of the mirror that HF_ENDPOINT names now."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


@contextlib.contextmanager
def explained(source: DownloadSource, *, under_way: bool = False) -> Iterator[None]:
    """Turn what the hub, the network or the disk answers into one sentence: a UserError.

    `under_way` is for a download that has begun, which can be gone on with.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The library's own network errors derive from those of its HTTP library, which changed over its versions.
    network: type[Exception] = next(b for b in HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
    try:
        yield
    except (OSError, ValueError, network) as error:
        raise UserError(*_explanation(error, source, under_way)) from error


def _explanation(error: Exception, source: DownloadSource, under_way: bool) -> tuple[str | Path | Remedy, ...]:
    """Return the parts of the sentence about an error of the hub, the network or the disk."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

    repo, page, host = source.repo, f"{HUB}/{source.repo}", urlsplit(_endpoint()).netloc or _endpoint()
    code = getattr(getattr(error, "response", None), "status_code", None)
    again = (Remedy.DOWNLOAD_AGAIN, " to go on where it stopped") if under_way else ("try again later",)
    by_hand = source.by_hand
    if isinstance(error, GatedRepoError) or code == 403:
        terms = f"{repo} is open only to those who accepted its terms: accept them on {page}, "
        return (f"{terms}then sign in here with 'hf auth login' (or set HF_TOKEN) and ", Remedy.DOWNLOAD_AGAIN, ".")
    if code in (401, 404):
        name = f"{host} shows no {repo}: check the name on {page}; "
        return (f"{name}if it is private, sign in here with 'hf auth login' (or set HF_TOKEN).",)
    if code is not None:
        return (f"{host} answers with error {code}: ", *again, *by_hand)
    if isinstance(error, OfflineModeIsEnabled):
        return (f"HF_HUB_OFFLINE does not let this program ask {host}: unset it", *by_hand)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ("The disk of ", source.folder, " is full: free some space, then ", *again, ".")
    if isinstance(error, OSError) and error.errno:
        return (source.folder, f" cannot be written ({error.strerror}): choose another", Remedy.MODELS_FOLDER, ".")
    if isinstance(error, ValueError):
        return (f"{host} answers, but not as the hub does (a login page?): ", *again, *by_hand)
    if under_way:
        return (f"The connection to {host} was lost: ", *again, *by_hand)
    return (f"{host} cannot be reached: check the network", *by_hand)


def size_text(size: int) -> str:
    """Return a number of bytes as people read it: 7.70 GB."""
    if size >= 10**8:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size:,} bytes"


def is_safe(path: str) -> bool:
    """Whether a repository's path stays inside its folder and is a name that every system can hold."""
    parts = path.split("/")
    plain = all(part and part[0] != "." and part[-1] not in ". " for part in parts)
    return plain and path.isprintable() and not re.search(r'[\\:*?"<>|]', path)
