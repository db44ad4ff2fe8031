"""Decide which given labels are probably wrong."""

from __future__ import annotations

import numpy as np

SURE = 0.7


"""Lowest probability of the other class at which a text may contradict its label."""


ODDS = 20


"""How many times likelier than the label that class is, at least."""


def judge(
    probabilities: np.ndarray, closeness: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 2] of the label and of the likeliest class, and the latter [n]; -1 where it does not count.

    Args:
        probabilities: of each class [n, C].
        closeness: cosine to each class's mean [n, C].
        labels: labels [n]; one that was not learned, as a rare one may not be, is never contradicted.
        classes: labels of the classes [C], sorted.
    """
    places = np.arange(len(labels))
    own = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    best = probabilities.argmax(axis=1)
    pair = np.stack([probabilities[places, own], probabilities[places, best]], axis=1)
    nearer = closeness[places, best] > closeness[places, own]
    clear = (classes[own] == labels) & (pair[:, 1] >= ODDS * pair[:, 0]) & (pair[:, 1] >= SURE) & nearer
    return pair, np.where(clear, classes[best], -1)
