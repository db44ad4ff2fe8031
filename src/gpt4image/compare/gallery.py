"""Test images to look at: those whose answers the descriptions changed first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from scipy.special import softmax

from gpt4image.compare.records import Answer, Gallery, GalleryItem
from gpt4image.compare.test_answers import AnsweredTestSet
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.images.table import ImageTable
from gpt4image.images.thumbnails import thumbnail

Group = Literal["mended", "broken", "both right", "both wrong"]


PER_GROUP = 9


def choose_gallery(images: ImageTable, descriptions: DescriptionSet, answers: Mapping[str, AnsweredTestSet]) -> Gallery:
    """Choose images of each group, those on which the arms differ most in the right class's probability first.

    Args:
        images: the images.
        descriptions: their texts.
        answers: each arm's answers with one seed; the first arm is the reference, the second the candidate.
    """
    reference, candidate = answers.values()
    probabilities = {arm: softmax(found.logits.astype(np.float64), axis=1) for arm, found in answers.items()}
    own = np.arange(len(reference.rows)), reference.labels
    before, after = (chances[own] for chances in probabilities.values())
    was_right, is_right = (found.logits.argmax(axis=1) == found.labels for found in (reference, candidate))
    members = {
        "mended": ~was_right & is_right,
        "broken": was_right & ~is_right,
        "both right": was_right & is_right,
        "both wrong": ~was_right & ~is_right,
    }
    order = np.argsort(-np.abs(after - before), kind="stable")
    items = []
    for group in get_args(Group):
        for position in [i for i in order if members[group][i]][:PER_GROUP]:
            items.append(describe_item(images, descriptions, reference, probabilities, int(position), group))
    return Gallery(items=items)


def describe_item(
    images: ImageTable,
    descriptions: DescriptionSet,
    answers: AnsweredTestSet,
    probabilities: Mapping[str, np.ndarray],
    position: int,
    group: Group,
) -> GalleryItem:
    """One test image with its text and every arm's answer."""
    row, label = int(answers.rows[position]), int(answers.labels[position])
    image_id = images.ids[row].decode()
    return GalleryItem(
        path=images.path(row),
        thumbnail=thumbnail(images.image(row)),
        label=images.classes[label],
        description=descriptions.texts_of([image_id])[0],
        answers={arm: make_answer(images.classes, chances[position], label) for arm, chances in probabilities.items()},
        group=group,
    )


def make_answer(classes: tuple[str, ...], probabilities: np.ndarray, label: int) -> Answer:
    """The likeliest class of probabilities [C]."""
    best = int(probabilities.argmax())
    return Answer(answer=classes[best], probability=float(probabilities[best]), right=best == label)
