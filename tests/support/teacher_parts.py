"""Teachers that count their views, and images as they see them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gpt4image.images.table import ImageTable


class CountingTeacher:
    """A real teacher that counts the views it computes."""

    def __init__(self, inner) -> None:
        self.inner, self.seen = inner, []
        self.name, self.revision, self.width = inner.name, inner.revision, inner.width
        self.classes, self.preparation = inner.classes, inner.preparation

    def predict(self, images: torch.Tensor) -> np.ndarray:
        self.seen.append(len(images))
        return self.inner.predict(images)


def pick(images: ImageTable, places) -> ImageTable:
    """Return a table of some of the rows, in that order."""
    return replace(images, rows=images.rows.take(places))


def prepare(images: ImageTable, places, transform) -> torch.Tensor:
    """Prepare images with a transform [n, 3, H, W]."""
    return torch.stack([transform(images.image(int(place))) for place in places])


def same_bytes(first, second) -> bool:
    """Return whether two stores, of vectors or of labels, have the same files."""
    files = [{path.name: path.read_bytes() for path in store.layout.folder.iterdir()} for store in (first, second)]
    return files[0] == files[1] != {}


def to_unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
