"""One table for every image source: ids, paths, labels and splits, and access to the encoded bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.tables import compose
from gpt4image.images.boxes import RejectedBox, read_boxes
from gpt4image.images.clips import FrameChoice, contact_sheet, spread, unpack_frames
from gpt4image.images.decode import MAX_PIXELS, EncodedImage, decode

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "validation", "test")

T = TypeVar("T")


def holds_label_sets(rows: pa.Table) -> bool:
    """Whether the column `label` of listed images holds several labels each."""
    return bool(pa.types.is_fixed_size_list(rows.schema.field("label").type))


def read_label_sets(rows: pa.Table) -> np.ndarray:
    """Return the column `label` of images with several labels each, int8 [N, C]."""
    size = rows.schema.field("label").type.list_size
    parts = [chunk.flatten().to_numpy().reshape(-1, size) for chunk in rows["label"].chunks]
    return np.concatenate(parts) if parts else np.empty((0, size), np.int8)


def rows_with_label(rows: pa.Table) -> np.ndarray:
    """Return which of listed images have a label, bool [N]."""
    if holds_label_sets(rows):
        return np.asarray((read_label_sets(rows) >= 0).any(axis=1))
    return np.asarray(rows["label"].to_numpy() >= 0)


class ImageReader(Protocol):
    """Reads the encoded bytes and the texts of an image set. Picklable: DataLoader workers carry it."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the source's columns that hold text."""
        ...

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image. ImageError names the image if they cannot be read."""
        ...

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return the values of one of `text_columns` for some source rows."""
        ...


