"""Images as a model sees them: upright, no larger than it looks, in a format that every server takes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from gpt4image.images.decode import MAX_PIXELS, decode

PASSED_THROUGH = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


"""Formats that servers take; such a file is sent as it is where nothing has to be changed."""


JPEG_QUALITY = 90


ORIENTATION = 0x0112


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
        """The picture as a `data:` address."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


def prepare_picture(data: bytes, name: str, max_side: int | None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Make an image file ready to be sent.

    Args:
        data: the encoded file.
        name: what messages call the image.
        max_side: longest side in pixels; a larger image is made smaller, a smaller one is left. None for any size.
        max_pixels: the largest width x height that is decoded.

    Raises:
        ImageError: the image cannot be decoded.
    """
    return pass_through(data, max_side) or encode_jpeg(data, name, max_side, max_pixels)


def pass_through(data: bytes, max_side: int | None) -> Picture | None:
    """The file itself where a server can take it as it is: small enough, upright, 8-bit, opaque, still."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=tuple(PASSED_THROUGH)) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            moving = getattr(image, "n_frames", 1) > 1
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data
            if turned or moving or not plain or (max_side is not None and max(image.size) > max_side):
                return None
            return Picture(data, PASSED_THROUGH[str(image.format)], *image.size)
    except Exception:  # what cannot be opened so simply is decoded, which says what is wrong with it
        return None


def encode_jpeg(data: bytes, name: str, max_side: int | None, max_pixels: int) -> Picture:
    """Decode, shrink to `max_side` and encode as JPEG. ImageError when the image cannot be decoded."""
    from PIL import Image

    picture = decode(data, name, max_pixels)
    if max_side is not None and max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), "image/jpeg", *picture.size)
