"""Pictures that come over the network: looked at first, then decoded when there is room for their pixels in memory."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..deep_pixels import deep_pixels_of
from ..errors import UserError
from ..images import MOST_PIXELS as MOST_PIXELS_READ
from ..images import Picture, open_picture, read_as
from .budget import Budget

MOST_PIXELS = 50_000_000
"""Pixels of a picture that comes over the network. One with transparency takes 14 bytes each while it is decoded."""
BYTES, JPEG_BYTES = 14, 8
"""Of memory for each pixel that is decoded: in general, and of a JPEG."""
MOST_WHOLE, MOST_WHOLE_PROGRESSIVE = 65_000_000, 50_000_000
"""Pixels of a JPEG that is read whole; a larger one is read at half size."""

STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class SentPicture:
    """A picture that was sent and whose header is sound; its pixels are still compressed."""

    source: bytes | str
    """Its bytes, or the path of its file."""
    name: str
    room: int
    """What its decoding takes of the budget of pixels."""
    deep: bool = False
    """Whether it is read in 16 bits a channel, where its file has them: then each pixel counts twice."""
    most_whole: int = MOST_WHOLE
    """See `open_picture`."""

    @classmethod
    def in_base64(cls, text: str, name: str, *, deep: bool = False) -> SentPicture:
        """Return the picture in a base64 text, as `bytes_of` reads it. Raises UserError."""
        return cls._looked_at(bytes_of(text, name), name, deep)

    @classmethod
    def in_file(cls, path: str, *, deep: bool = False) -> SentPicture:
        """Return the picture in a file that was uploaded. Raises UserError."""
        if not Path(path).exists():
            raise UserError("The picture is no longer here: drop it again.")
        return cls._looked_at(path, "The picture", deep)

    @classmethod
    def _looked_at(cls, source: bytes | str, name: str, deep: bool) -> SentPicture:
        def look(image: Image.Image, name: str, _: object) -> SentPicture:
            room, pixels = _room(image), image.width * image.height
            if room > MOST_PIXELS:
                few, many = MOST_PIXELS // 10**6, MOST_PIXELS_READ // 10**6
                raise UserError(
                    f"{name} is {image.width} x {image.height} pixels, but at most {few} megapixels are read here, "
                    f"{many} of a JPEG that is not progressive: save it as such a JPEG, or make it smaller."
                )
            twice = deep and deep_pixels_of(image) is not None
            return cls(source, name, 2 * pixels if twice else room, deep, _most_whole(image))

        return read_as(source, look, MOST_PIXELS_READ, name)

    def decode(self) -> Picture:
        """Decode it. Raises UserError."""
        return open_picture(self.source, name=self.name, deep=self.deep, most_whole=self.most_whole)


def bytes_of(text: str, name: str) -> bytes:
    """Return the bytes in a base64 text of either alphabet (RFC 4648), with or without padding and data address.

    Raises UserError, whose sentence calls it `name`, such as 'The mask'.
    """
    head = text[:200].lstrip().lower()
    if head.startswith(("http://", "https://")):
        raise UserError(f"{name} is an address, and nothing is fetched from one: send the picture itself in base64.")
    start = text.find(",") + 1 if head.startswith("data:") else 0
    try:  # without more copies than it takes: a text may have 60 MB
        data = text[start:].encode("ascii").translate(STANDARD_ALPHABET, b" \t\r\n\f\v").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name} is not base64, or is cut short: send the whole picture again.") from error


@contextmanager
def decoded(budget: Budget, *sent: SentPicture, patient: bool = False) -> Iterator[list[Picture]]:
    """Decode pictures once the budget of pixels has room for all of them, and hold that room for the block.

    What is kept of them after the block must be bounded by something else, as the queue does for its tasks. Raises
    UserError, and ServerBusy unless the caller is `patient`.
    """
    with budget.within(sum(one.room for one in sent), patient=patient):
        yield [one.decode() for one in sent]


def pixels_of(path: Path) -> int:
    """Return how many pixels a picture on the disk of the server has. Raises UserError."""
    return read_as(path, _pixels, MOST_PIXELS_READ)


def check_size(path: Path, name: str) -> None:
    """Raise UserError for a file that is a picture of more pixels than may be decoded for a visitor.

    A JPEG may have more: it takes eight bytes a pixel up to 100 megapixels, and above them it is read at half size. A
    progressive one is held in memory as a whole even then.
    """

    def too_large(image: Image.Image, *_: object) -> bool:
        return image.width * image.height > MOST_PIXELS and (not _is_jpeg(image) or _is_progressive(image))

    try:
        refused = read_as(path, too_large, MOST_PIXELS_READ)
    except UserError:
        return  # whatever is wrong with it is told when it is edited
    if refused:
        raise UserError(f"{name} has more than {MOST_PIXELS // 10**6} megapixels: make it smaller, then drop it again.")


def _room(image: Image.Image) -> int:
    """Return what decoding takes, in pixels of `BYTES` bytes. A progressive JPEG is held whole, 2 bytes a sample."""
    pixels = image.width * image.height
    if not _is_jpeg(image):
        return pixels
    read = pixels if pixels <= _most_whole(image) else pixels // 4
    held = 2 * round(pixels * _samples(image)) if _is_progressive(image) else 0
    return (JPEG_BYTES * read + held) // BYTES


def _most_whole(image: Image.Image) -> int:
    return MOST_WHOLE_PROGRESSIVE if _is_progressive(image) else MOST_WHOLE


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _is_progressive(image: Image.Image) -> bool:
    return bool(image.info.get("progressive"))


def _samples(image: Image.Image) -> float:
    """Return how many samples a JPEG has for each pixel: 3, or 1.5 where colour is at half size."""
    factors = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    most = max(across for across, _ in factors) * max(down for _, down in factors)
    return sum(across * down for across, down in factors) / most


def _pixels(image: Image.Image, *_: object) -> int:
    return image.width * image.height
