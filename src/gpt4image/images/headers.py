"""Inspection of the first bytes of image files before Pillow opens them."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress

from gpt4image.core.files import stand_in

_LARGEST_TEXT = 1 << 20  # largest text or profile in a PNG that Pillow decompresses, in bytes
_PACKED_AT_MOST = 1032  # largest compression ratio of zlib

# Files that are often found among images, by the position of their signature.
_OTHER_KINDS = (
    *(
        (4, b"ftyp" + brand, "HEIC")
        for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
    ),
    *((0, mark, "JPEG XL") for mark in (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    *((0, mark, "a kind of TIFF that Pillow does not support") for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((0, mark, "Radiance HDR") for mark in (b"#?RADIANCE", b"#?RGBE")),
    *((0, mark, "a PostScript file") for mark in (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    (0, b"%PDF", "a PDF"),
    (0, b"PF\n", "a colour map of floats"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (128, b"DICM", "DICOM"),
    (4, b"ftyp", "a video or a camera's raw format"),
)


def looks_like(data: bytes) -> str:
    """Return in brackets what a file that is not an image seems to be, and what to do; empty if unknown."""
    if kind := stand_in(data):
        return f" (it is {kind})"
    if data[:512].lstrip().lower().startswith((b"<svg", b"<?xml")):
        return " (it is XML or SVG)"
    known = next((kind for at, mark, kind in _OTHER_KINDS if data.startswith(mark, at)), "")
    return f" (it is {known}: convert it to JPEG or PNG)" if known else ""


def without_large_texts(data: bytes) -> bytes:
    """Return a PNG without texts and profiles of more than a megabyte, for which Pillow refuses the picture."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, start, at = [], 0, 8
    while at + 12 <= len(data):
        after = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in (b"zTXt", b"iTXt", b"iCCP") and _is_large_text(data[at + 8 : after - 4]):
            kept.append(data[start:at])
            start = after
        at = after
    return b"".join((*kept, data[start:])) if kept else data


def _is_large_text(chunk: bytes) -> bool:
    """Whether the packed part of a PNG's chunk, which begins behind a zero byte and some flags, is too large."""
    if len(chunk) < _LARGEST_TEXT // _PACKED_AT_MOST:
        return False
    for start in [match.end() for match in re.finditer(b"\0", chunk[:400])]:  # names and languages are that short
        for flags in (1, 0):
            with suppress(zlib.error):
                return len(zlib.decompressobj().decompress(chunk[start + flags :], _LARGEST_TEXT)) >= _LARGEST_TEXT
    return False


def jpeg_header_size(data: bytes) -> int:
    """Return the number of bytes before a JPEG's first scan, or all of them if its segments do not lead there."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        if data[at + 1] == 0xDA:  # start of scan
            return at
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")  # 0xFF fills gaps
    return len(data)