@dataclass(frozen=True)
class RejectedImage:
    """An image that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageTable:
    """All usable images of a source.

    Attributes:
        source: the source as the user named it.
        classes: class names; a label is a position in this tuple.
        rows: one row an image with the columns `id` (32 hex digits, the 128-bit hash of the encoded bytes),
            `path` (relative to the source, or the name inside it), `label` (int32, -1 for none; in a set with several
            labels an image a list of C int8: 1 present, 0 absent, -1 unknown),
            `split` (one of `SPLITS`) and `row` (int64, position in the source). In a set with boxes the classes of an
            image are its labels, and there are the columns `boxes` (a list of float32 [5] a box: number of the class,
            -1 if it is not known, then left, top, right and bottom in pixels) and `size` (int32 [2], width
            and height); null where unknown.
            In a set with masks there are also `mask` (the class of each pixel as PNG, see `images.masks`) and `mask_id`
            (its hash), and the boxes are those of its regions.
        rejected: the images that were left out.
        reader: reads bytes and text columns.
        max_pixels: the largest width x height that `image` decodes.
        task: name of the task that the labels are for, in `gpt4image.tasks`.
        rejected_boxes: boxes that were left out.
        clipped_boxes: number of boxes that reached over the edge of their picture, and were cut off there.
        derived: whether the ids are no hashes of the bytes, as those of crops: the reader then checks what it reads.
        frames: which frames stand for each image, if they are clips; None for images that stand still.
    """

    source: str
    classes: tuple[str, ...]
    rows: pa.Table
    rejected: tuple[RejectedImage, ...]
    reader: ImageReader
    max_pixels: int = MAX_PIXELS
    task: str = "classification"
    rejected_boxes: tuple[RejectedBox, ...] = ()
    clipped_boxes: int = 0
    derived: bool = False
    frames: FrameChoice | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def ids(self) -> np.ndarray:
        """Ids as ASCII bytes, shape [N], dtype S32."""
        # Zero-copy from Arrow: 32 bytes each, one after the other.
        binary = self.rows["id"].cast(pa.binary()).cast(pa.binary(32))
        chunks = [np.frombuffer(chunk.buffers()[1], "S32", len(chunk), chunk.offset * 32) for chunk in binary.chunks]
        return np.concatenate(chunks) if chunks else np.empty(0, "S32")

    @property
    def labels(self) -> np.ndarray:
        """Labels, shape [N], dtype int32; -1 for none.

        Raises:
            DataError: images have several labels each.
        """
        self.check_one_class()
        return np.array(self.rows["label"].to_numpy(), dtype=np.int32)

    def check_one_class(self) -> None:
        """Raise DataError if images have several labels each; before anything is loaded that is of no use then."""
        if self.has_label_sets:
            kind, section = ("boxes", "Boxes") if self.has_boxes else ("several labels each", "Several labels")
            kind, section = ("masks", "Masks") if self.has_masks else (kind, section)
            raise DataError(
                f"{self.source}: images have {kind}, but this needs one class per image. For what works with them, "
                f"see {section} in the guide."
            )

    @property
    def is_labelled(self) -> np.ndarray:
        """Which images have a label, or of which one is known to be absent, bool [N]."""
        return rows_with_label(self.rows)

    @property
    def has_label_sets(self) -> bool:
        """Whether an image may have several labels."""
        return holds_label_sets(self.rows)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, and nothing more is known of it: its objects have no boxes."""
        return self.has_label_sets and not self.has_boxes

    @property
    def has_boxes(self) -> bool:
        """Whether the objects in the images have boxes."""
        return "boxes" in self.rows.schema.names

    @property
    def has_masks(self) -> bool:
        """Whether the class of each pixel is known."""
        return "mask" in self.rows.schema.names

    def masks(self, rows: np.ndarray) -> list[bytes | None]:
        """Return the masks of some images (positions int64 [n]) as PNG, see `images.masks`; None where unknown."""
        found: list[bytes | None] = self.rows["mask"].take(pa.array(rows)).to_pylist()
        return found

    def boxes(self, rows: np.ndarray | None = None) -> list[np.ndarray | None]:
        """Return the boxes of some images (positions int64 [n]) or of all; None where nothing is known.

        Returns:
            For each image float32 [k, 5]: the number of the class, -1 if it is not known, then left, top, right and
            bottom in pixels.
        """
        column = self.rows["boxes"]
        return read_boxes(column if rows is None else column.take(pa.array(rows)))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return width and height of some images of a set with boxes, int32 [n, 2]; 1 where they are not known."""
        sizes = self.rows["size"].take(pa.array(rows)).to_pylist()
        return np.array([size or (1, 1) for size in sizes], np.int32).reshape(-1, 2)

    @property
    def classes_in_prompts(self) -> np.ndarray:
        """The class that a prompt can name, int32 [N]; -1 for none, as where images have several labels."""
        return np.full(len(self), -1, np.int32) if self.has_label_sets else self.labels

    @property
    def label_matrix(self) -> np.ndarray:
        """Which labels each image has, int8 [N, C]: 1 present, 0 absent, -1 unknown."""
        if self.has_label_sets:
            return read_label_sets(self.rows)
        labels = self.labels[:, None]
        return np.where(labels < 0, -1, labels == np.arange(len(self.classes))).astype(np.int8)

    def classes_among(self, chosen: np.ndarray) -> list[int]:
        """Return the classes that occur among chosen images, bool [N], in order."""
        if self.has_label_sets:
            return np.flatnonzero((self.label_matrix[chosen] > 0).any(axis=0)).tolist()
        labels = np.unique(self.labels[chosen])
        return [int(label) for label in labels[labels >= 0]]

    def with_classes(self, names: Sequence[str]) -> ImageTable:
        """Return the table with named classes, sorted; labels keep their class.

        Raises:
            DataError: an image has a label that is not among the names.
        """
        classes = tuple(sorted(map(compose, names)))
        places = pc.index_in(pa.array(self.classes, pa.string()), pa.array(classes))
        labels = places.take(pa.array(self.labels, mask=self.labels < 0))
        unknown = np.flatnonzero((self.labels >= 0) & labels.is_null().to_numpy(zero_copy_only=False))
        if len(unknown):
            first = int(unknown[0])
            raise DataError(
                f"{self.path(first)} has the label {self.label_of(first)!r}, which the file of classes lacks."
            )
        column = self.rows.schema.get_field_index("label")
        filled = pc.fill_null(labels, -1).cast(pa.int32())
        return replace(self, classes=classes, rows=self.rows.set_column(column, "label", filled))

    def label_name(self, label: int | Sequence[int]) -> str | None:
        """Return a value of the column `label` in words; None if it says nothing."""
        if isinstance(label, int):
            return self.classes[label] if label >= 0 else None
        names = [name for name, mark in zip(self.classes, label, strict=True) if mark > 0]
        return ", ".join(names) or ("none" if 0 in label else None)

    def label_of(self, index: int) -> str | None:
        """Return the class of an image, or its labels; None if it has none."""
        return self.label_name(self.rows["label"][index].as_py())

    def split(self, name: str) -> np.ndarray:
        """Return the positions in the table of the images of a split, shape [n], dtype int64."""
        return np.flatnonzero(pc.equal(self.rows["split"], name).to_numpy())

    def class_counts(self) -> np.ndarray:
        """Return the number of images by class and split, shape [C + 1, 3], in the order of `classes` and `SPLITS`.

        The last row counts the images without a label. An image with several labels counts in each of its classes.
        """
        counts = np.zeros((len(self.classes) + 1, len(SPLITS)), np.int64)
        splits = pc.index_in(self.rows["split"], pa.array(SPLITS)).to_numpy()
        if not self.has_label_sets:
            np.add.at(counts, (self.labels, splits), 1)  # label -1 is the last row
            return counts
        present, labelled = self.label_matrix > 0, self.is_labelled
        for number in range(len(SPLITS)):
            counts[:-1, number] = present[splits == number].sum(axis=0)
            counts[-1, number] = (~labelled[splits == number]).sum()
        return counts

    def path(self, index: int) -> str:
        """Return the path of an image as the source names it."""
        return str(self.rows["path"][index].as_py())

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image. ImageError names the image if they cannot be read."""
        return self.reader.read(self.path(index), self.rows["row"][index].as_py())

    def read_frames(self, index: int) -> list[bytes]:
        """Return the encoded frames of a clip, up to T different ones in the order of time.

        Raises:
            ImageError: names the clip if they cannot be read, or if it has changed since it was checked.
        """
        path = self.path(index)
        clip_id, frames = unpack_frames(self.read(index), path)
        if clip_id != self.rows["id"][index].as_py():
            raise ImageError(f"{path}: the file has changed since it was checked; run the command again.")
        return frames

    def image(self, index: int) -> Image.Image:
        """Return the picture as a person would see it, in 8-bit RGB; of a clip its frames side by side."""
        if self.frames is not None:
            return contact_sheet([decode(frame, self.path(index)) for frame in self.read_frames(index)])
        return decode(self.read(index), self.path(index), self.max_pixels)

    def encoded_frames(self, index: int) -> list[EncodedImage]:
        """Return the different frames of a clip, up to T, before they are decoded."""
        return [EncodedImage(frame, self.path(index), self.max_pixels) for frame in self.read_frames(index)]

    def over_frames(self, index: int, make: Callable[[EncodedImage], T]) -> list[T]:
        """Return what a function makes of each of a clip's T frames; a short clip has some several times in a row."""
        assert self.frames is not None
        return spread([make(frame) for frame in self.encoded_frames(index)], self.frames.count)

    def encoded(self, index: int) -> EncodedImage:
        """Return the picture before it is decoded."""
        path = self.path(index)
        return EncodedImage(self.reader.read(path, self.rows["row"][index].as_py()), path, self.max_pixels)

    def texts(self, column: str) -> list[str | None]:
        """Return a text column of the source, shape [N]. DataError lists the columns if it is unknown."""
        if column not in self.reader.text_columns:
            known = ", ".join(self.reader.text_columns) or "none"
            raise DataError(f"There is no text column {column!r}. Text columns: {known}.")
        return self.reader.texts(column, self.rows["row"].to_pylist())
