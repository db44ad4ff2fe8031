"""Images to soft labels: the logits of a stronger classifier of the same classes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt4image.console import counted
from gpt4image.errors import ConfigError, StoreError
from gpt4image.files import exclusive
from gpt4image.images.table import ImageTable
from gpt4image.labelling.records import LabelOrigin, LabelSource
from gpt4image.labelling.soft_labels import LabelLayout, SoftLabels, check_temperature
from gpt4image.labelling.writing import finish_interrupted, replace_labels
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.embedding import BATCH_SIZE, hash_keys
from gpt4image.teachers.filling import Answers, OnBadImage, check_finite
from gpt4image.teachers.views import PreparedViews, ViewPlan, plan_views

SHOWN = 5
"""Classes that an error names, at most."""


def label_images(
    images: ImageTable,
    teacher: Teacher,
    folder: Path,
    *,
    splits: Sequence[str] = ("train",),
    batch_size: int = BATCH_SIZE,
    temperature: float = 1.0,
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
) -> SoftLabels:
    """Store a classifier's logits for images as soft labels, or open those that are already there.

    Knowledge distillation (Hinton et al., arXiv 1503.02531) with the teacher paid once. A teacher that was trained on
    these images is surer of them than of others: a temperature above 1 softens what it says. Each distinct image is
    answered once, as evaluation sees it; logits that the folder already holds are kept. A run that was killed goes on
    where it was and ends in the same bytes.

    Args:
        images: the images.
        teacher: gives logits for their classes, in any order.
        folder: where the labels lie.
        splits: splits whose images are meant.
        batch_size: images at a time.
        temperature: divides the logits where training asks for no other.
        workers: processes that prepare images. Changes speed alone.
        on_bad_image: an image that cannot be read any more is left out and said, to be tried again next time (`skip`),
            or stops the work (`fail`).

    Raises:
        ConfigError: the teacher gives features, or knows other classes; logits that are not finite; an unknown split;
            a temperature that is not above 0.
        DataError: there are no images in these splits.
        ImageError: an image cannot be read, where that is to stop the work; or none can.
    """
    columns = class_columns(teacher, images)
    check_temperature(temperature)
    layout = LabelLayout(folder)
    with exclusive(layout.lock, f"the soft labels in {folder}", wait=True):
        finish_interrupted(layout)
        earlier = open_if_same_classifier(layout, teacher, images.classes)
        plan = plan_views(images, splits, 1, 0, earlier.ids if earlier else ())
        answers = Answers(
            teacher=teacher,
            inputs=PreparedViews(images, plan, teacher.preparation),
            path=layout.scratch / "logits.npy",
            dtype="float32",
            blank=np.nan,
            finish=lambda found: check_finite(found, teacher)[:, columns],
            earlier=np.load(layout.logits, mmap_mode="r") if earlier else None,
            batch_size=batch_size,
            workers=workers,
            on_bad_image=on_bad_image,
        )
        labels = keep_or_write(answers, plan, layout, earlier, images.classes, temperature)
        shutil.rmtree(layout.scratch, ignore_errors=True)
    return labels


def class_columns(teacher: Teacher, images: ImageTable) -> np.ndarray:
    """Column of the teacher's logits for each class of the images, int64 [C].

    Raises:
        ConfigError: the teacher gives features, or its classes are others.
    """
    if teacher.classes is None:
        raise ConfigError(f"Teacher {teacher.name} gives features, not logits: embed_images stores them.")
    if set(teacher.classes) != set(images.classes):
        wrong = {
            "It does not know": sorted(set(images.classes) - set(teacher.classes)),
            "The images have no": sorted(set(teacher.classes) - set(images.classes)),
        }
        details = " ".join(f"{what}: {', '.join(names[:SHOWN])}." for what, names in wrong.items() if names)
        raise ConfigError(
            f"Teacher {teacher.name} was trained on other classes than those of {images.source}. {details} Take a "
            "teacher of the same classes, or the features of one: timm:MODEL."
        )
    return np.asarray([teacher.classes.index(name) for name in images.classes], dtype=np.int64)


def open_if_same_classifier(layout: LabelLayout, teacher: Teacher, classes: Sequence[str]) -> SoftLabels | None:
    """The labels in a folder if they are whole, by this teacher and of these classes."""
    try:
        there = SoftLabels(layout.folder)
    except StoreError:
        return None
    origin = there.manifest.origin
    known = [(source.name, source.revision) for source in origin.sources]
    same = (origin.kind, known, there.classes) == (
        "classifier",
        [(teacher.name, teacher.revision)],
        tuple(classes),
    )
    return there if same else None


def keep_or_write(
    answers: Answers,
    plan: ViewPlan,
    layout: LabelLayout,
    earlier: SoftLabels | None,
    classes: Sequence[str],
    temperature: float,
) -> SoftLabels:
    """The earlier labels where they are those wanted; else answer what is missing and write them anew."""
    if earlier and (earlier.manifest.origin, earlier.manifest.temperature) == (
        origin_of(answers.teacher, plan.ids),
        temperature,
    ):
        return earlier
    answers.fill(f"Label {counted(len(plan), 'image')}")
    rows, logits = answers.present(), np.load(answers.path, mmap_mode="r")
    ids = plan.ids[rows]
    found = logits if len(rows) == len(logits) else logits[rows]
    return replace_labels(layout, ids, found, classes, origin_of(answers.teacher, ids), temperature, None)


def origin_of(teacher: Teacher, ids: np.ndarray) -> LabelOrigin:
    """What decides a classifier's labels of some images."""
    source = LabelSource(name=teacher.name, revision=teacher.revision, content=hash_keys(ids))
    return LabelOrigin(kind="classifier", sources=(source,))
