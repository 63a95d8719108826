"""Where files lie that go beside a model: the folders of AUTOMATIC1111 (its modules/paths.py and networks.py)."""

from __future__ import annotations

from pathlib import Path

LORA, VAE_APPROX, EMBEDDINGS = "Lora", "VAE-approx", "embeddings"

BESIDE = frozenset({LORA, "LyCORIS", "VAE", VAE_APPROX, EMBEDDINGS})
"""Folders in a models folder whose files are no models by themselves."""


def place_of(kind: str, models: Path) -> Path:
    """Return the folder, existing or not, for one kind of file beside the models in the folder `models`; '' is itself.

    Checkpoints lie in models/Stable-diffusion of a web GUI, or in models/ itself; embeddings/ lies beside models/.
    """
    if not kind:
        return models
    root = models.parent if models.name == "Stable-diffusion" else models
    return root.parent / kind if kind == EMBEDDINGS and root.name == "models" else root / kind
