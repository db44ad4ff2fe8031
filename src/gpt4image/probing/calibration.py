"""Accuracy, likelihood and calibration of a classifier's logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import log_softmax

from gpt4image.core.record import Record

TEMPERATURES = (0.05, 20.0)  # range that is searched
FITTED_ON = 100_000  # most rows that a temperature is fitted to; a random sample if there are more
BINS = 15
TOP = 5  # likeliest classes that count for `top5_accuracy`
BLOCK = 8192  # rows at a time, since logits may be a memory map larger than memory


class LabelQuality(Record):
    """Quality of soft labels, measured on given labels that the labeller has not seen.

    Attributes:
        images: images with a given label.
        accuracy: share of these images whose likeliest class is the given one.
        balanced_accuracy: mean of that share over the classes that occur.
        negative_log_likelihood: mean of -log probability of the given class, in nats, at the fitted temperature.
        calibration_error: expected calibration error at the fitted temperature (`calibration_error`).
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    negative_log_likelihood: float
    calibration_error: float


def measure_quality(logits: np.ndarray, labels: np.ndarray, temperature: float) -> LabelQuality:
    """Measure softmax(logits / temperature) against the labels.

    Args:
        logits: float [N, C].
        labels: int [N], -1 for none; at least one row has one.
        temperature: divides the logits.
    """
    known = np.flatnonzero(labels >= 0)
    right, confidence, likelihood = np.empty(len(known), dtype=bool), np.empty(len(known)), np.empty(len(known))
    for places in blocks(np.arange(len(known))):
        rows = known[places]
        scaled = _scale(logits, rows, temperature)
        right[places] = scaled.argmax(axis=1) == labels[rows]
        confidence[places] = np.exp(scaled.max(axis=1))
        likelihood[places] = scaled[np.arange(len(rows)), labels[rows]]
    return LabelQuality(
        images=len(known),
        accuracy=float(right.mean()),
        balanced_accuracy=_balanced_accuracy(labels[known], right),
        negative_log_likelihood=float(-likelihood.mean()),
        calibration_error=calibration_error(confidence, right),
    )


class ClassifierMetrics(Record):
    """Metrics of a classifier on labelled images, each from 0 to 1 unless said otherwise.

    Attributes:
        accuracy: share of images whose likeliest class is the right one.
        top5_accuracy: share whose right class is among the five likeliest; None with five classes or fewer.
        balanced_accuracy: mean recall of the classes that occur.
        macro_f1: mean F1 score of the classes that occur.
        negative_log_likelihood: mean of -log probability of the right class, in nats.
        brier_score: mean squared distance between the probabilities and the right class, from 0 to 2.
        calibration_error: expected calibration error (`calibration_error`).
    """

    accuracy: float
    top5_accuracy: float | None
    balanced_accuracy: float
    macro_f1: float
    negative_log_likelihood: float
    brier_score: float
    calibration_error: float


def measure_classifier(logits: np.ndarray, labels: np.ndarray) -> ClassifierMetrics:
    """Measure softmax(logits) against the labels.

    The Brier score is that of Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78 (1950), equation 2, which sums over the classes.

    Args:
        logits: float [N, C].
        labels: int [N], from 0 to C - 1; N at least 1.
    """
    from sklearn.metrics import f1_score

    likelihoods = np.asarray(log_softmax(logits.astype(np.float64), axis=1))
    probabilities, rows, classes = np.exp(likelihoods), np.arange(len(labels)), logits.argmax(axis=1)
    of_label = logits[rows, labels]
    above = (logits > of_label[:, None]).sum(axis=1)  # classes that are likelier than the right one
    ties = (logits == of_label[:, None]) & (np.arange(logits.shape[1]) < labels[:, None])  # ties go to the first class
    right = classes == labels
    squares = (probabilities**2).sum(axis=1) - 2 * probabilities[rows, labels] + 1
    return ClassifierMetrics(
        accuracy=float(right.mean()),
        top5_accuracy=float((above + ties.sum(axis=1) < TOP).mean()) if logits.shape[1] > TOP else None,
        balanced_accuracy=_balanced_accuracy(labels, right),
        macro_f1=float(f1_score(labels, classes, labels=np.unique(labels), average="macro", zero_division=0)),
        negative_log_likelihood=float(-likelihoods[rows, labels].mean()),
        brier_score=float(squares.mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), right),
    )


