"""How far the probabilities of a classifier can be taken at their word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from gpt4image.core.record import Record


class LabelQuality(Record):
    """How good the labels are, judged by the given labels of images that the labeller had not seen.

    Attributes:
        images: images with a given label.
        accuracy: share of them for which the likeliest class is the given one.
        balanced_accuracy: mean of that share over the classes that occur.
        negative_log_likelihood: mean of -log probability of the given class, in nats, at the fitted temperature.
        calibration_error: mean distance of the likeliest class's probability from its share right, over 15 bins of
            equal width, at the fitted temperature.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    negative_log_likelihood: float
    calibration_error: float


COOLEST, HOTTEST = 0.05, 20.0


"""Range of temperatures that are tried."""


FITTED_ON = 100_000


"""Rows that a temperature is fitted to, at most; drawn by chance where there are more."""


BINS = 15


BLOCK = 8192


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows [n] in runs of at most 8,192."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def fit_temperature(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """The temperature T at which softmax(logits / T) gives the labels the highest likelihood.

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equation 9.

    Args:
        logits: float [N, C], of rows that the classifier has not learned from.
        labels: int [N], -1 where there is none; at least one is known.
        seed: seed of the choice of rows where there are more than 100,000.

    Returns:
        T, from 0.05 to 20.
    """
    from scipy.optimize import minimize_scalar

    rows = np.flatnonzero(labels >= 0)
    if len(rows) > FITTED_ON:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FITTED_ON, replace=False))

    def mean_loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return -sum(float(likelihoods(logits, labels, part, temperature).sum()) for part in blocks(rows)) / len(rows)

    bounds = (float(np.log(COOLEST)), float(np.log(HOTTEST)))
    found = minimize_scalar(mean_loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def likelihoods(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probability of the label in each of some rows [n], float64 [n]."""
    scaled = log_softmax(logits[rows].astype(np.float64) / temperature, axis=1)
    return np.asarray(scaled[np.arange(len(rows)), labels[rows]])


def measure_quality(logits: np.ndarray, labels: np.ndarray, temperature: float) -> LabelQuality:
    """Quality of the answers to labelled rows.

    Args:
        logits: float [N, C].
        labels: int [N], -1 where there is none; at least one is known.
        temperature: divides the logits.
    """
    known = np.flatnonzero(labels >= 0)
    right, sure, likelihood = np.empty(len(known), dtype=bool), np.empty(len(known)), np.empty(len(known))
    for places in blocks(np.arange(len(known))):
        rows = known[places]
        scaled = log_softmax(logits[rows].astype(np.float64) / temperature, axis=1)
        right[places] = scaled.argmax(axis=1) == labels[rows]
        sure[places] = np.exp(scaled.max(axis=1))
        likelihood[places] = scaled[np.arange(len(rows)), labels[rows]]
    images, hits = np.bincount(labels[known]), np.bincount(labels[known], weights=right)
    return LabelQuality(
        images=len(known),
        accuracy=float(right.mean()),
        balanced_accuracy=float((hits[images > 0] / images[images > 0]).mean()),
        negative_log_likelihood=float(-likelihood.mean()),
        calibration_error=calibration_error(sure, right),
    )


def calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equal width.

    Guo et al., arXiv 1706.04599, equation 3.

    Args:
        sure: probability of each row's likeliest class, float [N].
        right: whether that class is the right one, bool [N].

    >>> round(calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False])), 6)
    0.1
    """
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=sure - right)).sum() / len(sure))


@dataclass(frozen=True)
class Metrics:
    """Quality of answers to labelled images, shares of 1.

    Attributes:
        accuracy: share of images answered right.
        balanced_accuracy: mean over the classes that occur of the share of their images answered right.
        negative_log_likelihood: mean of -log probability of the right class, in nats.
        confusion: images of class i answered j, int64 [C, C].
    """

    accuracy: float
    balanced_accuracy: float
    negative_log_likelihood: float
    confusion: np.ndarray


def measure(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """Metrics of logits [N, C] against labels [N], N above 0.

    >>> measure(np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), np.array([0, 1, 1])).accuracy
    0.6666666666666666
    """
    classes = logits.shape[1]
    answers = logits.argmax(axis=1)
    confusion = np.bincount(labels.astype(np.int64) * classes + answers, minlength=classes**2).reshape(classes, classes)
    images = confusion.sum(axis=1)
    occurring = images > 0
    likelihood = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return Metrics(
        accuracy=float((answers == labels).mean()),
        balanced_accuracy=float((np.diag(confusion)[occurring] / images[occurring]).mean()),
        negative_log_likelihood=float(-likelihood.mean()),
        confusion=confusion,
    )
