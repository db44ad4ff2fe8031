"""Pictures as a model receives them: upright, no larger than requested, in a format that every server accepts."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from gpt4image.images.decode import MAX_PIXELS, decode

# Formats that servers accept: a file in one of them is sent unchanged if nothing has to change.
PASSED_THROUGH = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
JPEG_QUALITY = 90
EXIF_ORIENTATION = 0x0112
PNG_DEPTH = 24  # place of the bit depth in a PNG file


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
        max_side: longest side in pixels; larger images are scaled down, smaller ones are left. None for any size.
        max_pixels: maximum width x height that is decoded.

    Raises:
        ImageError: the image cannot be decoded.
    """
    return pass_through(data, max_side) or encode_jpeg(data, name, max_side, max_pixels)


def pass_through(data: bytes, max_side: int | None) -> Picture | None:
    """Return the file itself if a server can take it: small enough, upright, 8-bit, opaque, not animated."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=tuple(PASSED_THROUGH)) as image:
            rotated = image.getexif().get(EXIF_ORIENTATION, 1) != 1
            animated = getattr(image, "n_frames", 1) > 1
            deep = image.format == "PNG" and data[PNG_DEPTH] > 8  # Pillow reads colour of 16 bits as RGB
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data and not deep
            if rotated or animated or not plain or (max_side is not None and max(image.size) > max_side):
                return None
            return Picture(data, PASSED_THROUGH[str(image.format)], *image.size)
    except Exception:  # `encode_jpeg` decodes it and says what is wrong
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
