"""Where the package, its data and the checkout around it are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent  # not resolved: an extension may be a link into a host's folder
DATA = PACKAGE / "data"


def checkout_of(package: Path = PACKAGE) -> Path | None:
    """Return the root of the repository that `package` runs from; None for an installed package."""
    root = package.parents[1]
    return root if package.parent.name == "modules" and (root / "launch.py").is_file() else None


def home_of(package: Path = PACKAGE) -> Path:
    """Return the folder that holds models/ and outputs/: the checkout, else the current folder."""
    return checkout_of(package) or Path.cwd()


def cache_folder() -> Path:
    """Return the folder of this user for what can be computed again. Raises RuntimeError for a user without a home."""
    if sys.platform == "win32":
        folder, home = os.environ.get("LOCALAPPDATA", ""), "AppData/Local"
    elif sys.platform == "darwin":
        folder, home = "", "Library/Caches"
    else:
        folder, home = os.environ.get("XDG_CACHE_HOME", ""), ".cache"
    base = Path(folder) if Path(folder).is_absolute() else Path.home() / home
    return base / "instruct-pix2pix"
