"""Objects in images: boxes with classes, checked against their picture.

Boxes are left, top, right and bottom in pixels of the picture as a person sees it, (0, 0) being its upper left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import ImageError
from gpt4image.core.tables import is_missing
from gpt4image.images.decode import picture_size

LEAST_INSIDE = 0.5  # a box with at least this share inside the image is clipped to it
LEAST_SIDE = 1.0  # pixels; a narrower box has nothing to learn from
BOX_TYPE = pa.list_(pa.list_(pa.float32(), 5))
SIZE_TYPE = pa.list_(pa.int32(), 2)
Corners = tuple[float, float, float, float]


class GivenBox(NamedTuple):
    """A box as given by the source.

    Attributes:
        name: name of its class; empty if unknown.
        corners: left, top, right and bottom in pixels.
        where: its place in the source, such as `annotation 12`.
        fault: why it cannot be used, if the source says so.
    """

    name: str
    corners: Corners
    where: str
    fault: str = ""


@dataclass(frozen=True)
class RejectedBox:
    """A box that was left out: its image, its place in the source, and why."""

    path: str
    where: str
    reason: str


@dataclass(frozen=True)
class Boxes:
    """The usable boxes of an image; none for a background image.

    Attributes:
        names: class of each; empty where it is not known.
        corners: each within the picture.
        size: width and height of the picture.
    """

    names: tuple[str, ...]
    corners: tuple[Corners, ...]
    size: tuple[int, int]


class CheckedBoxes(NamedTuple):
    """The result of checking an image's boxes.

    Attributes:
        boxes: the usable ones. rejected: those that were left out.
        clipped: boxes that reached over the edge, and were cut off there.
    """

    boxes: Boxes
    rejected: tuple[RejectedBox, ...]
    clipped: int


def check_boxes(path: str, given: Iterable[GivenBox], size: tuple[int, int]) -> CheckedBoxes:
    """Leave out invalid boxes and clip the others to the picture.

    Args:
        path: the image, for messages.
        given: its boxes.
        size: width and height of the picture.
    """
    kept: dict[tuple[str, Corners], None] = {}
    rejected, clipped = [], 0
    for box in given:
        inside, name = clip_box(box.corners, size), "" if is_missing(box.name) else box.name
        fault = box.fault or _fault(box, inside, size)
        if not fault and (name, inside) in kept:
            fault = "the same as another box"
        if fault:
            rejected.append(RejectedBox(path, box.where, fault))
            continue
        kept[name, inside] = None
        clipped += any(abs(a - b) > LEAST_SIDE for a, b in zip(inside, box.corners, strict=True))
    names, corners = zip(*kept, strict=True) if kept else ((), ())
    return CheckedBoxes(Boxes(tuple(names), tuple(corners), size), tuple(rejected), clipped)


def _fault(box: GivenBox, inside: Corners, size: tuple[int, int]) -> str:
    """Return why a box cannot be used; empty if it can."""
    if not all(map(math.isfinite, box.corners)):
        return "its corners are not finite numbers"
    if box_area(box.corners) <= 0:
        return "has no area"
    if box_area(inside) < LEAST_INSIDE * box_area(box.corners):
        return f"lies outside the picture, which has {size[0]} x {size[1]} pixels"
    if min(inside[2] - inside[0], inside[3] - inside[1]) < LEAST_SIDE:
        return "is less than a pixel wide or high"
    return ""


def clip_box(corners: Corners, size: tuple[int, int]) -> Corners:
    """Return the part of a box that lies in a picture of some width and height; NaN stays NaN.

    >>> clip_box((-2.0, 3.0, 9.0, 40.0), (8, 16))
    (0.0, 3.0, 8.0, 16.0)
    """
    left, top, right, bottom = (
        edge if math.isnan(edge) else min(max(edge, 0.0), float(size[at % 2])) for at, edge in enumerate(corners)
    )
    return left, top, right, bottom


def box_area(corners: Corners) -> float:
    """Return the area of a box in square pixels; 0 if its corners are the wrong way round."""
    left, top, right, bottom = corners
    return max(right - left, 0.0) * max(bottom - top, 0.0)


def find_picture_size(
    file: Path, annotated: tuple[int, int] | None, what: str = "boxes"
) -> tuple[tuple[int, int] | None, str]:
    """Return width and height of a picture, and why its annotations do not match it; empty if they do.

    A picture that cannot be opened has no size; reading the images says what is wrong with it.

    Args:
        file: the image file.
        annotated: width and height that the annotations give, None for none.
        what: what the annotations are, for messages.
    """
    try:
        upright, stored = picture_size(file)
    except (ImageError, OSError):
        return None, ""
    if annotated is None or annotated == upright:
        return upright, ""
    said, verb = f"{annotated[0]} x {annotated[1]} pixels", "was" if what == "mask" else "were"
    if annotated == stored:
        return upright, (
            f"its {what} {verb} drawn on {said}, before its EXIF orientation is applied: rotate the file itself, and "
            f"its {what}"
        )
    return upright, f"its {what} {verb} drawn on {said}, and the file has {upright[0]} x {upright[1]}"


def to_box_columns(boxes: Sequence[Boxes | None], numbers: dict[str, int]) -> dict[str, pa.Array]:
    """Return the columns `boxes` and `size` of a listing; null for images without annotations.

    Args:
        boxes: the boxes of each image.
        numbers: number of each class by its name, -1 for a name that is no class: such a box is left out.
    """
    rows = [
        None
        if each is None
        else [
            [float(number), *corners]
            for name, corners in zip(each.names, each.corners, strict=True)
            if (number := numbers.get(name, -1)) >= 0 or not name
        ]
        for each in boxes
    ]
    return {
        "boxes": pa.array(rows, BOX_TYPE),
        "size": pa.array([None if each is None else list(each.size) for each in boxes], SIZE_TYPE),
    }


def read_boxes(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """Return the column `boxes` as float32 [n, 5] an image: number of the class, -1 if unknown, then the corners.

    None for null.
    """
    found: list[np.ndarray | None] = []
    for chunk in column.chunks:
        known = chunk.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        values = chunk.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 5)
        parts = np.split(values, np.cumsum(lengths)[:-1]) if len(chunk) else []
        found += [part if there else None for part, there in zip(parts, known.tolist(), strict=True)]
    return found
