"""Descriptions joined to images by image id, with an account of what was covered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt4image.console import counted
from gpt4image.errors import StoreError
from gpt4image.files import atomic_write, digest
from gpt4image.images.table import SPLITS, ImageTable


@dataclass(frozen=True)
class Coverage:
    """How descriptions and images fit together.

    Attributes:
        with_text: images that have a text, by split.
        without_text: images that have none, by split; they train on cross-entropy alone.
        orphans: texts that fit no image.
        repeated: texts that stand on more than one distinct image.
        surplus: further texts of an image that has one already; the first is kept.
    """

    with_text: Mapping[str, int]
    without_text: Mapping[str, int]
    orphans: int
    repeated: int
    surplus: int

    def line(self) -> str:
        """The account in one line."""
        have, lack = sum(self.with_text.values()), sum(self.without_text.values())
        splits = ", ".join(
            f"{name} {self.with_text[name]:,}/{self.with_text[name] + self.without_text[name]:,}"
            for name in SPLITS
            if self.with_text[name] + self.without_text[name]
        )
        return (
            f"descriptions: {have:,} of {have + lack:,} images have a text ({splits}), {lack:,} have none; "
            f"{counted(self.orphans, 'text')} without an image, {counted(self.repeated, 'text')} on several images, "
            f"{counted(self.surplus, 'further text')} of an image that has one (not used)"
        )


@dataclass(frozen=True)
class DescriptionSet:
    """One text an image.

    Attributes:
        rows: columns `id` (image id, 32 hex digits, sorted, unique) and `text`.
        source: where the texts come from, as the user named it.
        coverage: how they fit the images.
    """

    rows: pa.Table
    source: str
    coverage: Coverage

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def text_hash(self) -> str:
        """Hash of all ids and texts: two sets with the same hash are the same."""
        return digest(*(part for row in self.pairs() for part in row))

    def pairs(self) -> Iterable[tuple[str, str]]:
        """All (image id, text)."""
        return zip(self.rows["id"].to_pylist(), self.rows["text"].to_pylist(), strict=True)

    def texts_of(self, ids: Iterable[str]) -> list[str | None]:
        """Texts of some images; None where there is none."""
        return [self._by_id.get(image_id) for image_id in ids]

    @cached_property
    def _by_id(self) -> dict[str, str]:
        return dict(self.pairs())

    def save(self, path: Path) -> None:
        """Write the texts as Parquet, atomically."""
        with atomic_write(path) as file:
            pq.write_table(self.rows, file)


def join_texts(images: ImageTable, found: Iterable[tuple[str, str]], orphans: int, source: str) -> DescriptionSet:
    """Make a description set of (image id, text) pairs; the first text of an image is kept, empty ones are left out."""
    texts: dict[str, str] = {}
    surplus = 0
    for image_id, text in found:
        if not text.strip():
            continue
        if texts.setdefault(image_id, text) != text:
            surplus += 1
    ordered = sorted(texts)
    rows = pa.table({"id": pa.array(ordered, pa.string()), "text": pa.array([texts[i] for i in ordered], pa.string())})
    return DescriptionSet(rows, source, measure_coverage(images, texts, orphans, surplus))


def measure_coverage(images: ImageTable, texts: Mapping[str, str], orphans: int, surplus: int) -> Coverage:
    """Count which images of which split have a text."""
    has_text = np.asarray([image_id in texts for image_id in images.rows["id"].to_pylist()], dtype=bool)
    counts = {name: has_text[images.split(name)] for name in SPLITS}
    return Coverage(
        with_text={name: int(has.sum()) for name, has in counts.items()},
        without_text={name: int((~has).sum()) for name, has in counts.items()},
        orphans=orphans,
        repeated=sum(count > 1 for count in Counter(texts.values()).values()),
        surplus=surplus,
    )


def read_descriptions(path: Path, images: ImageTable, source: str) -> DescriptionSet:
    """Read a saved description set back. StoreError names the file when it cannot be read."""
    try:
        rows = pq.read_table(path, columns=["id", "text"])
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read as descriptions: {error}") from None
    known = set(images.rows["id"].to_pylist())
    pairs = list(zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    fitting = [(image_id, text) for image_id, text in pairs if image_id in known]
    return join_texts(images, fitting, len(pairs) - len(fitting), source)
