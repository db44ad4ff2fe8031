"""The annotated boxes of images as separate images, so that each object can be described."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import digest
from gpt4image.images.boxes import BOX_TYPE, Corners, clip_box
from gpt4image.images.decode import EncodedImage
from gpt4image.images.scan import image_id
from gpt4image.images.sources.listing import to_label_column
from gpt4image.images.table import ImageReader, ImageTable


def crop_images(images: ImageTable, margin: float) -> ImageTable:
    """Return the boxes of images as a table of images with one class each, in the splits of their images.

    Args:
        images: images with boxes.
        margin: the margin around the box, as a share of its longer side.

    Raises:
        ConfigError: the images have no boxes.
    """
    if not images.has_boxes:
        raise ConfigError(
            f"crops (--crops) need boxes, and {images.source} has none: set task (--task) to detection or segmentation."
        )
    columns: dict[str, list[object]] = {name: [] for name in ("id", "path", "label", "split", "row")}
    places: list[CropPlace] = []
    ids, paths, splits = images.ids, images.rows["path"].to_pylist(), images.rows["split"].to_pylist()
    source_rows = images.rows["row"].to_pylist()
    for at, boxes in enumerate(images.boxes()):
        if boxes is None:
            continue
        names = crop_ids(ids[at].decode(), boxes, margin)
        for number, (name, (label, *corners)) in enumerate(zip(names, boxes.tolist(), strict=True), 1):
            values = (name, f"{paths[at]}, box {number}", int(label), splits[at], len(places))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            places.append(CropPlace(paths[at], source_rows[at], ids[at].decode(), with_margin(corners, margin)))
    types = (pa.string(), pa.string(), pa.int32(), pa.string(), pa.int64())
    rows = pa.table({name: pa.array(column, kind) for (name, column), kind in zip(columns.items(), types, strict=True)})
    reader = CropReader(images.reader, tuple(places), images.max_pixels)
    return ImageTable(images.source, images.classes, rows, (), reader, images.max_pixels, derived=True)


def with_box_classes(images: ImageTable, labels: np.ndarray) -> ImageTable:
    """Return images with other box classes; an image's labels are the classes of its boxes.

    Args:
        images: images with boxes.
        labels: number of the class of each box in the order of `crop_images`, -1 if it is not known, int [n].
    """
    marks, start = images.label_matrix, 0
    rows: list[list[list[float]] | None] = []
    for mark, boxes in zip(marks, images.boxes(), strict=True):
        if boxes is None:
            rows.append(None)
            continue
        own = labels[start : start + len(boxes)]
        start += len(boxes)
        if len(boxes):
            mark[:] = -1 if (own < 0).any() else 0  # a box without a class may belong to any
            mark[own[own >= 0]] = 1
        rows.append(np.column_stack([own, boxes[:, 1:]]).tolist())
    table = images.rows
    for name, column in (("label", to_label_column(marks)), ("boxes", pa.array(rows, BOX_TYPE))):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at).with_type(column.type), column)
    return replace(images, rows=table)


def crop_ids(image_id: str, boxes: np.ndarray, margin: float) -> list[str]:
    """Return the ids of the crops of an image's boxes, float32 [k, 5]: they depend only on image, corners and margin.

    They do not depend on the class, so that a description stays valid when the class is corrected.
    """
    return [digest(image_id, f"{margin:g}", *(f"{edge:.2f}" for edge in row[1:])) for row in boxes.tolist()]


def with_margin(corners: Sequence[float], margin: float) -> Corners:
    """Return a box with a margin in shares of its longer side.

    >>> with_margin((10, 10, 30, 20), 0.1)
    (8.0, 8.0, 32.0, 22.0)
    """
    left, top, right, bottom = corners
    around = margin * max(right - left, bottom - top)
    return left - around, top - around, right + around, bottom + around


class CropPlace(NamedTuple):
    """Where a crop is: path and row of its image in the source, that image's id, and the crop's edges in pixels."""

    path: str
    row: int
    image_id: str
    corners: Corners


@dataclass(frozen=True)
class CropReader:
    """Reads crops of images, as PNG.

    Attributes:
        reader: reads the images.
        places: where each crop is.
        max_pixels: the largest width x height of an image that is decoded.
    """

    reader: ImageReader
    places: tuple[CropPlace, ...]
    max_pixels: int
    text_columns: tuple[str, ...] = ()

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of a crop. ImageError if its image cannot be read or has changed."""
        place = self.places[row]
        data = self.reader.read(place.path, place.row)
        if image_id(data) != place.image_id:
            raise ImageError(f"{place.path}: the file has changed since it was checked; run the command again.")
        image = EncodedImage(data, place.path, self.max_pixels)
        left, top, right, bottom = (round(edge) for edge in clip_box(place.corners, image.size))
        if right <= left or bottom <= top:
            raise ImageError(f"{path}: lies outside of the picture, which has {image.size[0]} x {image.size[1]} pixels")
        file = io.BytesIO()
        image.decode().crop((left, top, right, bottom)).save(file, "PNG")
        return file.getvalue()

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column; crops have none."""
        raise KeyError(column)
