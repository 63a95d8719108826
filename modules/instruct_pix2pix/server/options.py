"""What the server is asked to do: a door reads it from its own words without waiting for torch or gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .limits import Limits


@dataclass(frozen=True)
class ServeOptions:
    """Where to serve, whom, and with which models."""

    port: int | None
    """None is 7860, or the next free port."""
    listen: bool
    """Whether other machines may connect."""
    users: tuple[tuple[str, str], ...]
    """The names and passwords to ask for; without any, everyone is answered."""
    host_names: tuple[str, ...]
    """Names by which others call this machine, besides its own."""
    root_path: str
    """Where the page lies behind a proxy that takes this off an address, such as '/edit'; empty for '/'."""
    edit_folders: tuple[Path, ...]
    """Folders that visitors from other machines may edit, besides outputs/ and inputs/."""
    model: str | None
    """A file, a listed name or a part of one; None is the first model that can edit."""
    model_folders: tuple[Path, ...]
    device: str
    precision: str
    memory: float | None
    """The most of a card's memory to take, in GB; None is what is free."""
    debug: bool
    """Whether to log in detail."""
    limits: Limits | None = None
    """What each visitor may have, where they are strangers; None: they are not."""
    proxies: tuple[str, ...] = ()
    """Networks whose proxies say for whom they forward, besides those on this machine."""
    frames: tuple[str, ...] = ()
    """Other sites that may show the page in a frame, such as 'https://huggingface.co'."""
    token_header: str = ""
    """The header by which a host that lends GPUs knows whom to charge."""
