"""Metrics of boxes: COCO's average precision of each class and, for paired comparisons, of each image.

Definitions as in COCO's evaluation (Lin et al., arXiv 1405.0312; pycocotools): detections are matched to boxes of their
class in the order of their scores, at ten thresholds of the intersection over union, and the precision is averaged over
101 recalls.

Arrays: N images, M boxes an image, K detections an image, C classes, T thresholds, R resamples. Boxes are float
[N, M, 5]: class, -1 for none, and corners; detections float [N, K, 6]: class, -1 for none, corners, and score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt4image.tasks.label_metrics import LEAST_PRESENT, RESAMPLES

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
CHUNK = 2_000_000  # elements of an array of resampled images at a time


def overlaps(detected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the intersection over union of corners [k, 4] and [m, 4], float64 [k, m]."""
    a, b = detected[:, None].astype(np.float64), boxes[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inner = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (a, b)]
    return np.asarray(inner / np.maximum(areas[0] + areas[1] - inner, 1e-12))


def match(detected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return which detections of an image match a box of their class that no earlier one has matched, bool [T, k].

    Args:
        detected: detections [k, 6], most confident first.
        boxes: [m, 5].
    """
    found = np.zeros((len(THRESHOLDS), len(detected)), dtype=bool)
    if not len(detected) or not len(boxes):
        return found
    inner = overlaps(detected[:, 1:5], boxes[:, 1:]) * (detected[:, :1] == boxes[None, :, 0])
    free = np.ones((len(THRESHOLDS), len(boxes)), dtype=bool)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for at in np.flatnonzero(inner.max(axis=1) >= limits[0]).tolist():
        fits = np.where(free & (inner[at] >= limits), inner[at], -1.0)[:, ::-1]  # ties go to the last
        best = len(boxes) - 1 - fits.argmax(axis=1)
        hit = np.flatnonzero(fits.max(axis=1) >= 0)
        found[hit, at] = True
        free[hit, best[hit]] = False
    return found


def ranked(detections: np.ndarray) -> np.ndarray:
    """Return the detections of an image [k, 6] without padding, most confident first."""
    own = detections[detections[:, 0] >= 0]
    return np.asarray(own[np.argsort(-own[:, 5], kind="stable")])


def image_precisions(detections: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the average precision of each image, float64 [N].

    All classes are in one ranking, so detections of classes that an image lacks lower it too. An image without boxes
    has 1 minus the score of its most confident detection.
    """
    scores = np.zeros(len(boxes))
    for number, (found, truth) in enumerate(zip(detections, boxes, strict=True)):
        own, given = ranked(found), truth[truth[:, 0] >= 0]
        if len(given):
            scores[number] = interpolated(match(own, given), len(given)).mean()
        else:
            scores[number] = 1 - (own[0, 5] if len(own) else 0.0)
    return scores


def interpolated(hits: np.ndarray, boxes: int) -> np.ndarray:
    """Return the precision, averaged over 101 recalls, of ranked detections, float64 [T].

    Args:
        hits: which detections are right, bool [T, k].
        boxes: number of boxes.
    """
    right = hits.cumsum(axis=1)
    precision = right / np.arange(1, hits.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.array([_at_recalls(row / boxes, each) for row, each in zip(right, precision, strict=True)])


def _at_recalls(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the mean over 101 recalls of the precision [k] at the first rank that reaches each; 0 beyond the last."""
    places = np.searchsorted(recall, RECALLS, side="left")
    reached = places < len(recall)
    return float(precision[places[reached]].sum() / len(RECALLS))


@dataclass(frozen=True)
class ClassRanking:
    """The detections of a class in all images, most confident first.

    Attributes:
        images: image of each, int64 [D].
        scores: float64 [D].
        hits: bool [T, D].
        counts: boxes of the class in each image, int64 [N].
    """

    images: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    counts: np.ndarray

    @property
    def precisions(self) -> np.ndarray:
        """Average precision at each threshold, float64 [T]; NaN without a box."""
        total = int(self.counts.sum())
        return interpolated(self.hits, total) if total else np.full(len(THRESHOLDS), np.nan)

    def resampled(self, draws: np.ndarray) -> np.ndarray:
        """Return the average precision, mean over thresholds, with resampled images, float64 [R].

        Args:
            draws: how often each image counts, int64 [R, N].
        """
        totals = draws @ self.counts  # [R]
        found = np.full(len(draws), np.nan)
        step = max(1, CHUNK // max(1, len(self.images)))
        for start in range(0, len(draws), step):
            weights = draws[start : start + step, self.images].astype(np.float64)  # [r, D]
            given = weights.cumsum(axis=1)
            for row in range(len(weights)):
                total = totals[start + row]
                if total:
                    found[start + row] = np.mean(
                        [_weighted(weights[row], given[row], hits, total) for hits in self.hits]
                    )
        return found


def _weighted(weights: np.ndarray, given: np.ndarray, hits: np.ndarray, total: int) -> float:
    """Return the average precision of weighted detections.

    The precision is highest where a detection is right, so other ranks are passed over.

    Args:
        weights: how often each detection counts [D].
        given: their running sum [D].
        hits: which are right, bool [D].
        total: number of boxes, counted likewise.
    """
    at = np.flatnonzero(hits & (weights > 0))
    right = weights[at].cumsum()
    precision = np.maximum.accumulate((right / given[at])[::-1])[::-1]
    return _at_recalls(right / total, precision)


def rank_classes(detections: np.ndarray, boxes: np.ndarray, classes: int) -> list[ClassRanking]:
    """Return the ranking of each class."""
    parts: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in range(classes)]
    counts = np.zeros((classes, len(boxes)), np.int64)
    for number, (found, truth) in enumerate(zip(detections, boxes, strict=True)):
        own, given = ranked(found), truth[truth[:, 0] >= 0]
        np.add.at(counts[:, number], given[:, 0].astype(np.int64), 1)
        hits = match(own, given)
        for label in np.unique(own[:, 0]).astype(np.int64).tolist():
            chosen = own[:, 0] == label
            parts[label].append((number, own[chosen, 5], hits[:, chosen]))
    return [_joined(each, count) for each, count in zip(parts, counts, strict=True)]


def _joined(parts: Sequence[tuple[int, np.ndarray, np.ndarray]], counts: np.ndarray) -> ClassRanking:
    """Return the ranking of a class from the detections of each image."""
    images = np.concatenate([np.full(len(scores), number) for number, scores, _ in parts] or [np.zeros(0, np.int64)])
    scores = np.concatenate([scores for _, scores, _ in parts] or [np.zeros(0)]).astype(np.float64)
    hits = np.concatenate([hits for *_, hits in parts] or [np.zeros((len(THRESHOLDS), 0), bool)], axis=1)
    order = np.argsort(-scores, kind="stable")
    return ClassRanking(images[order], scores[order], hits[:, order], counts)


def resampled_precisions(
    rankings: Mapping[str, Sequence[Sequence[ClassRanking]]], images: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the average precision of each class on resampled images, mean over the seeds, float64 [R, C] by arm.

    The images are drawn with replacement, the same for every arm and class, so differences are paired. NaN for classes
    that too few images have.

    Args:
        rankings: those of each arm, for each seed and class.
        images: number of images N.
        seed: seed of the draws.
    """
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)  # [R, N]
    found = {}
    for arm, runs in rankings.items():
        columns = []
        for of_class in zip(*runs, strict=True):
            few = (of_class[0].counts > 0).sum() < LEAST_PRESENT
            each = [np.full(RESAMPLES, np.nan) if few else ranking.resampled(draws) for ranking in of_class]
            columns.append(np.mean(each, axis=0))
        found[arm] = np.stack(columns, axis=1)
    return found


def best_thresholds(rankings: Sequence[ClassRanking]) -> list[float]:
    """Return the score of each class from which its detections have the best F1 score at an overlap of one half.

    A threshold lies halfway between two detections; for a class without any that is right it is one half.
    """
    found = []
    for ranking in rankings:
        right = ranking.hits[0].cumsum()
        if not len(right) or not right[-1]:
            found.append(0.5)
            continue
        below = np.append(ranking.scores[1:], 0.0)
        f1 = 2 * right / (np.arange(1, len(right) + 1) + ranking.counts.sum())
        at = int(np.where(ranking.scores > below, f1, -1).argmax())  # equal scores are shown together
        found.append(float((ranking.scores[at] + below[at]) / 2))
    return found


def mean_average_precision(detections: np.ndarray, boxes: np.ndarray) -> tuple[float | None, float | None]:
    """Return COCO's mean average precision, over the thresholds and at one half; None without a box.

    Computed by torchmetrics and pycocotools, of the extra `detection`.
    """
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # its own recalls are rounded to float32, so that a recall that is reached exactly may be missed
    metric = MeanAveragePrecision(
        iou_thresholds=THRESHOLDS.tolist(), rec_thresholds=RECALLS.tolist(), backend="pycocotools"
    )
    metric.warn_on_many_detections = False
    for found, truth in zip(detections, boxes, strict=True):
        own, given = found[found[:, 0] >= 0], truth[truth[:, 0] >= 0]
        predicted = {
            "boxes": torch.from_numpy(own[:, 1:5]),
            "scores": torch.from_numpy(own[:, 5]),
            "labels": torch.from_numpy(own[:, 0]).long(),
        }
        target = {"boxes": torch.from_numpy(given[:, 1:]), "labels": torch.from_numpy(given[:, 0]).long()}
        metric.update([predicted], [target])
    values = metric.compute()
    both = (float(values["map"]), float(values["map_50"]))
    return both if both[0] >= 0 else (None, None)
