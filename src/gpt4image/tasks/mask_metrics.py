"""Metrics of masks: the intersection over union of each class and, for paired comparisons, of each image.

Arrays: N images, P pixels of an input, C classes, R resamples. Masks are uint8 [N, P]: the number of a class, `VOID`
in `truth` where nothing is known, which takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt4image.images.masks import VOID
from gpt4image.tasks.label_metrics import LEAST_PRESENT, RESAMPLES


@dataclass(frozen=True)
class ClassSums:
    """The sums of the confusion matrices that intersections and unions need, int64 [N, C] each.

    Attributes:
        both: pixels of a class that are predicted as it.
        given: pixels of a class.
        found: known pixels that are predicted as it.
    """

    both: np.ndarray
    given: np.ndarray
    found: np.ndarray

    @property
    def unions(self) -> np.ndarray:
        """Pixels that are of a class or predicted as it, int64 [N, C]."""
        return np.asarray(self.given + self.found - self.both)


def sum_classes(predicted: np.ndarray, truth: np.ndarray, classes: int) -> ClassSums:
    """Return the sums of each image."""
    sums = np.zeros((3, len(truth), classes), np.int64)
    for at, (own, given) in enumerate(zip(predicted, truth, strict=True)):
        known = given != VOID
        for row, pixels in enumerate((given[known & (own == given)], given[known], own[known])):
            sums[row, at] = np.bincount(pixels, minlength=classes)[:classes]
    return ClassSums(*sums)


def class_ious(sums: ClassSums) -> np.ndarray:
    """Return the intersection over union of each class over all images, float64 [C]; NaN for one without a pixel."""
    both, unions = sums.both.sum(axis=0), sums.unions.sum(axis=0)
    return np.asarray(np.where(unions > 0, both / np.maximum(unions, 1), np.nan))


def image_ious(sums: ClassSums) -> np.ndarray:
    """Return for each image the mean over the classes that it has, or is predicted to have, of their IoU, float64 [N].

    After the mIoU per image of Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation", arXiv
    2310.19252, which counts the classes that an image has alone; here one that is wrongly predicted counts as 0. 1 for
    an image of which nothing is known.
    """
    unions = sums.unions
    counted = (unions > 0).sum(axis=1)
    total = (sums.both / np.maximum(unions, 1)).sum(axis=1)
    return np.asarray(np.where(counted > 0, total / np.maximum(counted, 1), 1.0))


def resampled_ious(sums: Mapping[str, Sequence[ClassSums]], seed: int = 0) -> dict[str, np.ndarray]:
    """Return the IoU of each class on resampled images, mean over the seeds, float64 [R, C] by arm.

    The images are drawn with replacement, the same for every arm and class, so differences are paired. NaN for classes
    that too few images have, and where none of the drawn images has them.

    Args:
        sums: those of each arm, for each seed.
        seed: seed of the draws.
    """
    found: dict[str, np.ndarray] = {}
    for arm, runs in sums.items():
        images = len(runs[0].given)
        draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)  # [R, N]
        few = (runs[0].given > 0).sum(axis=0) < LEAST_PRESENT
        gone = few | (draws @ runs[0].given == 0)
        each = [np.where(gone, np.nan, (draws @ run.both) / np.maximum(draws @ run.unions, 1)) for run in runs]
        found[arm] = np.mean(each, axis=0)
    return found


def mean_iou(sums: ClassSums) -> tuple[float | None, float | None]:
    """Return the mean over the classes that occur of their IoU, and the share of right pixels; None without a pixel."""
    known = sums.given.sum()
    return (float(np.nanmean(class_ious(sums))), float(sums.both.sum() / known)) if known else (None, None)
