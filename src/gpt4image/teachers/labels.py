"""Images to soft labels: the logits of a stronger classifier of the same classes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import digest, exclusive
from gpt4image.core.format import counted
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import LabelQuality, fit_temperature, measure_quality
from gpt4image.soft_labels.store import (
    LabelLayout,
    LabelOrigin,
    LabelSource,
    SoftLabels,
    check_temperature,
    finish_interrupted,
    replace_labels,
)
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.embedding import BATCH_SIZE, hash_keys
from gpt4image.teachers.filling import Answers, OnBadImage, check_finite
from gpt4image.teachers.views import PreparedViews, ViewPlan, first_places, plan_places, plan_views


class HeldOut(NamedTuple):
    """Labelled validation images that lie in none of the splits that are labelled, each once.

    Attributes:
        places: positions in the table, int64 [n].
        labels: their classes, int32 [n].
        content: hash of their ids and classes; empty where there are none.
    """

    places: np.ndarray
    labels: np.ndarray
    content: str


def hold_out(images: ImageTable, splits: Sequence[str]) -> HeldOut:
    """Find them; none where validation images are labelled themselves."""
    places = images.split("validation")
    if len(places):
        places = first_places(images, ("validation",))
        labelled = images.ids[first_places(images, splits)]
        places = places[(images.labels[places] >= 0) & ~np.isin(images.ids[places], labelled)]
    labels = images.labels[places]
    return HeldOut(places, labels, digest(images.ids[places].tobytes(), labels.tobytes()) if len(places) else "")


def judge(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> tuple[float, LabelQuality]:
    """The temperature, fitted where none is given, and the quality at it.

    Args:
        logits: float [n, C], n above 0.
        labels: int [n].
        temperature: divides the logits.
    """
    chosen = fit_temperature(logits, labels) if temperature is None else temperature
    return chosen, measure_quality(logits, labels, chosen)


SHOWN = 5


"""Classes that an error names, at most."""


def label_images(
    images: ImageTable,
    teacher: Teacher,
    folder: Path,
    *,
    splits: Sequence[str] = ("train",),
    batch_size: int = BATCH_SIZE,
    temperature: float | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
) -> SoftLabels:
    """Store a classifier's logits for images as soft labels, or open those that are already there.

    Knowledge distillation (Hinton et al., arXiv 1503.02531) with the teacher paid once. Each distinct image is answered
    once, as evaluation sees it; logits that the folder already holds are kept. A run that was killed goes on where it
    was and ends in the same bytes.

    Args:
        images: the images.
        teacher: gives logits for their classes, in any order.
        folder: where the labels lie.
        splits: splits whose images are meant.
        batch_size: images at a time.
        temperature: divides the logits where training asks for no other. When not given: the one that fits the labelled
            validation images best, for a teacher is too sure of images that it was trained on; 1 where there are none,
            or where they are labelled too.
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
    if temperature is not None:
        check_temperature(temperature)
    layout = LabelLayout(folder)
    work = Labelling(images, teacher, layout, columns, batch_size, workers, on_bad_image)
    with exclusive(layout.lock, f"the soft labels in {folder}", wait=True):
        finish_interrupted(layout)
        labels = work.labels(splits, temperature)
        shutil.rmtree(layout.scratch, ignore_errors=True)
    return labels


@dataclass(frozen=True)
class Labelling:
    """A teacher at work on a folder of soft labels, whose lock is held.

    Attributes:
        images: the images.
        teacher: gives logits.
        layout: where the labels lie.
        columns: column of the logits for each class of the images, int64 [C].
        batch_size: images at a time.
        workers: processes that prepare images.
        on_bad_image: what is done about an image that cannot be read.
    """

    images: ImageTable
    teacher: Teacher
    layout: LabelLayout
    columns: np.ndarray
    batch_size: int
    workers: int
    on_bad_image: OnBadImage

    def labels(self, splits: Sequence[str], temperature: float | None) -> SoftLabels:
        """The labels of some splits: those that are there if they are the wanted ones, else written anew."""
        earlier = self._earlier()
        plan = plan_views(self.images, splits, 1, 0, earlier.ids if earlier else ())
        judges = hold_out(self.images, splits)
        if temperature is None and not len(judges.labels):
            temperature = 1.0
        fitted_to = judges.content if temperature is None else ""
        same = earlier is not None and earlier.manifest.origin == self._origin(plan.ids, fitted_to)
        if earlier and same and temperature in (None, earlier.manifest.temperature):
            return earlier
        rows, logits = self._answer(plan, "logits.npy", earlier)
        chosen, quality = self._judge(judges, temperature)
        ids, classes = plan.ids[rows], self.images.classes
        return replace_labels(self.layout, ids, logits, classes, self._origin(ids, fitted_to), chosen, quality)

    def _earlier(self) -> SoftLabels | None:
        try:
            there = SoftLabels(self.layout.folder)
        except StoreError:
            return None
        known, same = there.manifest.origin, self._origin(there.ids, there.manifest.origin.fitted_to)
        return there if (known, there.classes) == (same, self.images.classes) else None

    def _answer(self, plan: ViewPlan, name: str, earlier: SoftLabels | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the plan that have an answer, int64 [K], and the logits of these, float32 [K, C]."""
        answers = Answers(
            teacher=self.teacher,
            inputs=PreparedViews(self.images, plan, self.teacher.preparation),
            path=self.layout.scratch / name,
            dtype="float32",
            blank=np.nan,
            finish=lambda found: check_finite(found, self.teacher)[:, self.columns],
            earlier=np.load(earlier.layout.logits, mmap_mode="r") if earlier else None,
            batch_size=self.batch_size,
            workers=self.workers,
            on_bad_image=self.on_bad_image,
        )
        answers.fill(f"Label {counted(len(plan), 'image')}")
        rows, logits = answers.present(), np.load(answers.path, mmap_mode="r")
        return rows, logits if len(rows) == len(logits) else logits[rows]

    def _judge(self, judges: HeldOut, temperature: float | None) -> tuple[float, LabelQuality | None]:
        if not len(judges.labels):
            return temperature or 1.0, None
        plan = plan_places(self.images, judges.places)
        rows, logits = self._answer(plan, "validation.npy")
        return judge(logits, judges.labels[rows], temperature)

    def _origin(self, ids: np.ndarray, fitted_to: str) -> LabelOrigin:
        source = LabelSource(name=self.teacher.name, revision=self.teacher.revision, content=hash_keys(ids))
        return LabelOrigin(kind="classifier", sources=(source,), fitted_to=fitted_to)


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
