"""Edit a picture by saying what to change: instruct-pix2pix as a library.

The names below are all that a program needs; each is imported when it is first asked for, since torch takes seconds:

    from instruct_pix2pix import EditModel, EditSettings, edit, open_picture, save_picture

    model = EditModel.load("demo")
    for result in edit(model, open_picture("photo.jpg"), EditSettings("make it winter", seed=1)):
        save_picture(result.image, "winter.png", result.infotext(model.name))

docs/library.md has an example of each. What is below this package is its inside, and may move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.edit import Edited, OnStep, Progress, edit
    from .engine.model import EditModel
    from .engine.precision import Machine, choose_machine
    from .errors import Interrupted, UserError
    from .images import Picture, open_picture, read_infotext, save_picture
    from .models.checkpoints import Checkpoint, inspect
    from .models.download import download
    from .models.registry import DEMO, model_hash
    from .settings import EditSettings

__version__ = "0.2.0"

__all__ = [
    "DEMO",
    "Checkpoint",
    "EditModel",
    "EditSettings",
    "Edited",
    "Interrupted",
    "Machine",
    "OnStep",
    "Picture",
    "Progress",
    "UserError",
    "__version__",
    "choose_machine",
    "download",
    "edit",
    "inspect",
    "model_hash",
    "open_picture",
    "read_infotext",
    "save_picture",
]

_PLACES = {
    "engine.edit": ("Edited", "OnStep", "Progress", "edit"),
    "engine.model": ("EditModel",),
    "engine.precision": ("Machine", "choose_machine"),
    "errors": ("Interrupted", "UserError"),
    "images": ("Picture", "open_picture", "read_infotext", "save_picture"),
    "models.checkpoints": ("Checkpoint", "inspect"),
    "models.download": ("download",),
    "models.registry": ("DEMO", "model_hash"),
    "settings": ("EditSettings",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
