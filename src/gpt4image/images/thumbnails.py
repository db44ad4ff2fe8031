"""Small pictures that lie in the page itself."""

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


_ADDRESS = re.compile(
    r"data:image/(?:jpeg|png);base64,(?=.)(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
)


def thumbnail(picture: Image.Image) -> str:
    """A small JPEG as a `data:` address. The picture, 8-bit RGB, is made smaller in place."""
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def is_thumbnail(address: str) -> bool:
    """Whether an address is a JPEG or PNG inside the page itself, and nothing else."""
    return _ADDRESS.fullmatch(address) is not None


def require_thumbnail(address: str) -> str:
    """The address itself. ValueError when it is anything but a picture inside the page."""
    if not is_thumbnail(address):
        raise ValueError(f"a thumbnail must be a JPEG or PNG as a base64 data address, not {address[:60]!r}")
    return address


Thumbnails = Callable[[str], str | None]


"""From an image id to a small JPEG or PNG as a `data:` address; None where the image cannot be read any more."""


def image_thumbnails(images: ImageTable) -> Thumbnails:
    """Thumbnails of the images of a table, read when they are asked for."""

    def look_up(image_id: str) -> str | None:
        row = pc.index(images.rows["id"], image_id).as_py()
        if row < 0:
            return None
        try:
            return thumbnail(images.image(row))
        except ImageError:
            return None

    return look_up
