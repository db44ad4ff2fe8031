"""Simulate few, wrong or skewed labels, to see how a method would perform with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import SimulationOptions
from gpt4image.images.crops import crop_images, with_box_classes
from gpt4image.images.table import ImageTable

TAIL_STREAM = 1  # separates the draws of the long tail from those of labels


def simulate_labels(images: ImageTable, options: SimulationOptions, seed: int) -> ImageTable:
    """Return the images with fewer, wrong or skewed labels.

    Copies of an image are treated alike. First images are left out, then labels become wrong, then some are taken away.
    Of images with boxes the labels are the classes of boxes.

    Args:
        images: the images.
        options: how many labels to keep, and how many to make wrong.
        seed: seed of both draws.

    Raises:
        ConfigError: the images have masks; or boxes, and a long tail is asked for.
    """
    if not options.active:
        return images
    if images.has_masks:
        raise ConfigError(
            "Labels are simulated for whole images or boxes, and these images have masks: leave out label_share, "
            "labels_per_class, label_noise and long_tail (--label-share, --labels-per-class, --label-noise, "
            "--long-tail)."
        )
    if images.has_boxes:
        if options.long_tail is not None:
            raise ConfigError(
                "long_tail (--long-tail) needs images with one class each, and these have boxes: leave it out."
            )
        return with_box_classes(images, simulate_labels(crop_images(images, 0.0), options, seed).labels)
    if options.long_tail is not None:
        kept = draw_tail(images, options.long_tail, np.random.default_rng([seed, TAIL_STREAM]))
        images = replace(images, rows=images.rows.filter(kept).combine_chunks())
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


def draw_tail(images: ImageTable, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """Draw which images a long tail keeps, bool [N]; those of the test split and those without a label all stay.

    In each split the class of rank r, of C that occur, keeps a number of images proportional to ratio^(-r / (C - 1)),
    as many as the images allow and at least one (Cui et al., arXiv 1901.05555, section 5.1). The ranks are drawn.

    Args:
        images: the images.
        ratio: images of the largest class for one of the smallest, 1 or more.
        generator: draws ranks and images.
    """
    labels, splits = images.labels, np.asarray(images.rows["split"].to_pylist())
    unique, copy_of = np.unique(images.ids, return_inverse=True)
    order = generator.permutation(len(unique))[copy_of]
    rank_of = generator.permutation(len(images.classes))
    kept = np.ones(len(labels), dtype=bool)
    for split in ("train", "validation"):
        members = {
            value: np.flatnonzero((splits == split) & (labels == value)) for value in np.unique(labels[labels >= 0])
        }
        found = sorted((value for value, rows in members.items() if len(rows)), key=lambda value: rank_of[value])
        shares = ratio ** -(np.arange(len(found)) / max(len(found) - 1, 1))
        of_class = [np.unique(order[members[value]]) for value in found]
        scale = min((len(own) / share for own, share in zip(of_class, shares, strict=True)), default=0)
        for value, own, share in zip(found, of_class, shares, strict=True):
            rows = members[value]
            kept[rows] = np.isin(order[rows], own[: max(1, round(scale * share))])
    return kept
