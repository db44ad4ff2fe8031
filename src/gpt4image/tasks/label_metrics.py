"""Metrics of several labels an image, on the labels that are known.

Arrays: N images, C classes; `marks` int8 [N, C] are 1 for a label that is present, 0 for absent, -1 for unknown.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit, log_expit
from scipy.stats import rankdata

from gpt4image.tasks.task import ClassComparison

RESAMPLES = 500
LEAST_PRESENT = 5  # fewest images of a class for which an interval is computed
CONFIDENCE = 0.95


def image_precision(logits: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Return the average precision of each image, float64 [N].

    For each of its labels, the share of labels among the classes that are ranked as high or higher; the mean over its
    labels. Their mean over images is the label ranking average precision (Schapire and Singer, "BoosTexter", Machine
    Learning 39 (2000), section 3; Tsoumakas et al., "Mining Multi-label Data" (2010), equation 23). An image in which
    all known labels are present, or none, has 1 whatever is predicted.

    Args:
        logits: float [N, C].
        marks: int [N, C].
    """
    present, known = marks > 0, marks >= 0
    lowest = np.where(known, logits, -np.inf)
    ranks = rankdata(-lowest, method="max", axis=1)
    among = rankdata(-np.where(present, logits, -np.inf), method="max", axis=1)
    count = present.sum(axis=1)
    scores = np.where(present, among / ranks, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where((count == 0) | (count == known.sum(axis=1)), 1.0, scores)


def class_precisions(logits: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Return the average precision of each class over the images that say anything of it, float64 [C].

    NaN for classes that no image has. Their mean is the mean average precision (mAP).
    """
    from sklearn.metrics import average_precision_score

    found = np.full(marks.shape[1], np.nan)
    for label in range(marks.shape[1]):
        known = marks[:, label] >= 0
        truth = marks[known, label]
        if truth.any():
            found[label] = average_precision_score(truth, logits[known, label])
    return found


def f1_scores(logits: np.ndarray, marks: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """Return the F1 score over all labels (micro), and the mean over the classes that occur (macro).

    Args:
        logits: float [N, C].
        marks: int [N, C].
        thresholds: probability from which each class is predicted, float [C].
    """
    chosen, known = choose(logits, thresholds), marks >= 0
    right, given, wanted = (
        (part & known).sum(axis=0) for part in (chosen & (marks > 0), chosen, np.broadcast_to(marks > 0, marks.shape))
    )
    micro = 2 * right.sum() / max(given.sum() + wanted.sum(), 1)
    occurs = wanted > 0
    return float(micro), float((2 * right / np.maximum(given + wanted, 1))[occurs].mean()) if occurs.any() else 0.0


def choose(logits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return which classes are predicted, bool [N, C]: those at least as probable as their threshold."""
    return np.asarray(expit(logits.astype(np.float64)) >= thresholds)


def fit_thresholds(logits: np.ndarray, marks: np.ndarray) -> list[float]:
    """Return the probability of each class from which predicting it gives the highest F1 score, C numbers.

    A threshold lies halfway between two images, or at one half for a class that no image has.
    """
    found = []
    for label in range(marks.shape[1]):
        known = marks[:, label] >= 0
        truth = marks[known, label] > 0
        if not truth.any():
            found.append(0.5)
            continue
        probabilities = expit(logits[known, label].astype(np.float64))
        order = np.argsort(-probabilities, kind="stable")
        ranked, right = probabilities[order], np.cumsum(truth[order])
        below = np.append(ranked[1:], 0.0)
        f1 = 2 * right / (np.arange(1, len(ranked) + 1) + truth.sum())
        at = int(np.where(ranked > below, f1, -1).argmax())  # equal scores are predicted together
        found.append(float((ranked[at] + below[at]) / 2))
    return found


def label_likelihood(logits: np.ndarray, marks: np.ndarray) -> float:
    """Return the mean over images of -log probability of all their known labels, in nats."""
    exact = logits.astype(np.float64)
    likelihoods = np.where(marks > 0, log_expit(exact), np.where(marks == 0, log_expit(-exact), 0.0))
    return float(-likelihoods.sum(axis=1).mean())


def resampled_precisions(
    logits: Mapping[str, Sequence[np.ndarray]], marks: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the average precision of each class on resampled images, mean over the seeds, float64 [R, C] by arm.

    The images are drawn with replacement, the same for every arm and class, so differences are paired (Efron and
    Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13). NaN where the drawn images have no such label.

    Args:
        logits: those of each arm, [N, C] for each seed.
        marks: int [N, C].
        seed: seed of the draws.
    """
    images = len(marks)
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)  # [R, N]
    found = {arm: np.full((RESAMPLES, marks.shape[1]), np.nan) for arm in logits}
    for label in range(marks.shape[1]):
        known = np.flatnonzero(marks[:, label] >= 0)
        if (marks[known, label] > 0).sum() < LEAST_PRESENT:
            continue
        for arm, runs in logits.items():
            found[arm][:, label] = np.mean([_weighted(each[known, label], marks[known, label], draws[:, known])
                                            for each in runs], axis=0)  # fmt: skip
    return found


def _weighted(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision [R] of one class under integer weights of its images [R, n]; NaN without any."""
    order = np.argsort(-logits, kind="stable")
    ranked = weights[:, order].astype(np.float64)
    at = np.flatnonzero(truth[order] > 0)
    present = ranked[:, at]
    # if an image is drawn several times, the last copy counts for all, as with images of equal score
    precision = np.cumsum(present, axis=1) / np.maximum(np.cumsum(ranked, axis=1)[:, at], 1)
    total = present.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0, (present * precision).sum(axis=1) / total, np.nan))


def percentile_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95% interval of resampled values [R]; None if there are none."""
    if np.isnan(values).all():
        return None
    low, high = np.nanpercentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def compare_groups(
    groups: Sequence[np.ndarray],
    present: np.ndarray,
    scores: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
    candidate: str,
    reference: str,
) -> list[ClassComparison]:
    """Compare the means of scores over groups of classes, with bootstrap intervals.

    Classes that no image has take no part: a model may have a score for one that it predicts, and another none.

    Args:
        groups: class numbers, int64 [c] each.
        present: which image has which class, bool [N, C].
        scores: score of each class by arm, float64 [C].
        drawn: the same on resampled images, float64 [R, C].
        candidate: an arm.
        reference: the arm it is compared with.
    """
    compared = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of empty arrays
        for group in groups:
            members = group[present[:, group].any(axis=0)]
            count = int(present[:, members].any(axis=1).sum())
            means = {arm: float(np.nanmean(each[members])) for arm, each in scores.items()}
            samples = {arm: np.nanmean(each[:, members], axis=1) for arm, each in drawn.items()}
            intervals = {arm: percentile_interval(values) for arm, values in samples.items()}
            ends = percentile_interval(samples[candidate] - samples[reference])
            compared.append(
                ClassComparison(
                    test_images=count,
                    accuracy={arm: mean if count else None for arm, mean in means.items()},
                    intervals={arm: found for arm, found in intervals.items() if found},
                    difference=means[candidate] - means[reference] if count else None,
                    low=ends and ends[0],
                    high=ends and ends[1],
                )
            )
    return compared
