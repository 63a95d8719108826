"""A real server on loopback for the tests of the API and of its safety."""

import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from starlette.types import ASGIApp

from instruct_pix2pix.models.catalog import Catalog
from instruct_pix2pix.server.app import build
from instruct_pix2pix.server.worker.worker import Worker
from tools.serving import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
HOUSE = EXAMPLES / "house.png"


@dataclass
class Served:
    """A server that runs."""

    port: int
    worker: Worker
    outputs: Path
    client: httpx.Client

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/sdapi/v1/{path}", json=body)

    def get(self, path: str) -> Any:
        answer = self.client.get(f"/sdapi/v1/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def edit(self, **body: Any) -> list[Image.Image]:
        """Edit the house in few steps, expect success, and return the pictures."""
        return pictures(self.post("img2img", **quick(**body)))

    def wait_until(self, condition: Any, seconds: float = 120) -> None:
        """Wait until a function is true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)


def quick(**body: Any) -> dict[str, Any]:
    return {"init_images": [encoded(HOUSE)], "prompt": "make it winter", "steps": 3, "seed": 5, **body}


def encoded(picture: Path | Image.Image | bytes) -> str:
    if isinstance(picture, Image.Image):
        data = io.BytesIO()
        picture.save(data, "PNG")
        picture = data.getvalue()
    return base64.b64encode(picture if isinstance(picture, bytes) else picture.read_bytes()).decode()


def pictures(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer.json()["images"]]


@contextmanager
def served(folder: Path, models: Path | None = None, **options: Any) -> Iterator[Served]:
    """Serve the demo model, and those of a folder; `options` are those of `app.build`."""

    def make_app(worker: Worker, catalog: Catalog) -> ASGIApp:
        return build(worker, catalog, outputs=folder / "outputs", **options)

    with (
        serving(make_app, models) as (port, worker),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=180, trust_env=False) as client,
    ):
        yield Served(port, worker, folder / "outputs", client)
