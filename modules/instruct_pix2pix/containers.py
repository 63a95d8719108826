"""What a decoder is given of a file: its pixels and the metadata that are sound; what else is broken is left out."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngStream

from .exif import is_readable

MOST_CHUNK = 1 << 24
"""Bytes of one piece of metadata; a larger one is left out unread."""

MOST_CHUNKS, MOST_EXIF = 4096, 64
"""Chunks of metadata in a PNG, and segments of EXIF in a JPEG; more of them are left out."""

Span = tuple[int, int]
"""Where bytes of a file begin and end."""
Piece = Span | bytes
"""Bytes of the file, or others in their place."""

# PNG 3rd edition, 5.6: what is read here of the chunks that a decoder may ignore. 'acTL' says that there are frames.
_PNG_USED = (b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL")
_JPEG_BARE = (0x00, 0x01, *range(0xD0, 0xDA), 0xFF)
"""Bytes behind 0xFF that are no marker, or one without a length."""
_JPEG_USED = (b"ICC_PROFILE\0", b"http://ns.ado")  # the latter is XMP, which may say how to turn the picture
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")


class Pieced(io.RawIOBase):
    """A file put together from pieces of another, which is read as it is needed."""

    def __init__(self, source: IO[bytes], pieces: Sequence[Piece]) -> None:
        self._source, self._pieces, self._place = source, pieces, 0
        sizes = [len(one) if isinstance(one, bytes) else one[1] - one[0] for one in pieces]
        self._starts = [0, *itertools.accumulate(sizes)]

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place and return it. Raises ValueError for one before the beginning."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        if place < 0:
            raise ValueError("a place before the beginning of the file")
        self._place = place
        return place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the piece at hand goes; return how many bytes those are."""
        number = bisect_right(self._starts, self._place) - 1
        if number >= len(self._pieces):
            return 0
        piece, begin = self._pieces[number], self._place - self._starts[number]
        size = min(len(buffer), self._starts[number + 1] - self._place)
        if isinstance(piece, bytes):
            data = piece[begin : begin + size]
        else:
            self._source.seek(piece[0] + begin)
            data = self._source.read(size)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def pieced(source: IO[bytes], pieces: Sequence[Piece]) -> IO[bytes]:
    """Return a binary file put together from pieces of `source`."""
    return io.BufferedReader(Pieced(source, pieces))


def without_broken_metadata(source: IO[bytes], fmt: str) -> tuple[IO[bytes], bool]:
    """Return a file of this format, such as 'PNG', without metadata that would keep it from being read.

    True if something that would have been used is missing from it. The texts of a PNG lie in front of its pixels then,
    wherever they were, so that they are known before any pixel is decoded. Pixels are not looked at, and nothing is
    unpacked beyond Pillow's limits.
    """
    read = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp, "AVIF": _avif}.get(fmt)
    if read is None:
        source.seek(0)
        return source, False
    pieces, broken = read(source, source.seek(0, io.SEEK_END))
    return pieced(source, pieces), broken


def _at(source: IO[bytes], begin: int, size: int) -> bytes:
    source.seek(begin)
    return source.read(size)


def _add(pieces: list[Piece], piece: Piece) -> None:
    """Add a piece; a span that follows the last one makes it longer, so that a million of them take no memory."""
    last = pieces[-1] if pieces else b""
    if isinstance(last, tuple) and isinstance(piece, tuple) and last[1] == piece[0]:
        pieces[-1] = last[0], piece[1]
    else:
        pieces.append(piece)


# --- PNG ---


def _png(source: IO[bytes], size: int) -> tuple[list[Piece], bool]:
    """See https://www.w3.org/TR/png-3/, section 5: a chunk is its length, its name, its data and their CRC."""
    front: list[Piece] = [(0, 8)]
    pixels: list[Piece] = []
    broken = False
    place, depth, read = 8, 8, 0
    trial = PngStream(io.BytesIO())
    while place + 8 <= size:
        length, kind = struct.unpack(">I4s", _at(source, place, 8))
        if not kind.isalpha():
            broken |= bool(pixels)
            break
        end = place + 12 + length
        span = place, min(end, size)
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            if not pixels or pixels[-1][1] == place:  # they follow each other (5.6)
                _add(pixels, span)
        elif kind[:1].isupper():  # a chunk without which the picture cannot be read
            _add(front, span)
            if kind == b"IHDR" and length == 13 and end <= size:
                header = _at(source, place + 8, length)
                depth = header[8]
                _is_taken(trial, kind, header)
        elif kind in _PNG_USED:
            chunk = _at(source, *_sized(span)) if end <= size and length <= MOST_CHUNK else b""
            intact = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
            read += 1
            if not chunk or not intact or read > MOST_CHUNKS or not _is_taken(trial, kind, chunk[8:-4]):
                broken = True
            elif kind == b"tRNS":
                front.append(_png_chunk(kind, _colour_key(chunk[8:-4], trial.im_mode, depth)))
            else:
                _add(front, span)
        place = end
    return [*front, *pixels, _png_chunk(b"IEND", b"")], broken


