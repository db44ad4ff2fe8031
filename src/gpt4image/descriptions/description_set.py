"""Descriptions joined to images by image id, with an account of what was covered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt4image.core.console import counted
from gpt4image.core.errors import ConfigError, DescriptionError, StoreError
from gpt4image.core.files import atomic_write, digest
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.latest import to_keys
from gpt4image.images.table import SPLITS, ImageTable


@dataclass(frozen=True)
class Coverage:
    """How descriptions and images fit together.

    Attributes:
        with_text: images that have a text, by split.
        without_text: images that have none, by split; they train on cross-entropy alone.
        orphans: texts that fit no image.
        repeated: texts that stand on more than one distinct image.
        texts: number of texts that belong to an image.
        most_texts: the largest number of texts of one image.
    """

    with_text: Mapping[str, int]
    without_text: Mapping[str, int]
    orphans: int
    repeated: int
    texts: int
    most_texts: int

    def line(self) -> str:
        """The account in one line."""
        have, lack = sum(self.with_text.values()), sum(self.without_text.values())
        splits = ", ".join(
            f"{name} {self.with_text[name]:,}/{self.with_text[name] + self.without_text[name]:,}"
            for name in SPLITS
            if self.with_text[name] + self.without_text[name]
        )
        several = f"{self.texts:,} texts, up to {self.most_texts:,} an image; " if self.most_texts > 1 else ""
        return (
            f"descriptions: {have:,} of {have + lack:,} images have a text ({splits}), {lack:,} have none; {several}"
            f"{counted(self.orphans, 'text')} without an image, {counted(self.repeated, 'text')} on several images"
        )


@dataclass(frozen=True)
class DescriptionSet:
    """The texts of images, one or several each. Its length is the number of images that have one.

    Attributes:
        rows: columns `id` (image id, 32 hex digits, sorted, as often as the image has texts) and `text`; the texts of
            an image are distinct and in the order in which they were found.
        source: where the texts come from, as the user named it.
        coverage: how they fit the images.
    """

    rows: pa.Table
    source: str
    coverage: Coverage

    def __len__(self) -> int:
        return len(self._first_texts)

    @property
    def texts(self) -> int:
        """Number of texts, at least that of the images."""
        return int(self.rows.num_rows)

    @cached_property
    def text_hash(self) -> str:
        """Hash of all ids and texts: two sets with the same hash are the same."""
        return digest(*(part for row in self.pairs() for part in row))

    def pairs(self) -> Iterable[tuple[str, str]]:
        """All (image id, text)."""
        return zip(self.rows["id"].to_pylist(), self.rows["text"].to_pylist(), strict=True)

    def texts_of(self, ids: Iterable[str]) -> list[str | None]:
        """One text to show for each of some images, the first it has; None where there is none."""
        return [self._first_texts.get(image_id) for image_id in ids]

    @cached_property
    def _first_texts(self) -> dict[str, str]:
        return dict(reversed(list(self.pairs())))

    def save(self, path: Path) -> None:
        """Write the texts as Parquet, atomically."""
        with atomic_write(path) as file:
            pq.write_table(self.rows, file)


def join_texts(images: ImageTable, found: Iterable[tuple[str, str]], orphans: int, source: str) -> DescriptionSet:
    """Make a description set of (image id, text) pairs; empty texts and repeats for the same image are left out."""
    distinct = dict.fromkeys((image_id, text) for image_id, text in found if text.strip())
    pairs = sorted(distinct, key=itemgetter(0))
    ids, texts = ([pair[column] for pair in pairs] for column in (0, 1))
    rows = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    return DescriptionSet(rows, source, measure_coverage(images, pairs, orphans))


def measure_coverage(images: ImageTable, pairs: Sequence[tuple[str, str]], orphans: int) -> Coverage:
    """Count which images of which split have a text, and how many; `pairs` are distinct (image id, text)."""
    texts_of = Counter(image_id for image_id, _ in pairs)
    has_text = np.asarray([image_id in texts_of for image_id in images.rows["id"].to_pylist()], dtype=bool)
    counts = {name: has_text[images.split(name)] for name in SPLITS}
    return Coverage(
        with_text={name: int(has.sum()) for name, has in counts.items()},
        without_text={name: int((~has).sum()) for name, has in counts.items()},
        orphans=orphans,
        repeated=sum(images_with > 1 for images_with in Counter(text for _, text in pairs).values()),
        texts=len(pairs),
        most_texts=max(texts_of.values(), default=0),
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


class ImageLookup:
    """Finds images by id.

    Args:
        images: the images.

    Attributes:
        images: the images.
        rows: positions in the table of the distinct images, int64 [n]; of copies the first.
    """

    def __init__(self, images: ImageTable) -> None:
        self.images = images
        self._ids, self.rows = np.unique(images.ids, return_index=True)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Positions in the table of images by id, int64 [N]; -1 where there is none."""
        keys = to_keys(ids)
        if not len(self._ids):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._ids, keys), len(self._ids) - 1)
        return np.where(self._ids[at] == keys, self.rows[at], -1).astype(np.int64)

    def facts(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Path, name of the class and split of the images at positions [N]."""
        taken = self.images.rows.select(["path", "split"]).take(pa.array(rows))
        labels = self.images.labels[rows]
        names = pa.array(self.images.classes, pa.string()).take(pa.array(labels, mask=labels < 0))
        return {
            "path": taken["path"].combine_chunks(),
            "label": names,
            "split": taken["split"].combine_chunks(),
        }

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each image of the table, [N]."""
        return np.asarray(self.images.rows["split"].to_numpy(), dtype=str)


ORDER = ("image_id", "prompt", "prompt_hash", "model", "sample", "key")


SCHEMA = pa.schema({**dict.fromkeys(ORDER, pa.string()), "sample": pa.int32(), "text": pa.large_string()})


PAIRS_AT_ONCE = 65_536


def described_set(
    store: DescriptionStore, images: ImageTable, *, prompts: Sequence[str] = (), models: Sequence[str] = ()
) -> DescriptionSet:
    """The texts of a store for some images, in the order of prompt, model and sample; dropped ones are left out.

    Args:
        store: the descriptions.
        images: the images. Texts of others are counted as orphans.
        prompts: names of the prompts whose texts are wanted; none for all.
        models: names of the models whose texts are wanted; none for all.

    Raises:
        ConfigError: no text has that prompt or model; the message lists those that there are.
        DescriptionError: the store holds no text.
    """
    texts = pa.Table.from_batches(answered_batches(store), SCHEMA)
    if not len(texts):
        raise DescriptionError(f"{store.folder} holds no descriptions. Write some: gpt4image describe.")
    chosen = np.ones(len(texts), dtype=bool)
    for column, wanted in (("prompt", prompts), ("model", models)):
        check_names(column, wanted, pc.unique(texts[column]).to_pylist())
        if wanted:
            chosen &= pc.is_in(texts[column], pa.array(wanted, pa.string())).to_numpy()
    there = ImageLookup(images).find(texts["image_id"]) >= 0
    pairs = ordered_pairs(texts, chosen & there)
    return join_texts(images, pairs, int((chosen & ~there).sum()), f"descriptions of {store.folder.parent}")


def ordered_pairs(texts: pa.Table, wanted: np.ndarray) -> Iterator[tuple[str, str]]:
    """(image id, text) of the wanted rows, bool [N], in order; a few texts at a time become objects."""
    order = pc.sort_indices(texts.select(ORDER), [(column, "ascending") for column in ORDER]).to_numpy()
    order = order[wanted[order]]
    for start in range(0, len(order), PAIRS_AT_ONCE):
        part = texts.take(pa.array(order[start : start + PAIRS_AT_ONCE]))
        yield from zip(part["image_id"].to_pylist(), part["text"].to_pylist(), strict=True)


def answered_batches(store: DescriptionStore) -> Iterator[pa.RecordBatch]:
    """The texts that count, with what chooses and orders them."""
    for batch in store.current_batches():
        yield batch.filter(batch["error"].is_null()).select(SCHEMA.names).cast(SCHEMA)


def check_names(what: str, wanted: Iterable[str], known: list[str]) -> None:
    """ConfigError for a name that no text has."""
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{unknown_name(what, name, known)} These are what the descriptions have.")
