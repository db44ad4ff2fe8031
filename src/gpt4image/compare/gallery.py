"""Test images to look at, starting with those whose predictions the descriptions changed most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np

from gpt4image.compare.records import Answer, Gallery, GalleryItem, Group
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.images.table import ImageTable
from gpt4image.images.thumbnails import thumbnail
from gpt4image.tasks import Predictions

PER_GROUP = 9


def choose_gallery(images: ImageTable, descriptions: DescriptionSet, arms: Mapping[str, Predictions]) -> Gallery:
    """Choose images of each group, ranked by how much the arms differ in the probability of the true label.

    Args:
        arms: predictions of two arms with one seed, the reference before the candidate.
    """
    before, after = arms.values()
    truths = before.truths(images.classes)
    answers = {arm: found.answers(images.classes) for arm, found in arms.items()}
    members = {
        "mended": ~before.correct & after.correct,
        "broken": before.correct & ~after.correct,
        "both right": before.correct & after.correct,
        "both wrong": ~before.correct & ~after.correct,
    }
    order = np.argsort(-np.abs(after.plausibility - before.plausibility), kind="stable")
    items = []
    for group in get_args(Group):
        for at in [at for at in order if members[group][at]][:PER_GROUP]:
            row = int(before.rows[at])
            items.append(
                GalleryItem(
                    path=images.path(row),
                    thumbnail=thumbnail(after.drawn_on(images.image(row), at)),
                    label=truths[at],
                    description=descriptions.texts_of([images.ids[row].decode()])[0],
                    answers={
                        arm: Answer(answer=given[at][0], probability=given[at][1], right=bool(arms[arm].correct[at]))
                        for arm, given in answers.items()
                    },
                    group=group,
                )
            )
    return Gallery(items=items)
