"""What a source holds, before any image is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from gpt4image.core.errors import DataError
from gpt4image.core.files import digest
from gpt4image.images.table import ImageReader, RejectedImage

Label = str | int | float | bool | None


@dataclass(frozen=True)
class Listing:
    """The images of a source, unread.

    Attributes:
        rows: columns `path`, `label` (int32), `split`, `row` (int64) and `key` (16 bytes that change when the
            image may have changed).
        classes: class names.
        reader: reads bytes and text columns.
        bad: images that cannot be had.
        others: what lies there and is no image of the set.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    reader: ImageReader
    bad: tuple[RejectedImage, ...] = ()
    others: tuple[RejectedImage, ...] = ()


@dataclass
class ListingBuilder:
    """Collects the images of a source one by one."""

    paths: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    bad: list[RejectedImage] = field(default_factory=list)
    others: list[RejectedImage] = field(default_factory=list)

    def add(self, path: str, label: Label, split: str, position: int, key: bytes) -> None:
        """Take one image in."""
        self.paths.append(path)
        self.labels.append(label)
        self.splits.append(split)
        self.positions.append(position)
        self.keys.append(key)

    def reject(self, path: str, reason: str) -> None:
        """Leave out an image that cannot be had."""
        self.bad.append(RejectedImage(path, reason))

    def ignore(self, path: str, reason: str) -> None:
        """Leave out what is no image of the set."""
        self.others.append(RejectedImage(path, reason))

    def listing(self, reader: ImageReader, classes: Sequence[str] | None = None) -> Listing:
        """The finished listing; without `classes` they are the sorted distinct labels."""
        classes, codes = encode_labels(self.labels, classes)
        rows = {
            "path": pa.array(self.paths, pa.string()),
            "label": pa.array(codes, pa.int32()),
            "split": pa.array(self.splits, pa.string()),
            "row": pa.array(self.positions, pa.int64()),
            "key": pa.array(self.keys, pa.binary(16)),
        }
        return Listing(pa.table(rows), tuple(classes), reader, tuple(self.bad), tuple(self.others))


def encode_labels(values: Sequence[Label], names: Sequence[str] | None = None) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and each value's position among them, shape [N], int32, -1 for None.

    Without `names` they are the sorted distinct values, sorted as numbers when all of them are.

    >>> encode_labels(["10", "9", None])[0]
    ('9', '10')
    """
    if names is None:
        names = sorted({str(value) for value in values if value is not None})
        if all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
            names.sort(key=float)
    position = {name: number for number, name in enumerate(names)}
    codes = [-1 if value is None else position[str(value)] for value in values]
    return tuple(names), np.array(codes, np.int32)


def key_of(*parts: object) -> bytes:
    """The 16 bytes that stand for an unchanged image."""
    return bytes.fromhex(digest(*map(str, parts)))


def unknown_text_column(column: str, known: Sequence[str]) -> DataError:
    """The error for a text column that a source does not have."""
    return DataError(f"There is no text column {column!r}. Text columns: {', '.join(known) or 'none'}.")
