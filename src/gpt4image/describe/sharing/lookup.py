"""Where the images of many descriptions stand in the image table, found without a Python object an image."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from gpt4image.describe.store.latest import to_keys
from gpt4image.images.table import ImageTable


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
