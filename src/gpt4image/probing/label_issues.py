"""The rule by which a given label counts as a likely label error."""

from __future__ import annotations

import numpy as np

MIN_CONFIDENCE = 0.7  # probability of the other class; with less, an unsure classifier would question too many labels
MIN_ODDS_RATIO = 20  # odds of the other class to the given one; both may be plausible, as for an image of two objects


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find likely label errors: another class is likely, and far likelier than the given one.

    The probabilities must be out-of-fold, from a classifier that has not seen the row. The idea is that of confident
    learning (Northcutt et al., "Confident Learning", JAIR 70, 2021), with fixed thresholds in place of per-class ones,
    which small classes cannot support. Many of the rows found are ambiguous rather than wrong, so they need a review.

    Args:
        probabilities: of each class, float [N, C].
        labels: given classes, int [N]; -1 for none, which is never an error.

    Returns:
        The likelier class of each row with a likely label error, int64 [N]; -1 for all other rows.

    >>> find_label_issues(np.array([[0.02, 0.98], [0.3, 0.7], [0.02, 0.98]]), np.array([0, 0, -1])).tolist()
    [1, -1, -1]
    """
    rows, likeliest = np.arange(len(labels)), probabilities.argmax(axis=1)
    given, best = probabilities[rows, np.maximum(labels, 0)], probabilities[rows, likeliest]
    found = (labels >= 0) & (best >= MIN_CONFIDENCE) & (best >= MIN_ODDS_RATIO * given)
    return np.where(found, likeliest, -1)
