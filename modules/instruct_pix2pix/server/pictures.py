"""Pictures that come over the network: in base64, as JSON carries them, up to a limit of their own."""

from __future__ import annotations

import base64
import binascii

from ..errors import UserError
from ..images import Picture, open_picture

MOST_PIXELS = 50_000_000
"""Pixels of a picture that comes over the network: three bytes of memory each."""


def read_picture(text: str, name: str) -> Picture:
    """Return the picture in a base64 text of either alphabet (RFC 4648), with or without padding and data address.

    Raises UserError, whose sentence calls it `name`, such as 'The mask'.
    """
    return open_picture(decoded(text, name), most_pixels=MOST_PIXELS, name=name)


def decoded(text: str, name: str) -> bytes:
    """Return the bytes of a picture in base64, with or without the head of a data address. Raises UserError."""
    text = text.strip()
    if text.startswith(("http://", "https://")):
        raise UserError(f"{name} is an address, and nothing is fetched from one: send the picture itself in base64.")
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")  # as clients for URLs write it
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name} is not base64, or is cut short: send the whole picture again.") from error
