"""Which host the extension runs in."""

from __future__ import annotations

from importlib.util import find_spec

from .a1111 import A1111Host
from .forge import ForgeHost
from .job import Host

UNSUPPORTED = (
    "This extension does not work in this web GUI. It works in AUTOMATIC1111, Forge and its kin (reForge, Classic, "
    "Neo, ersatzForge), and without any of them: see the README."
)


def find_host() -> Host | None:
    """Return the adapter for the running web GUI, known by its modules; None for others, such as SD.Next."""
    if find_spec("modules_forge"):
        return ForgeHost()
    if find_spec("modules") and find_spec("modules.sd_samplers_cfg_denoiser"):
        return A1111Host()
    return None
