"""Pictures as a model receives them: upright, no larger than requested, in a format that every server accepts.

They contain only the visible content: EXIF (place, time, camera, thumbnail), XMP, comments and trailing data are
removed, without re-encoding the picture if nothing else has to change.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpt4image.core.errors import ImageError
from gpt4image.images.decode import MAX_PIXELS, decode, pillow_errors

# Formats that servers accept; a picture in one of them is not re-encoded if nothing has to change.
PASSED_THROUGH = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
JPEG_QUALITY = 90
EXIF_ORIENTATION = 0x0112
PNG_DEPTH = 24  # place of the bit depth in a PNG file

# Metadata that affects how the pixels look; the rest is removed.
_KEPT_SEGMENTS = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}  # JPEG, by marker
_KEPT_CHUNKS = frozenset(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP sBIT pHYs".split())  # PNG
_KEPT_PARTS = frozenset((b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L"))  # WebP
_METADATA_FLAGS = 0x0C  # in VP8X: the file has EXIF, has XMP
_NEXT_MARKER = re.compile(rb"\xff(?![\x00\xff\xd0-\xd7])")  # coded pixels hold stuffed zeros and restart markers only
_SCAN, _END, _COMMENT, _APPLICATIONS = 0xDA, 0xD9, 0xFE, range(0xE0, 0xF0)  # markers of JPEG


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture.

    Attributes:
        data: encoded bytes.
        media_type: `image/jpeg`, `image/png` or `image/webp`.
        width: in pixels.
        height: in pixels.
    """

    data: bytes
    media_type: str
    width: int
    height: int

    @property
    def data_url(self) -> str:
        """The picture as a `data:` URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def prepare_picture(data: bytes, name: str, max_side: int | None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Prepare an image file for a request.

    Args:
        data: the encoded file.
        name: image name for messages.
        max_side: longest side in pixels; larger images are scaled down, smaller ones are kept. None for no limit.
        max_pixels: maximum width x height that is decoded.

    Raises:
        ImageError: the image cannot be decoded.
    """
    return pass_through(data, max_side) or encode_jpeg(data, name, max_side, max_pixels)


def pass_through(data: bytes, max_side: int | None) -> Picture | None:
    """Return the file's own encoding if a server accepts it: small, upright, 8-bit, opaque, not animated."""
    from PIL import Image

    try:
        with pillow_errors(""), Image.open(io.BytesIO(data), formats=tuple(PASSED_THROUGH)) as image:
            rotated = image.getexif().get(EXIF_ORIENTATION, 1) != 1
            animated = getattr(image, "n_frames", 1) > 1
            deep = image.format == "PNG" and data[PNG_DEPTH] > 8  # Pillow reads colour of 16 bits as RGB
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data and not deep
            if rotated or animated or not plain or (max_side is not None and max(image.size) > max_side):
                return None
            return Picture(without_metadata(data, str(image.format)), PASSED_THROUGH[str(image.format)], *image.size)
    except ImageError:  # `encode_jpeg` decodes it and says what is wrong
        return None


def encode_jpeg(data: bytes, name: str, max_side: int | None, max_pixels: int) -> Picture:
    """Decode, scale down to `max_side` and encode as JPEG. Raise ImageError if the image cannot be decoded."""
    from PIL import Image

    picture = decode(data, name, max_pixels)
    if max_side is not None and max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), "image/jpeg", *picture.size)


def without_metadata(data: bytes, kind: str) -> bytes:
    """Return a file without metadata; its pixels and colour profile stay as they are.

    Args:
        data: the file.
        kind: `JPEG`, `PNG` or `WEBP`.

    Raises:
        ValueError, IndexError: the file is damaged.
    """
    if kind == "WEBP":
        body = b"".join(_webp_parts(data))
        return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body
    return b"".join(_jpeg_parts(data) if kind == "JPEG" else _png_parts(data))


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Yield the segments of a JPEG that are kept, up to the end of the picture (ITU T.81, annex B)."""
    yield data[:2]
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # any number of fill bytes may precede a marker
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise ValueError("no marker where a segment should begin")
        if marker == _END:
            yield data[at : at + 2]
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN:
            following = _NEXT_MARKER.search(data, end)
            if following is None:
                raise ValueError("the picture does not end")
            end = following.start()
        segment, at = data[at:end], end
        if marker == 0xE0 and segment[4:].startswith(_KEPT_SEGMENTS[marker]):
            yield segment[:2] + (16).to_bytes(2) + segment[4:16] + bytes(2)  # without its thumbnail
        elif marker in _APPLICATIONS:
            if segment[4:].startswith(_KEPT_SEGMENTS.get(marker, b"none")):
                yield segment
        elif marker != _COMMENT:
            yield segment


def _png_parts(data: bytes) -> Iterator[bytes]:
    """Yield the signature and the chunks of a PNG that are kept."""
    yield data[:8]
    at, name = 8, b""
    while name != b"IEND":
        size, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if len(data) < at + 12 + size:
            raise ValueError("the picture does not end")
        if name in _KEPT_CHUNKS:
            yield data[at : at + 12 + size]
        at += 12 + size


def _webp_parts(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a WebP that are kept."""
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError("the picture does not end")
    while at < end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk, at = data[at : at + 8 + size + size % 2], at + 8 + size + size % 2
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_METADATA_FLAGS]) + chunk[9:]
        if name in _KEPT_PARTS:
            yield chunk
