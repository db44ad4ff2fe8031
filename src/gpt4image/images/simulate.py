"""Take labels away or make them wrong, to see beforehand how a method would do with few or wrong labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from gpt4image.core.options import SimulationOptions
from gpt4image.images.table import ImageTable


def simulate_labels(images: ImageTable, options: SimulationOptions, seed: int) -> ImageTable:
    """Return the images with fewer or wrong labels.

    Copies of an image share their fate. First labels become wrong, then some are taken away.

    Args:
        images: the images.
        options: how many labels to keep, and how many to make wrong.
        seed: seed of both draws.
    """
    labels, classes = images.labels.copy(), len(images.classes)
    generator = np.random.default_rng(seed)
    unique, copy_of = np.unique(images.ids, return_inverse=True)
    wrong = (generator.random(len(unique)) < options.label_noise)[copy_of]
    steps = generator.integers(1, classes, len(unique))[copy_of] if options.noise_kind == "symmetric" else 1
    splits = np.asarray(images.rows["split"].to_pylist())
    noisy = np.where(labels >= 0, (labels + steps) % classes, -1)
    labels = np.where(wrong & (splits != "test"), noisy, labels)
    if options.labels_per_class is not None or options.label_share is not None:
        ranks = generator.permutation(len(unique))[copy_of]
        train = splits == "train"
        kept = np.zeros(len(labels), dtype=bool)
        kept[list(_kept(np.where(train, labels, -1), ranks, options))] = True
        labels = np.where(train & ~kept, -1, labels)
    column = images.rows.schema.get_field_index("label")
    return replace(images, rows=images.rows.set_column(column, "label", pa.array(labels, pa.int32())))


def _kept(labels: np.ndarray, ranks: np.ndarray, options: SimulationOptions) -> Iterator[int]:
    """Yield the rows whose label is kept: of each class the images of the lowest ranks."""
    for value in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == value)
        of_class = np.unique(ranks[rows])
        count = options.labels_per_class
        if count is None:
            count = max(1, round((options.label_share or 0) * len(of_class)))
        yield from rows[np.isin(ranks[rows], of_class[:count])].tolist()
