"""Soft labels of images: the logits of a stronger classifier of the same classes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest, exclusive
from gpt4image.core.format import counted
from gpt4image.core.tables import compose
from gpt4image.images.load import OnBadImage
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import LabelQuality, fit_temperature, measure_quality
from gpt4image.soft_labels.store import (
    LabelLayout,
    LabelOrigin,
    LabelSource,
    SoftLabels,
    check_temperature,
    finish_interrupted,
    open_if_complete,
    replace_labels,
)
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.filling import BATCH_SIZE, Loading, Outputs, check_finite
from gpt4image.teachers.views import PreparedViews, ViewPlan, find_places, hash_keys, plan_views, seeing

SHOWN = 5  # classes that a message lists, at most


def label_images(
    images: ImageTable,
    teacher: Teacher,
    folder: str | Path,
    *,
    splits: Sequence[str] = ("train",),
    batch_size: int = BATCH_SIZE,
    temperature: float | None = None,
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
) -> SoftLabels:
    """Store a classifier's logits of images as soft labels, or open those that already exist.

    This is knowledge distillation (Hinton et al., arXiv 1503.02531) with the teacher run only once. Each distinct image
    is computed once, as evaluation sees it; logits that the folder already holds are kept. An interrupted run resumes
    and gives the same bytes.

    Args:
        images: the images.
        teacher: returns logits for their classes, in any order.
        folder: folder of the labels.
        splits: splits whose images are labelled.
        batch_size: images per batch.
        temperature: divides the logits, unless training sets another. By default the temperature that fits the labelled
            validation images best, since a teacher is overconfident on images that it was trained on; 1 if there are
            none, or if they are among the images to label.
        workers: processes that prepare images; they affect only the speed.
        on_bad_image: skip an unreadable image with a warning, and try it again next time (`skip`), or stop (`fail`).

    Raises:
        ConfigError: the teacher returns features, has other classes or returns logits that are not finite; a split is
            unknown; or the temperature is not above 0.
        DataError: there are no images in these splits.
        ImageError: an image is unreadable, with `on_bad_image` "fail"; or all are.
    """
    folder = Path(folder)
    teacher = seeing(teacher, images)
    columns = class_columns(teacher, images)
    if temperature is not None:
        check_temperature(temperature)
    layout = LabelLayout(folder)
    labelling = _Labelling(images, teacher, layout, columns, Loading(batch_size, workers, on_bad_image))
    with exclusive(layout.lock, f"the soft labels in {folder}", wait=True):
        finish_interrupted(layout)
        labels = labelling.labels(splits, temperature)
        shutil.rmtree(layout.scratch, ignore_errors=True)
    return labels


@dataclass(frozen=True)
class _Labelling:
    """Labels images into a folder whose lock the caller holds; `columns` are those of `class_columns`."""

    images: ImageTable
    teacher: Teacher
    layout: LabelLayout
    columns: np.ndarray
    loading: Loading

    def labels(self, splits: Sequence[str], temperature: float | None) -> SoftLabels:
        """Label the images of splits, or open the labels in the folder if they match."""
        earlier = self._open_earlier()
        plan = plan_views(self.images, find_places(self.images, splits), stored=earlier.ids if earlier else ())
        held_out = find_held_out(self.images, splits)
        given = self.images.labels[held_out]
        if temperature is None and not len(held_out):
            temperature = 1.0
        fitted_to = digest(self.images.ids[held_out].tobytes(), given.tobytes()) if temperature is None else ""
        same = earlier is not None and earlier.manifest.origin == self._origin(plan.ids, fitted_to)
        if earlier and same and temperature in (None, earlier.manifest.temperature):
            return earlier
        rows, logits = self._predict(plan, "logits.npy", earlier)
        quality: LabelQuality | None = None
        if len(held_out):
            # the plan keeps the order of the held-out images, so its rows are also rows of `given`
            known, judged = self._predict(plan_views(self.images, held_out), "validation.npy")
            if temperature is None:
                temperature = fit_temperature(judged, given[known])
            quality = measure_quality(judged, given[known], temperature)
        ids = plan.ids[rows]
        origin = self._origin(ids, fitted_to)
        return replace_labels(self.layout, ids, logits, self.images.classes, origin, temperature or 1.0, quality)

    def _open_earlier(self) -> SoftLabels | None:
        """Open labels of the same teacher and classes, for any images; None without such labels."""
        there = open_if_complete(self.layout.folder)
        if there is None or there.classes != self.images.classes:
            return None
        origin = there.manifest.origin
        return there if origin == self._origin(there.ids, origin.fitted_to) else None

    def _predict(self, plan: ViewPlan, name: str, earlier: SoftLabels | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the plan that have logits, int64 [K], and the logits, float32 [K, C]."""
        outputs = Outputs(
            teacher=self.teacher,
            inputs=PreparedViews(self.images, plan, self.teacher.preparation),
            path=self.layout.scratch / name,
            dtype="float32",
            blank=np.nan,
            finish=lambda found: check_finite(found, self.teacher)[:, self.columns],
            earlier=np.load(earlier.layout.logits, mmap_mode="r") if earlier else None,
            loading=self.loading,
        )
        rows = outputs.fill(f"Label {counted(len(plan), 'image')}")
        logits = np.load(outputs.path, mmap_mode="r")
        return rows, logits if len(rows) == len(logits) else logits[rows]

    def _origin(self, ids: np.ndarray, fitted_to: str) -> LabelOrigin:
        source = LabelSource(name=self.teacher.name, revision=self.teacher.revision, content=hash_keys(ids))
        return LabelOrigin(kind="classifier", sources=(source,), fitted_to=fitted_to)


def find_held_out(images: ImageTable, splits: Sequence[str]) -> np.ndarray:
    """Return the positions of distinct labelled validation images that are in none of the splits, int64 [n]."""
    if not len(images.split("validation")):
        return np.empty(0, dtype=np.int64)
    places = find_places(images, ("validation",))
    labelled = images.ids[find_places(images, splits)]
    return np.asarray(places[(images.labels[places] >= 0) & ~np.isin(images.ids[places], labelled)])


def class_columns(teacher: Teacher, images: ImageTable) -> np.ndarray:
    """Return the column of the teacher's logits for each class of the images, int64 [C].

    Raises:
        ConfigError: the teacher returns features, or has other classes.
    """
    if teacher.classes is None:
        raise ConfigError(f"Teacher {teacher.name} gives features, not logits: embed_images stores them.")
    theirs, ours = (list(map(compose, classes)) for classes in (teacher.classes, images.classes))
    if set(theirs) != set(ours):
        wrong = {
            "It does not know": sorted(set(ours) - set(theirs)),
            "The images have no": sorted(set(theirs) - set(ours)),
        }
        details = " ".join(f"{what}: {', '.join(names[:SHOWN])}." for what, names in wrong.items() if names)
        raise ConfigError(
            f"Teacher {teacher.name} was trained on other classes than those of {images.source}. {details} Use a "
            "teacher with the same classes, or its features: timm:MODEL."
        )
    return np.asarray([theirs.index(name) for name in ours], dtype=np.int64)
