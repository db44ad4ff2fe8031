"""Listings: the images of a source before any of them is read."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.files import framed, start_digest
from gpt4image.core.format import counted
from gpt4image.core.tables import compose, is_missing
from gpt4image.images.boxes import GivenBox, RejectedBox, check_boxes, find_picture_size, to_box_columns
from gpt4image.images.clips import FrameChoice
from gpt4image.images.decode import MAX_PIXELS
from gpt4image.images.masks import to_mask_columns
from gpt4image.images.sources.label_sets import LabelSet, label_matrix, names_in
from gpt4image.images.splits import UNLABELLED
from gpt4image.images.table import ImageReader, RejectedImage, holds_label_sets, rows_with_label

CLOCK_TICK = 0.02
"""Seconds by which the times of two writes to a file may be equal: Linux stamps files by a clock of 4 to 10 ms."""


NUMBER = re.compile(r"-?\d+(\.\d+)?")

# Cells that stand for a missing label where classes have names; among classes of single characters they are classes.
PLACEHOLDER = re.compile(r"\?+|[-\u2013\u2014]+|\.+")


@dataclass(frozen=True)
class Listing:
    """The images of a source, unread.

    Attributes:
        rows: columns `path`, `label` (int32, or a list of C int8, see `ImageTable`), `split`, `row` (int64) and `key`
            (16 bytes that change when the image may have changed); in a set with boxes also `boxes` and `size`, with
            masks `mask` and `mask_id` as well.
        classes: class names.
        reader: reads bytes and text columns.
        bad: images that cannot be read.
        others: files and rows that are no images of the set.
        folders: whether the classes are folders.
        rejected_boxes: boxes that were left out.
        clipped_boxes: number of boxes that reached over the edge of their picture, and were cut off there.
        frames: which frames stand for each of them, if they are clips.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    reader: ImageReader
    bad: tuple[RejectedImage, ...] = ()
    others: tuple[RejectedImage, ...] = ()
    folders: bool = False
    rejected_boxes: tuple[RejectedBox, ...] = ()
    clipped_boxes: int = 0
    frames: FrameChoice | None = None

    @property
    def has_label_sets(self) -> bool:
        """Whether an image may have several labels."""
        return holds_label_sets(self.rows)

    @property
    def is_labelled(self) -> np.ndarray:
        """Which images have a label, bool [N]."""
        return rows_with_label(self.rows)

    def without_labels(self) -> Listing:
        """Return the same images as unlabelled training images."""
        rows = self.rows
        for name, value in (("label", pa.scalar(-1, pa.int32())), ("split", pa.scalar("train"))):
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.repeat(value, len(rows)))
        return replace(self, rows=rows, classes=())


@dataclass(frozen=True)
class ColumnNames:
    """The columns that the user names; None for those that are recognised by their usual names.

    `labelled` is False for a source of unlabelled images: all its images are training images, whatever labels and
    splits it holds. With a `separator` the label column holds several labels, and `flags` are columns of 0 and 1, one a
    class. `objects` asks for the boxes or the masks of objects, `frames` for clips with these frames. Masks and frames
    of more than `max_pixels` are not decoded.
    """

    image: str | None = None
    label: str | None = None
    labelled: bool = True
    separator: str | None = None
    flags: tuple[str, ...] = ()
    objects: Literal["", "boxes", "masks"] = ""
    frames: FrameChoice | None = None
    max_pixels: int = field(default=MAX_PIXELS, compare=False)


