"""Which folders a person at the page may name, and what they are called in front of that person."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""Headers by which a proxy tells that it speaks for somebody else."""


@dataclass(frozen=True)
class FolderAccess:
    """The folders of a server, and how far those who visit it may go."""

    home: Path
    """What a relative name begins from; it holds outputs/ and inputs/."""
    allowed: tuple[Path, ...]
    """All that visitors from elsewhere may name, with what is below."""
    private: bool
    """Whether the server listens to this machine alone, so that a visitor may sit at it."""

    @classmethod
    def beside(cls, outputs: Path, more: tuple[Path, ...] = (), *, private: bool = True) -> FolderAccess:
        """Return those of a server that saves in `outputs`: that, inputs/ beside it, and `more` are for everybody."""
        home = outputs.absolute().parent.resolve()
        return cls(home, (home / outputs.name, home / "inputs", *(folder.absolute() for folder in more)), private)

    def is_here(self, client: str | None, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from somebody at this machine, as far as can be told.

        A tunnel or a proxy connects from here too; it gives itself away by the name it calls, or by its headers.
        """
        if not self.private or any(name in headers for name in FORWARDED):
            return False
        return _is_loopback(client or "") and _is_loopback(_name_in(headers.get("host", "")))

    def find(self, text: str, *, here: bool) -> Path:
        """Return the folder that was typed, links followed; it need not exist. Raises UserError for one not allowed."""
        typed = text.strip().strip('"')
        try:
            if here:
                return (self.home / Path(typed).expanduser()).resolve()
            # Twice: what is not allowed by its mere name is not even looked at, since it may be another machine's.
            path = Path(os.path.normpath(self.home / typed))
            if sound := any(path.is_relative_to(one) for folder in self.allowed for one in (folder, folder.resolve())):
                path = path.resolve()
                sound = any(path.is_relative_to(folder.resolve()) for folder in self.allowed)
        except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL, a user who is not
            raise UserError("This is no name of a folder: check it.") from error
        if not sound:
            names = ", ".join(f"{folder.name}/" for folder in self.allowed)
            raise UserError(
                f"From another machine only folders in {names} can be used: put the pictures there, or start the "
                "program with --allow-dir FOLDER."
            )
        return path

    def name_of(self, path: Path, *, here: bool) -> str:
        """Return what a folder is called in front of a visitor: without what is above it, unless that is known."""
        if path.is_relative_to(self.home):
            return path.relative_to(self.home).as_posix()
        if here:
            return str(path)
        for folder in self.allowed:
            if path.is_relative_to(folder.resolve()):
                return f"{folder.name}/{path.relative_to(folder.resolve()).as_posix()}".removesuffix("/.")
        return path.name


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name.rstrip(".").lower() == "localhost"


def _name_in(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
