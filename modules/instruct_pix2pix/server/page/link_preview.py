"""What a messenger or a social network shows of a link to the page: a title, a sentence and a picture, all our own."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from ...paths import DATA
from ...text import escape

TITLE = "instruct-pix2pix"
DESCRIPTION = "Edit a picture by saying what to change, and keep the rest of it."
PICTURE = DATA / "web" / "link-preview.jpg"
"""Made by `python -m tools.demo_model.examples --readme`."""
SIZE = (1194, 652)
"""Its width and height."""


def add_route(app: FastAPI) -> None:
    """Add the picture."""

    @app.get(f"/{PICTURE.name}", include_in_schema=False)
    def picture() -> FileResponse:
        return FileResponse(PICTURE)


def tags(scope: Scope, root_path: str) -> str:
    """Return the tags of a page, in HTML; `root_path` is where a proxy has put it.

    The Open Graph protocol (ogp.me) wants whole addresses: they begin as the request's own.
    """
    headers = Headers(scope=scope)
    scheme = headers.get("x-forwarded-proto", "")
    scheme = scheme if scheme in ("http", "https") else scope["scheme"]
    address = f"{scheme}://{headers.get('host', '')}{root_path.rstrip('/')}/"
    told = {
        "og:type": "website",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:url": address,
        "og:image": address + PICTURE.name,
        "og:image:width": str(SIZE[0]),
        "og:image:height": str(SIZE[1]),
        "og:image:alt": "Drawn landscapes, and what became of each: winter, night, a blue car, no ball",
    }
    properties = "".join(f'<meta property="{name}" content="{escape(text)}">' for name, text in told.items())
    return (
        f'{properties}<meta name="description" content="{DESCRIPTION}">'
        '<meta name="twitter:card" content="summary_large_image">'
    )
