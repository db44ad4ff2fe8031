"""Test images to look at, beginning with those on which the descriptions changed the predictions most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
from scipy.special import softmax

from gpt4image.compare.predictions import Predictions
from gpt4image.compare.records import Answer, Gallery, GalleryItem, Group
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.images.table import ImageTable
from gpt4image.images.thumbnails import thumbnail

PER_GROUP = 9


def choose_gallery(images: ImageTable, descriptions: DescriptionSet, arms: Mapping[str, Predictions]) -> Gallery:
    """Choose images of each group, ranked by how much the arms differ in the probability of the true class.

    Args:
        arms: predictions of two arms with one seed, the reference before the candidate.
    """
    probabilities = {arm: softmax(found.logits.astype(np.float64), axis=1) for arm, found in arms.items()}  # [N, C]
    before, after = arms.values()
    of_label = np.arange(len(before.rows)), before.labels
    low, high = (chances[of_label] for chances in probabilities.values())
    members = {
        "mended": ~before.correct & after.correct,
        "broken": before.correct & ~after.correct,
        "both right": before.correct & after.correct,
        "both wrong": ~before.correct & ~after.correct,
    }
    order = np.argsort(-np.abs(high - low), kind="stable")
    items = []
    for group in get_args(Group):
        for at in [at for at in order if members[group][at]][:PER_GROUP]:
            row, label = int(before.rows[at]), int(before.labels[at])
            items.append(
                GalleryItem(
                    path=images.path(row),
                    thumbnail=thumbnail(images.image(row)),
                    label=images.classes[label],
                    description=descriptions.texts_of([images.ids[row].decode()])[0],
                    answers={arm: _answer(images, chances[at], label) for arm, chances in probabilities.items()},
                    group=group,
                )
            )
    return Gallery(items=items)


def _answer(images: ImageTable, probabilities: np.ndarray, label: int) -> Answer:
    best = int(probabilities.argmax())
    return Answer(answer=images.classes[best], probability=float(probabilities[best]), right=best == label)