@dataclass
class ListingBuilder:
    """Collects the images of a source one by one."""

    images: list[tuple[str, str | LabelSet | None, str, int, bytes]] = field(default_factory=list)
    bad: list[RejectedImage] = field(default_factory=list)
    others: list[RejectedImage] = field(default_factory=list)
    rejected_boxes: list[RejectedBox] = field(default_factory=list)
    clipped_boxes: int = 0

    def add(self, path: str, label: str | LabelSet | None, split: str, row: int, key: bytes) -> None:
        """Add an image, with its class or all its labels; in the split `UNLABELLED` it has no label."""
        if split == UNLABELLED:
            label, split = None, "train"
        self.images.append((path, label, split, row, key))

    def add_with_boxes(
        self,
        path: str,
        file: Path,
        split: str,
        row: int,
        key: bytes,
        given: Iterable[GivenBox],
        annotated: tuple[int, int] | None = None,
    ) -> None:
        """Add an image with those of its boxes that can be used; one that has none from the start is a background.

        Args:
            path: the image, as the table calls it.
            file: where it is.
            split: its split.
            row: its position in the source.
            key: what changes when it may have changed.
            given: its boxes.
            annotated: width and height that the annotations give.
        """
        size, fault = find_picture_size(file, annotated)
        if fault:
            self.reject(path, fault)
            return
        if size is None:  # reading the images will report the error
            given, size = (), annotated or (1, 1)
        boxes, rejected, clipped = check_boxes(path, given, size)
        self.rejected_boxes += rejected
        self.clipped_boxes += clipped
        if rejected and not boxes.names:  # it shows an object, so it is not background
            self.reject(path, f"none of its boxes can be used ({rejected[0].where} {rejected[0].reason})")
            return
        names = set(boxes.names)
        absent = () if "" in names else None  # a box without a class may belong to any
        self.add(path, LabelSet(tuple(sorted(names - {""})), absent, boxes), split, row, key)

    def reject(self, path: str, reason: str) -> None:
        """Leave out an image that cannot be read."""
        self.bad.append(RejectedImage(path, reason))

    def ignore(self, path: str, reason: str) -> None:
        """Leave out something that is no image of the set."""
        self.others.append(RejectedImage(path, reason))

    @property
    def has_labels(self) -> bool:
        """Whether an image has a label, or there is no image."""
        return not self.images or any(label is not None for _, label, *_ in self.images)

    def listing(
        self, reader: ImageReader, *, by_number: bool = True, classes: tuple[str, ...] | None = None
    ) -> Listing:
        """Return the finished listing.

        Args:
            reader: reads its images.
            by_number: sort class names as numbers if all of them are.
            classes: the classes in their order, where the source has one.
        """
        paths, labels, splits, rows, keys = zip(*self.images, strict=True) if self.images else ((),) * 5
        if not any(isinstance(label, LabelSet) for label in labels):
            classes, codes = encode_labels(labels, by_number=by_number)
            table = to_rows(paths, codes, splits, rows, keys)
        else:
            if classes is None:
                classes, numbers = class_numbers(labels)
            else:
                numbers = {name: number for number, name in enumerate(classes)}
            table = to_rows(paths, label_matrix(labels, numbers, len(classes)), splits, rows, keys)
            boxes = [None if label is None else label.boxes for label in labels]
            masks = [None if label is None else label.mask for label in labels]
            columns = to_box_columns(boxes, numbers) if any(boxes) else {}
            for name, column in (columns | (to_mask_columns(masks) if any(masks) else {})).items():
                table = table.append_column(name, column)
        return Listing(
            table,
            classes,
            reader,
            tuple(self.bad),
            tuple(self.others),
            rejected_boxes=tuple(self.rejected_boxes),
            clipped_boxes=self.clipped_boxes,
        )


def to_rows(
    paths: Iterable[str], labels: np.ndarray, splits: Iterable[str], rows: Iterable[int], keys: Iterable[bytes]
) -> pa.Table:
    """Return the rows of a listing from their columns; `labels` are classes [N], or several an image [N, C]."""
    columns = {
        "path": pa.array(paths, pa.string()),
        "label": to_label_column(labels),
        "split": pa.array(splits, pa.string()),
        "row": pa.array(rows, pa.int64()),
        "key": pa.array(keys, pa.binary(16)),
    }
    return pa.table(columns)


def to_label_column(labels: np.ndarray) -> pa.Array:
    """Return the column `label` of classes [N], or of several labels an image [N, C]."""
    if labels.ndim == 1:
        return pa.array(labels, pa.int32())
    flat = pa.array(np.ascontiguousarray(labels, dtype=np.int8).ravel(), pa.int8())
    return pa.FixedSizeListArray.from_arrays(flat, labels.shape[1])


