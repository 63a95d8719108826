"""The options, and what they can be: models, samplers, schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from ...engine.sampling.names import SCHEDULE_NAMES
from ...engine.sampling.samplers import SAMPLERS
from ...models.add_ons import EMBEDDING, LORA, VAE_FILE, AddOnFolders, AddOnKind
from ...models.catalog import Catalog
from ...text import writable
from ..worker.worker import Worker
from .options import Options


def option_routes(worker: Worker, catalog: Catalog, options: Options) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/sdapi/v1/options")
    def get_options() -> dict[str, Any]:
        """The checkpoint, and what is taken where a request says nothing."""
        loaded = worker.loaded
        return {**options.shown(), "sd_checkpoint_hash": loaded.hash if loaded else ""}

    @router.post("/sdapi/v1/options")
    def set_options(changes: dict[str, Any]) -> None:
        """Change options, all or none; a checkpoint is loaded by the next job. Names not listed by GET do nothing."""
        options.change(changes)

    @router.get("/sdapi/v1/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        """The models that are here. 'editable' and 'about' say which can edit, and what each of them is."""
        loaded = worker.loaded
        hashes = {loaded.path: loaded.hash} if loaded else {}
        return [
            {
                "title": entry.name,
                "model_name": entry.name,
                "hash": hashes.get(entry.path),
                "sha256": None,
                "filename": writable(entry.path.name),
                "config": None,
                "editable": bool(entry.checkpoint and entry.checkpoint.editable),
                "about": entry.checkpoint.label if entry.checkpoint else entry.problem,
            }
            for entry in catalog.entries
        ]

    def files(kind: AddOnKind) -> dict[str, Path]:
        """Return the files of a kind beside the models, by name."""
        return AddOnFolders.near(models=catalog.dirs).files(kind)

    @router.get("/sdapi/v1/loras")
    def loras() -> list[dict[str, Any]]:
        """What an instruction can ask for as <lora:name:1>."""
        found = files(LORA).items()
        return [{"name": n, "alias": n, "path": writable(path.name), "metadata": {}} for n, path in found]

    @router.get("/sdapi/v1/sd-vae")
    def sd_vae() -> list[dict[str, Any]]:
        """What the option 'vae' can be, besides automatic and taesd."""
        return [{"model_name": name, "filename": writable(path.name)} for name, path in files(VAE_FILE).items()]

    @router.get("/sdapi/v1/embeddings")
    def embeddings() -> dict[str, dict[str, Any]]:
        """The words of a prompt that stand for vectors of their own."""
        names = (name.rpartition("/")[2] for name in files(EMBEDDING))
        return {"loaded": {name: {"step": None, "sd_checkpoint": None} for name in names}, "skipped": {}}

    @router.post("/sdapi/v1/refresh-checkpoints")
    def refresh_checkpoints() -> None:
        """Look for models again."""
        catalog.refresh()

    @router.get("/sdapi/v1/samplers")
    def samplers() -> list[dict[str, Any]]:
        """The sampling methods."""
        return [
            {
                "name": name,
                "aliases": [f"k_{name.lower().replace('++', 'pp').replace(' ', '_')}"],
                "options": {"scheduler": sampler.default_schedule},
            }
            for name, sampler in SAMPLERS.items()
        ]

    @router.get("/sdapi/v1/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """The schedule types."""
        rest = {"aliases": None, "default_rho": -1, "need_inner_model": False}
        return [{"name": name.lower().replace(" ", "_"), "label": name, **rest} for name in SCHEDULE_NAMES]

    return router
