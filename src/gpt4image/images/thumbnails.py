"""Thumbnails that are part of the page itself, as `data:` URLs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from gpt4image.core.errors import ImageError
from gpt4image.images.table import ImageTable

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_PIXELS = 192

# Maps an image id to a thumbnail; None if the image can no longer be read.
Thumbnails = Callable[[str], str | None]

_URL = re.compile(r"data:image/(?:jpeg|png);base64,(?=.)(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def thumbnail(picture: Image.Image, pixels: int = THUMBNAIL_PIXELS) -> str:
    """Return a small JPEG as a `data:` URL. The picture, 8-bit RGB, is shrunk in place to this width and height."""
    picture.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def is_thumbnail(url: str) -> bool:
    """Whether a URL is a JPEG or PNG inside the page itself, and nothing else."""
    return _URL.fullmatch(url) is not None


def require_thumbnail(url: str | None) -> str | None:
    """Return the URL itself, or None. ValueError if it is anything but a picture inside the page."""
    if url is not None and not is_thumbnail(url):
        raise ValueError(f"a thumbnail must be a JPEG or PNG as a base64 data URL, not {url[:60]!r}")
    return url


def image_thumbnails(images: ImageTable) -> Thumbnails:
    """Return the thumbnails of the images of a table, read on demand."""

    def look_up(image_id: str) -> str | None:
        row = pc.index(images.rows["id"], image_id).as_py()
        if row < 0:
            return None
        try:
            return thumbnail(images.image(row))
        except ImageError:
            return None

    return look_up
