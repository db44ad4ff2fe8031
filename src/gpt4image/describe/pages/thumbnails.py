"""Pictures beside the texts, by image id."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.compute as pc

from gpt4image.errors import ImageError
from gpt4image.images.table import ImageTable
from gpt4image.pages.thumbnails import thumbnail

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
