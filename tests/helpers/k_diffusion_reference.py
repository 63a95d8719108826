"""k-diffusion's own files, as a reference for samplers and schedules."""

import sys
import types
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


def k_diffusion(monkeypatch: pytest.MonkeyPatch, module: str) -> Any:
    """One file of k-diffusion, without the package's __init__, which imports what it does not need."""
    spec = find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    for name in ("k_diffusion.sampling", "k_diffusion.external"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "k_diffusion", package)
    monkeypatch.setitem(sys.modules, "k_diffusion.utils", utils)
    return import_module(f"k_diffusion.{module}")
