"""The desktop of this machine: shows a folder to whoever sits at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from ..errors import UserError
from ..text import reason_of

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")
"""Variables of the environment that name the screen, where it is not Windows' or macOS'."""


def has_desktop() -> bool:
    """Whether this program runs on a desktop that can show a folder."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(map(os.environ.get, SCREENS)) and shutil.which("xdg-open") is not None


def show_folder(folder: Path) -> None:
    """Open a folder in the desktop's file manager, and do not wait for that. Raises UserError."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
            return
        program = "open" if sys.platform == "darwin" else "xdg-open"
        quiet = subprocess.DEVNULL
        command = [program, str(folder.absolute())]
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError as error:
        raise UserError(f"The folder could not be opened ({reason_of(error)}): it is ", folder, ".") from error
    threading.Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie when it has ended
