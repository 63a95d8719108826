"""What the server is asked to do: a door reads it from its own words without waiting for torch or gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
