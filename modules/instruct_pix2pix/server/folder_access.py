"""Which folders a visitor of the page may name, and by which names that visitor knows them."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import gradio as gr
    from starlette.requests import HTTPConnection

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""Headers by which a proxy says that it forwards for somebody else."""


@dataclass(frozen=True)
class FolderAccess:
    """The folders of a server, and which of them its visitors may name."""

    home: Path
    """Relative names begin here; it holds outputs/ and inputs/."""
    allowed: tuple[Path, ...]
    """The folders that visitors from other machines may name, with everything below."""
    private: bool
    """Whether the server listens to this machine alone, so that a visitor may sit at it."""

    @classmethod
    def beside(cls, outputs: Path, more: tuple[Path, ...] = (), *, private: bool = True) -> FolderAccess:
        """Return the access to a server that saves in `outputs`: all may name that, inputs/ beside it, and `more`."""
        home = outputs.absolute().parent.resolve()
        return cls(home, (home / outputs.name, home / "inputs", *(folder.absolute() for folder in more)), private)

    @classmethod
    def none(cls, outputs: Path) -> FolderAccess:
        """Return the access to a server whose visitors may name no folder; it saves in `outputs`."""
        return cls(outputs.absolute().parent.resolve(), (), private=False)

    def is_here(self, request: HTTPConnection | gr.Request) -> bool:
        """Whether a request comes from somebody at this machine, as far as can be told.

        A tunnel or a proxy connects from here too; the name that it calls, or its headers, show that.
        """
        headers, client = request.headers, request.client
        if not self.private or client is None or any(name in headers for name in FORWARDED):
            return False
        return is_loopback(client.host) and is_loopback(_name_in(headers.get("host", "")))

    def find(self, text: str, *, here: bool) -> Path:
        """Return the folder of a typed name, links followed; it need not exist. Raises UserError where not allowed."""
        typed = text.strip().strip('"')
        try:
            if here:
                return (self.home / Path(typed).expanduser()).resolve()
            # Twice: a path that is not allowed by its mere name is not even looked at; it may be another machine's.
            path = Path(os.path.normpath(self.home / typed))
            roots = [root for folder in self.allowed for root in (folder, folder.resolve())]
            if allowed := any(path.is_relative_to(root) for root in roots):
                path = path.resolve()
                allowed = any(path.is_relative_to(folder.resolve()) for folder in self.allowed)
        except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL, an unknown user
            raise UserError("This is not the name of a folder: check it.") from error
        if not allowed:
            names = ", ".join(f"{folder.name}/" for folder in self.allowed)
            raise UserError(
                f"From another machine only folders in {names} can be used: put the pictures there, or start the "
                "program with --allow-dir FOLDER."
            )
        return path

    def name_of(self, path: Path, *, here: bool) -> str:
        """Return the name by which a visitor knows a folder; visitors from other machines see no path above it."""
        if path.is_relative_to(self.home):
            return path.relative_to(self.home).as_posix()
        if here:
            return str(path)
        for folder in self.allowed:
            if path.is_relative_to(folder.resolve()):
                return f"{folder.name}/{path.relative_to(folder.resolve()).as_posix()}".removesuffix("/.")
        return path.name


def is_loopback(name: str) -> bool:
    """Whether an address or a name is that of the machine itself."""
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name.rstrip(".").lower() == "localhost"


def _name_in(host: str) -> str:
    """Return the name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
