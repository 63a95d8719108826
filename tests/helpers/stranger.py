"""Somebody on the page without a browser: sends what its script sends, from an address of their own."""

from __future__ import annotations

import io
import re
import secrets
import time
from typing import Any

import httpx
from PIL import Image


class Stranger:
    """A visitor from an address, as a proxy on this machine tells it."""

    def __init__(self, server: str, address: str) -> None:
        self.client = httpx.Client(
            base_url=server, headers={"X-Forwarded-For": address}, timeout=300, trust_env=False
        )
        self.session, self.config = secrets.token_hex(16), self.client.get("/config").json()
        self.components: dict[int, dict[str, Any]] = {one["id"]: one for one in self.config["components"]}

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def props(self, elem_id: str) -> dict[str, Any]:
        """Return what a component begins with."""
        return next(one["props"] for one in self.components.values() if one["props"].get("elem_id") == elem_id)

    def upload(self, picture: Image.Image | bytes, name: str = "picture.png") -> str:
        """Send a picture; return where the server keeps it."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, encoded(picture), "image/png")})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def press(self, button: str, **values: Any) -> dict[str, Any]:
        """Press a button, by its id; return what changes, by the label or id of each component.

        `values` are those of the controls that are not as they begin, in the same way.
        """
        id_ = next(id_ for id_, one in self.components.items() if one["props"].get("elem_id") == button)
        call = next(
            one
            for one in self.config["dependencies"]
            if [id_, "click"] in [list(target) for target in one["targets"]] and one["backend_fn"]
        )
        names = {one: self._name(one) for one in (*call["inputs"], *call["outputs"])}
        data = [values.get(names[one], self.components[one]["props"].get("value")) for one in call["inputs"]]
        body = {"data": data, "fn_index": call["id"], "session_hash": self.session[:10], "trigger_id": id_}
        answer = self.client.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return {names[one]: value for one, value in zip(call["outputs"], answer.json()["data"], strict=True)}

    def generate(self, path: str, instruction: str = "make it winter", **values: Any) -> str:
        """Press Generate; return the id of the task. Raises ValueError with what the page says instead."""
        return self.begin("img2img_generate", path, instruction, **values)

    def begin(self, button: str, path: str, instruction: str, **values: Any) -> str:
        """Press a button that begins a task, as `generate` does."""
        sent = {"path": path, "meta": {"_type": "gradio.FileData"}}
        changed = self.press(
            button,
            **{
                "img2img_image": sent,
                "img2img_prompt": instruction,
                "Session": self.session,
                "img2img_steps": 2,
                "img2img_batch_count": 1,
                **values,
            },
        )
        if isinstance(changed.get("Job"), str):
            return changed["Job"]
        raise ValueError(re.sub(r"<[^>]*>", "", str(changed["said"])).strip())

    def wait(self, task: str, seconds: float = 600) -> dict[str, Any]:
        """Wait for the end of a task; return how it then stands."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            answer = self.client.get(f"/jobs/{task}", params={"again": True})
            assert answer.status_code == 200, answer.text
            if answer.json()["ended"]:
                return answer.json()
        raise AssertionError("It did not end.")

    def picture(self, path: str) -> Image.Image:
        """Fetch a file that the page shows."""
        answer = self.client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content))

    def strip(self, session: str) -> list[dict[str, Any]]:
        """Return the results that a session has."""
        answer = self.client.post(f"/strip/{session}", json={})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    def _name(self, id_: int) -> str:
        props = self.components[id_]["props"]
        if "ip2p-said" in (props.get("elem_classes") or []):
            return "said"
        return str(props.get("elem_id") or props.get("label") or id_)


def encoded(picture: Image.Image | bytes) -> bytes:
    """Return a picture as a PNG."""
    if isinstance(picture, bytes):
        return picture
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
