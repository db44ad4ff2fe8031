"""What the tests of teachers share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gpt4image.images.table import ImageTable


class CountingTeacher:
    """A real teacher that counts the views it is shown."""

    def __init__(self, inner) -> None:
        self.inner, self.seen = inner, []
        self.name, self.revision, self.width = inner.name, inner.revision, inner.width
        self.classes, self.preparation = inner.classes, inner.preparation

    def predict(self, images: torch.Tensor) -> np.ndarray:
        self.seen.append(len(images))
        return self.inner.predict(images)


def pick(images: ImageTable, places) -> ImageTable:
    """A table of some of the rows, in that order."""
    return replace(images, rows=images.rows.take(places))


def pictures(images: ImageTable, places, transform) -> torch.Tensor:
    """Images as a transform prepares them [n, 3, H, W]."""
    return torch.stack([transform(images.image(int(place))) for place in places])


def at_length_1(vectors) -> np.ndarray:
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
