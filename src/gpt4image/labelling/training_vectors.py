"""The training images with a vector in every store, and which of them share a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt4image.describe.quality.folds import link
from gpt4image.embed.store import EmbeddingStore
from gpt4image.errors import DescriptionError
from gpt4image.files import digest
from gpt4image.images.table import ImageTable
from gpt4image.labelling.calibration import blocks
from gpt4image.labelling.records import LabelSource


@dataclass(frozen=True)
class TrainingVectors:
    """The training images that have a vector in every store.

    Attributes:
        ids: image ids in rising order, S32 [n]; an image that lies in several classes comes once for each.
        labels: int [n], -1 where there is none.
        stores: where the vectors are.
        positions: positions of the images in each store, int64 [n] each.
    """

    ids: np.ndarray
    labels: np.ndarray
    stores: Sequence[EmbeddingStore]
    positions: Sequence[np.ndarray]

    def groups(self) -> np.ndarray:
        """Numbers of groups of images with the same id or a text in common, directly or in steps, int64 [n]."""
        owners, texts = [], []
        for store, positions in zip(self.stores, self.positions, strict=True):
            owner, rows = store.all_rows(positions)
            owners.append(owner)
            texts.append(np.load(store.layout.texts, mmap_mode="r")[rows])
        owner = np.concatenate(owners)
        _, first = np.unique(owner, return_index=True)
        return np.asarray(link(self.ids[owner], np.concatenate(texts))[first])

    def write(self, path: Path) -> np.ndarray:
        """Write the images' vectors, those of all stores side by side, float16 [n, D]; returns the memory map."""
        shape = (len(self.ids), sum(store.width for store in self.stores))
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for rows in blocks(np.arange(len(self.ids))):
            parts = [store.take(at[rows]) for store, at in zip(self.stores, self.positions, strict=True)]
            vectors[rows] = np.concatenate(parts, axis=1)
        return vectors


def gather(images: ImageTable, stores: Sequence[EmbeddingStore]) -> TrainingVectors:
    """Find the training images that have a vector in every store. DescriptionError when none with a label has."""
    rows = images.split("train")
    ids, labels = images.ids[rows], images.labels[rows]
    order = np.lexsort((labels, ids))
    ids, labels = ids[order], labels[order]
    positions = [store.find(ids) for store in stores]
    chosen = np.all([found >= 0 for found in positions], axis=0)
    chosen[1:] &= (ids[1:] != ids[:-1]) | (labels[1:] != labels[:-1])  # the same file twice counts once
    if not (labels[chosen] >= 0).any():
        raise DescriptionError(
            f"None of the {len(ids):,} training images of {images.source} has a label and a vector in "
            f"{', '.join(str(store.layout.folder) for store in stores)}. Describe and embed training images: "
            "gpt4image describe, gpt4image embed."
        )
    return TrainingVectors(ids[chosen], labels[chosen], stores, [found[chosen] for found in positions])


def source_of(store: EmbeddingStore) -> LabelSource:
    """What a store's vectors come from."""
    known = store.manifest
    return LabelSource(name=known.encoder, revision=known.revision, content=digest(known.text_hash, known.long_text))
