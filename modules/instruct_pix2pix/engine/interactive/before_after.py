"""A picture before and after its edit, side by side, as a notebook shows a result."""

from __future__ import annotations

import base64

from PIL import Image

from ...images import encode_small
from ...text import escape

NARROWEST, WIDEST = 192, 512
"""Pixels of a picture's width on the page, of CSS: smaller ones are enlarged, larger ones reduced."""


def before_after_html(before: Image.Image, after: Image.Image, caption: str) -> str:
    """Return HTML, complete in itself, of two RGB pictures of one framing and any sizes, with their caption."""
    width = min(max(after.width, NARROWEST), WIDEST)
    images = "".join(
        f'<img alt="{name}" title="{name}" style="width:{width}px;max-width:49%;height:auto" '
        f'src="data:image/webp;base64,{base64.b64encode(encode_small(picture, "WEBP", 2 * WIDEST)).decode()}">'
        for name, picture in (("before", before), ("after", after))
    )
    return (
        f'<figure style="margin:0"><div style="display:flex;gap:4px">{images}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
