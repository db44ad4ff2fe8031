"""How good a classifier's answers are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax


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