def _is_taken(trial: PngStream, kind: bytes, data: bytes) -> bool:
    """Whether Pillow takes a chunk; `trial` counts what all texts together unpack to."""
    trial.fp = io.BytesIO(data)
    try:
        trial.call(kind, 0, len(data))
    except Exception:  # it raises nearly anything on hostile chunks
        return False
    if kind == b"eXIf":
        return is_readable(data)
    return kind != b"iCCP" or trial.im_info.get("icc_profile") is not None


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _colour_key(data: bytes, mode: str, depth: int) -> bytes:
    """Return the transparent colour of a grey or RGB picture in the depth in which Pillow has its pixels."""
    if mode not in ("L", "RGB"):
        return data
    most = (1 << depth) - 1
    values = [value & most for (value,) in struct.iter_unpack(">H", data[: len(data) // 2 * 2])]
    return b"".join(struct.pack(">H", value >> 8 if depth == 16 else value * 255 // most) for value in values)


# --- JPEG ---


def _jpeg(source: IO[bytes], size: int) -> tuple[list[Piece], bool]:
    """See ITU-T T.81, B.1: segments begin with a marker and their length. APPn and COM hold what is not the picture."""
    pieces: list[Piece] = []
    exif: list[Piece] = []
    told: list[bytes] = []
    broken, place = False, 2
    while place + 4 <= size:
        mark, kind, length = struct.unpack(">BBH", _at(source, place, 4))
        if mark != 0xFF or kind in _JPEG_BARE or length < 2 or place + 2 + length > size:
            break  # the decoder finds its way, or not
        span = place, place + 2 + length
        if kind == 0xDA:
            break
        place = span[1]
        if kind not in (*range(0xE0, 0xF0), 0xFE):
            _add(pieces, span)
            continue
        head = _at(source, span[0] + 4, min(14, length - 2))
        if kind == 0xE1 and head.startswith(b"Exif\0\0"):
            if len(exif) <= MOST_EXIF:
                exif.append(span)
                told.append(_at(source, *_sized(span))[10 if told else 4 :])
        elif len(head) < (12 if kind in (0xE0, 0xEE) else 14):  # Pillow needs more of each kind that is used
            broken |= kind == 0xEE or head.startswith(b"ICC_PROFILE\0")
        elif kind in (0xE0, 0xEE) or head.startswith(_JPEG_USED):  # 0xEE: Adobe's, which says what the colours are
            _add(pieces, span)
    if exif and (len(exif) > MOST_EXIF or not is_readable(b"".join(told))):
        exif, broken = [], True
    return [(0, 2), *exif, *pieces, (place, size)], broken


# --- WebP ---


def _webp(source: IO[bytes], size: int) -> tuple[list[Piece], bool]:
    """See https://developers.google.com/speed/webp/docs/riff_container: 'RIFF', a size, 'WEBP', then chunks."""
    pieces: list[Piece] = []
    broken, place = False, 12
    size = min(size, 8 + int.from_bytes(_at(source, 4, 4), "little"))
    while place + 8 <= size:
        kind, length = struct.unpack("<4sI", _at(source, place, 8))
        span = place, min(place + 8 + length + length % 2, size)
        whole = place + 8 + length <= size
        if kind in _WEBP_PIXELS:
            if not whole:
                return [(0, size)], broken
            _add(pieces, span)
        elif kind in (b"EXIF", b"ICCP", b"XMP "):
            data = _at(source, place + 8, length) if whole and length <= MOST_CHUNK else b""
            if data and (kind != b"EXIF" or is_readable(data)):
                _add(pieces, span)
            else:
                broken = True
        place = span[1]
    total = sum(piece[1] - piece[0] for piece in pieces if isinstance(piece, tuple))
    head = b"RIFF" + struct.pack("<I", 4 + total + total % 2) + b"WEBP"
    return [head, *pieces, bytes(total % 2)], broken


# --- AVIF ---


def _avif(source: IO[bytes], size: int) -> tuple[list[Piece], bool]:
    """See ISO/IEC 14496-12, 8.11.6: a box 'infe' says what an item is; an item of an unknown kind is passed over."""
    head = _at(source, 0, MOST_CHUNK)
    item = re.search(rb"infe[\x02\x03]...(..|....)\x00\x00Exif", head, re.DOTALL)
    if item is None:
        return [(0, size)], False
    try:
        source.seek(0)
        Image.OPEN["AVIF"][0](source, "")
    except Exception:  # its EXIF may be the reason, which libavif checks; if it is not, the next to open it will say
        return [(0, item.end() - 4), b"free", (item.end(), size)], True
    return [(0, size)], False


def _sized(span: Span) -> tuple[int, int]:
    """Return where a span begins and how long it is."""
    return span[0], span[1] - span[0]