class ReliabilityBin(Record):
    """Predictions of similar confidence: their number, their mean confidence, and the share that is right."""

    predictions: int
    confidence: float
    accuracy: float


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> list[ReliabilityBin]:
    """Return the non-empty bins of a reliability diagram, in ascending order of confidence.

    The 15 bins of equal width are those of `calibration_error`, the mean of |accuracy - confidence| over them.

    Args:
        confidence: probability of each row's likeliest class, float [N].
        right: whether that class is the right one, bool [N].
    """
    bins = _bin(confidence)
    counts = np.bincount(bins, minlength=BINS)
    confident, hits = (np.bincount(bins, weights=each, minlength=BINS) for each in (confidence, right))
    return [
        ReliabilityBin(
            predictions=int(counts[at]),
            confidence=float(confident[at] / counts[at]),
            accuracy=float(hits[at] / counts[at]),
        )
        for at in np.flatnonzero(counts)
    ]


def fit_temperature(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Return the temperature T, from 0.05 to 20, at which the labels are likeliest under softmax(logits / T).

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equation 9.

    Args:
        logits: float [N, C], of rows that the classifier has not learned from.
        labels: int [N], -1 for none; at least one row has one.
        seed: seed of the sample, drawn if more than 100,000 rows have a label.
    """
    from scipy.optimize import minimize_scalar

    rows = np.flatnonzero(labels >= 0)
    if len(rows) > FITTED_ON:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FITTED_ON, replace=False))

    def mean_loss(log_temperature: float) -> float:
        total = 0.0
        for part in blocks(rows):
            scaled = _scale(logits, part, float(np.exp(log_temperature)))
            total -= float(scaled[np.arange(len(part)), labels[part]].sum())
        return total / len(rows)

    # T is a scale, so its logarithm is searched
    found = minimize_scalar(mean_loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins of equal width.

    Guo et al., arXiv 1706.04599, equation 3.

    Args:
        confidence: probability of each row's likeliest class, float [N].
        right: whether that class is the right one, bool [N].

    >>> round(calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False])), 6)
    0.1
    """
    return float(np.abs(np.bincount(_bin(confidence), weights=confidence - right)).sum() / len(confidence))


def _bin(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence, int64 [N]."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Split rows [n] into blocks of at most 8,192."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def _scale(logits: np.ndarray, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Return log-probabilities of rows [n] at a temperature, float64 [n, C]."""
    return np.asarray(log_softmax(logits[rows].astype(np.float64) / temperature, axis=1))


def _balanced_accuracy(labels: np.ndarray, right: np.ndarray) -> float:
    images, hits = np.bincount(labels), np.bincount(labels, weights=right)
    return float((hits[images > 0] / images[images > 0]).mean())


SHIFT_STEPS = 50  # steps of expectation maximisation of the class shares


def class_shares(probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Estimate the classes' shares among rows by expectation maximisation, [C].

    Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", 2002,
    equation 2.2: it corrects a classifier that was fitted to other shares.

    Args:
        probabilities: the classifier's probabilities for the rows, float [N, C].
        counts: rows of each class that the classifier was fitted to [C].
    """
    fitted = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
    shares = fitted
    for _ in range(SHIFT_STEPS):
        joint = probabilities * (shares / fitted)
        shares = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.asarray(shares)


def adjust_for_skew(log_probabilities: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """Correct log-probabilities [N, C] for skewed labels: log p(k) - strength log pi_k, normalised.

    Post-hoc logit adjustment (Menon et al., arXiv 2007.07314, equation 9); pi_k is the share of class k among the given
    labels, where a class without any counts as half a row.

    Args:
        log_probabilities: float [N, C].
        labels: given classes, int [N], -1 for none; at least one row has one unless the strength is 0.
        strength: 0 changes nothing, 1 gives all classes the same prior.
    """
    if not strength:
        return log_probabilities
    counts = np.maximum(np.bincount(labels[labels >= 0], minlength=log_probabilities.shape[1]), 0.5)
    adjusted = log_probabilities - strength * np.log(counts / counts.sum())
    return np.asarray(log_softmax(adjusted, axis=1))