def encode_label_sets(values: Sequence[LabelSet | None]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names as `encode_labels` does, and which labels each image has, int8 [N, C].

    Raises:
        DataError: no image has a label.
    """
    classes, numbers = class_numbers(values)
    return classes, label_matrix(values, numbers, len(classes))


def class_numbers(values: Sequence[LabelSet | None]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names as `encode_labels` does, and the number of each name, -1 for one that is no class.

    Raises:
        DataError: no image has a label.
    """
    names = names_in(values)
    classes, codes = encode_labels(names)
    if not classes:
        raise DataError("No image has a label. Is this the right label column?")
    return classes, dict(zip(names, codes.tolist(), strict=True))


def read_label(value: object, where: str) -> str | None:
    """Return a cell as a class name, None if it is empty. DataError if it is not a single value."""
    if is_missing(value):
        return None
    if isinstance(value, (str, bool, int, float)):
        return str(value).strip()
    raise DataError(f"{where}: the label {value!r} is not a single name or number. An image has one label.")


def encode_labels(values: Sequence[str | None], *, by_number: bool = True) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, sorted, and each value's position among them, shape [N], int32, -1 for no label.

    None, the names of `is_unlabelled` and, among longer names, `?` and `-` are no labels.

    Args:
        values: the class name of each image, shape [N].
        by_number: sort the names as numbers if all of them are, and write whole ones without decimals.

    >>> encode_labels(["10", "9", None, "unlabelled"])[0]
    ('9', '10')
    """
    given = {value for value in set(values) if value is not None and not is_unlabelled(value)}
    if by_number and any(len(value) > 1 or value.isdecimal() for value in given if not PLACEHOLDER.fullmatch(value)):
        missing = {value for value in given if PLACEHOLDER.fullmatch(value)}
        for value, count in sorted(Counter(value for value in values if value in missing).items()):
            say(f"no label: {counted(count, 'image')} with {value!r} instead of a class", "yellow")
        given -= missing
    spelling = merge_spellings(given)
    if by_number and all(re.fullmatch(r"-?\d+(\.0+)?", name) for name in spelling.values()):
        spelling = {value: name.partition(".")[0] for value, name in spelling.items()}
    names = sorted(set(spelling.values()))
    if by_number and all(NUMBER.fullmatch(name) for name in names):
        names.sort(key=float)
    position = {name: number for number, name in enumerate(names)}
    codes = [-1 if value not in spelling else position[spelling[value]] for value in values]
    return tuple(names), np.array(codes, np.int32)


def is_unlabelled(name: str) -> bool:
    """Whether the name of a class folder or a cell means that there is no label.

    >>> is_unlabelled("_Unlabeled"), is_unlabelled("labelled")
    (True, False)
    """
    return name.strip().lstrip("_").casefold() in ("unlabelled", "unlabeled")


def merge_spellings(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the one spelling of its class: `1.0` to `1`, decomposed characters (NFD) to composed ones (NFC).

    pandas writes whole numbers as floats if one of them is missing, and macOS decomposes file names; part of a set is
    often written one way and part the other. A name that occurs in one spelling only stays as it is.

    >>> merge_spellings(["1", "1.0", "2.0"])
    {'1': '1', '1.0': '1', '2.0': '2.0'}
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"^(-?\d+)\.0+$", r"\1", compose(name)), []).append(name)
    return {name: key if len(group) > 1 else name for key, group in groups.items() for name in group}


def file_state(file: str | os.PathLike[str], status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes whenever a file is written: its size and its times of modification and of change, in ns.

    As git does for its index, size and times are trusted instead of reading the file again. The time of change cannot
    be set, so a file that was replaced by one of the same size and modification time is noticed too. A file that was
    written within the last tick of the clock may be written again in the same tick: it is looked at once the tick is
    over.

    Args:
        file: the file.
        status: what `stat` said of it.

    Raises:
        OSError: the file is gone since.
    """
    tick = 2.0 if status.st_ctime_ns % 1_000_000_000 == 0 else CLOCK_TICK  # some file systems count whole seconds
    age = time.time() - status.st_ctime_ns / 1e9
    if 0 <= age < tick:
        time.sleep(tick - age)
        status = os.stat(file)  # noqa: PTH116 - a path object for each of a million files takes longer than the call
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def keys_of(parts: Sequence[object], rows: Iterable[int]) -> Iterator[bytes]:
    """Yield the key of each row or place in a file; equal to `key_of(*parts, row)`."""
    seen = start_digest(map(str, parts))
    for row in rows:
        hasher = seen.copy()
        hasher.update(framed(str(row)))
        yield hasher.digest()


def key_of(*parts: object) -> bytes:
    """Return the 16-byte key of an unchanged image."""
    hasher = _seeded(tuple(map(str, parts[:-1]))).copy()
    hasher.update(framed(str(parts[-1])))
    return hasher.digest()


@lru_cache(maxsize=16)
def _seeded(parts: tuple[str, ...]) -> hashlib.blake2b:
    """Return the hasher that has seen the first parts of a key, which the images of a set share."""
    return start_digest(parts)
