"""Linear classifiers on frozen vectors, judged on folds that they have not seen."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from gpt4image.describe.quality.folds import FOLDS

STRENGTHS = (0.03, 0.3, 3.0, 30.0)
"""Inverse strengths of the regularisation that are tried, from strong to weak."""
ITERATIONS = 300


def scale(vectors: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, float]]:
    """Take off the mean and bring the mean squared length to 1, so that one regularisation fits vectors of any kind.

    Args:
        vectors: float [N, D].

    Returns:
        Scaled vectors, float32 [N, D]; and what was done: the mean [D] and the divisor.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    spread = max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-12)
    return (centred / spread).astype(np.float32), (mean, spread)


def fit_probe(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """Logistic regression of labels [N] on scaled vectors [N, D]."""
    return fit(new_probe(strength), vectors, labels)


def new_probe(strength: float) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """A logistic regression that goes on from its last weights when it is fitted again."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=ITERATIONS, warm_start=True)


def fit(probe: Any, vectors: np.ndarray, labels: np.ndarray) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """Fit a probe; one that has not quite settled is good enough."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(vectors, labels)


def answer_out_of_fold(vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each row's class as a probe says that was fitted to the other folds.

    The regularisation of each fold's probe is the one that is right most often within the other folds: probes fitted
    to all but two folds are tried on either of the two, and count for the other. So no row takes part in any choice
    about its own answer.

    Args:
        vectors: scaled vectors [N, D].
        labels: int [N]; each class lies in at least three folds.
        folds: fold of each row, int [N].

    Returns:
        Classes, int64 [N].
    """
    right = np.zeros((FOLDS, len(STRENGTHS)))
    for one, two in combinations(range(FOLDS), 2):
        train = (folds != one) & (folds != two)
        probe = new_probe(STRENGTHS[0])
        for at, strength in enumerate(STRENGTHS):
            fit(probe.set_params(C=strength), vectors[train], labels[train])
            for judged, tried in ((one, two), (two, one)):
                rows = folds == tried
                right[judged, at] += (probe.predict(vectors[rows]) == labels[rows]).sum()
    answers = np.empty(len(labels), dtype=np.int64)
    for fold in range(FOLDS):
        train = folds != fold
        probe = fit_probe(vectors[train], labels[train], STRENGTHS[right[fold].argmax()])
        answers[~train] = probe.predict(vectors[~train])
    return answers
