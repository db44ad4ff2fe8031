"""Masks: the class of each pixel.

A mask is uint8 [H, W]: the number of a class, or `VOID` for unknown, in the upright picture.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gpt4image.core.errors import ImageError
from gpt4image.core.files import digest
from gpt4image.images.boxes import Corners
from gpt4image.images.decode import open_stored

VOID = 255
MOST_CLASSES = 255  # numbers from 0 to 254
BACKGROUND = "background"
LOSSY = ("JPEG", "MPO")
COLOUR = 1 << 24  # added to a colour, 0xRRGGBB, to distinguish it from an index
LEAST_REGION = 4  # smallest width and height of a region in pixels
MOST_REGIONS = 50  # regions kept per image, the largest first


class ReadMask(NamedTuple):
    """A mask file before its values are mapped to classes.

    Attributes:
        values: the V distinct values in it: an index, or `COLOUR` + 0xRRGGBB.
        places: which of them each pixel has, as PNG.
        palette: the colours 0xRRGGBB of indices that have one, by index.
        size: width and height.
    """

    values: tuple[int, ...]
    places: bytes
    palette: dict[int, int]
    size: tuple[int, int]


def is_background(name: str) -> bool:
    """Whether a class is the background, by its name."""
    return name.casefold() in (BACKGROUND, "0")


def encode_mask(mask: np.ndarray) -> bytes:
    """Return a mask uint8 [H, W] as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", compress_level=3)
    return file.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """Decode the result of `encode_mask`."""
    from PIL import Image

    found: np.ndarray = np.array(Image.open(io.BytesIO(data), formats=("PNG",)))
    return found


def read_mask_file(file: Path, max_pixels: int) -> ReadMask:
    """Read a mask of indices (grey or with a palette) or of colours.

    Args:
        file: the file.
        max_pixels: the largest width x height that is decoded.

    Raises:
        ImageError: it cannot be read or is not a mask; the message does not name the file.
    """
    try:
        image = open_stored(file.read_bytes(), "mask", max_pixels)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror or error})") from None
    except ImageError as error:
        raise ImageError(str(error).removeprefix("mask: ")) from None
    if image.format in LOSSY:
        raise ImageError(f"is a {image.format}, whose compression alters classes: save masks as PNG")
    palette: dict[int, int] = {}
    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
        pixels = np.asarray(image.convert("RGB"))
        numbers = np.full(pixels.shape[:2], COLOUR, np.int32)
        for channel, shift in enumerate((16, 8, 0)):
            numbers += pixels[..., channel].astype(np.int32) << shift
    elif image.mode == "LA":
        numbers = np.asarray(image)[..., 0]
    elif image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        numbers = np.asarray(image)
        given = (image.getpalette("RGB") or []) if image.mode == "P" else []
        palette = {at: (r << 16) + (g << 8) + b for at, (r, g, b) in enumerate(zip(*[iter(given)] * 3, strict=False))}
    else:
        raise ImageError(f"has the mode {image.mode}, which is neither indices nor colours")
    values = np.unique(numbers)
    if len(values) > MOST_CLASSES + 1:
        raise ImageError(f"has {len(values):,} different values, like a photo; a mask has one per class")
    flat = np.zeros(numbers.shape, np.uint8)  # filled by value: a table of positions would take eight times as much
    for place, value in enumerate(values):
        flat[numbers == value] = place
    used = {value: palette[value] for value in values.tolist() if value in palette}
    return ReadMask(tuple(values.tolist()), encode_mask(flat), used, image.size)


def number_mask(found: ReadMask, numbers: dict[int, int]) -> np.ndarray:
    """Map a read mask to class numbers, uint8 [H, W].

    Args:
        found: what was read.
        numbers: number of the class, or `VOID`, of each value.
    """
    table = np.array([numbers[value] for value in found.values], np.uint8)
    return np.asarray(table[decode_mask(found.places)])


def regions_of(mask: np.ndarray, without: Collection[int]) -> list[tuple[int, Corners]]:
    """Return class and box of the connected regions of a mask that are large enough, the largest first.

    Args:
        mask: uint8 [H, W].
        without: classes that have no regions, such as the background.
    """
    from scipy import ndimage

    found: list[tuple[int, int, Corners]] = []
    for label in np.unique(mask).tolist():
        if label == VOID or label in without:
            continue
        parts, count = ndimage.label(mask == label)
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:].tolist()
        for area, (rows, columns) in zip(areas, ndimage.find_objects(parts), strict=True):
            if min(rows.stop - rows.start, columns.stop - columns.start) >= LEAST_REGION:
                corners = tuple(map(float, (columns.start, rows.start, columns.stop, rows.stop)))
                found.append((-area, label, corners))  # type: ignore[arg-type]
    return [(label, corners) for _, label, corners in sorted(found)[:MOST_REGIONS]]


def to_mask_columns(masks: list[bytes | None]) -> dict[str, pa.Array]:
    """Return the columns `mask` and `mask_id` of a listing; null for images of which nothing is known."""
    ids = [None if mask is None else digest(mask) for mask in masks]
    return {"mask": pa.array(masks, pa.large_binary()), "mask_id": pa.array(ids, pa.string())}
