"""What can be told from the texts' vectors: texts that speak of another class, and texts unlike all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt4image.core import console
from gpt4image.probing.folds import FOLDS, grouped_folds, groups_per_class, number, to_unit
from gpt4image.probing.label_issues import find_label_issues
from gpt4image.probing.logistic_regression import fit_probe, scale
from gpt4image.quality.checks.run_checks import Flag

STRENGTH = 10.0


"""Inverse strength of the classifier's regularisation: lowest log loss on clipart12, of 0.3, 1, 3, 10, 30 and 100."""


TRAINED_ON = 50_000


"""Texts that a classifier learns from, at most."""


NEIGHBOURS = 20


FAR = 4.0


"""Robust standard deviations below the median from which on a text is far from the others."""


COMPARED_WITH = 20_000


"""Texts that neighbours are looked for among, at most."""


FEWEST_TEXTS = 50


BLOCK = 1024


NO_NEIGHBOUR = -2.0


def find_contradictions(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], seed: int = 0
) -> list[Flag]:
    """Texts whose vectors speak clearly of another class than their label.

    The rule: a logistic regression that was fitted to the other folds' texts gives another class at least 70% and 20
    times what it gives the label, and the text lies nearer to the mean of that class's texts in the other folds than
    to the mean of its own. Rows of one group, such as copies of an image or a text, lie in one fold.

    What to expect: were the probabilities exact and every label right, 3% of the texts of clipart12 would be flagged,
    those whose label is the less likely one. Measured there: 26 of 1,830 texts (1.4%) are, nearly all with reason (a
    factory under "office", a lighthouse under "transportation"), and of labels swapped by chance two in three are
    found when 5% are swapped, half when 15% are. What more than one in twenty of a class's texts have in common is
    learned and not found, such as a whole series under another class.

    Classes in fewer than five groups are left out, and so are rows without a label.

    Args:
        vectors: unit vectors [N, D].
        labels: int [N], -1 where there is none.
        groups: numbers of groups, int [N].
        classes: class names.
        seed: seed of the folds.
    """
    enough = groups_per_class(labels, groups, len(classes)) >= FOLDS
    rows = np.flatnonzero((labels >= 0) & enough[np.maximum(labels, 0)])
    if enough.sum() < 2:
        return []
    part, label, group = vectors[rows], labels[rows], number(groups[rows])
    folds = grouped_folds(label, group, seed)
    flags: list[Flag] = []
    with console.progress("Hold texts against labels", FOLDS) as meter:
        for fold in range(FOLDS):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            other, probability = contradicted(part[train], label[train], part[test], label[test], seed)
            for at in np.flatnonzero(other >= 0):
                told = detail(classes, label[test[at]], other[at], probability[at])
                flags.append(Flag("contradiction", int(rows[test[at]]), told, -float(probability[at, 0])))
            meter.advance()
    return sorted(flags, key=lambda flag: flag.at)


def detail(classes: Sequence[str], label: int, other: int, probability: np.ndarray) -> str:
    """Both classes with their probabilities."""
    return f"{classes[other]} {100 * probability[1]:.0f}%, {classes[label]} {100 * probability[0]:.1f}%"


def contradicted(
    known: np.ndarray, known_labels: np.ndarray, vectors: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class that each vector speaks of where it contradicts its label.

    Args:
        known: vectors that are learned from [M, D].
        known_labels: their labels [M].
        vectors: vectors that are judged [N, D].
        labels: their labels [N].
        seed: seed of the choice where there are too many to learn from.

    Returns:
        The other class, int64 [N], -1 where there is no contradiction; probabilities of label and other class [N, 2].
    """
    chosen = np.random.default_rng(seed).permutation(len(known))[:TRAINED_ON]
    scaled, (mean, spread) = scale(known[chosen])
    probe = fit_probe(scaled, known_labels[chosen], STRENGTH)
    means = to_unit(np.stack([known[known_labels == label].mean(axis=0) for label in probe.classes_]))
    own = np.minimum(np.searchsorted(probe.classes_, labels), len(probe.classes_) - 1)
    own[probe.classes_[own] != labels] = -1  # a class that was not learned is never contradicted
    pairs, others = np.empty((len(vectors), 2)), np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        probabilities, closeness = probe.predict_proba((vectors[rows] - mean) / spread), vectors[rows] @ means.T
        found, places = find_label_issues(probabilities, own[rows]), np.arange(len(labels[rows]))
        found[closeness[places, found] <= closeness[places, own[rows]]] = -1
        pairs[rows] = np.stack([probabilities[places, own[rows]], probabilities[places, found]], axis=1)
        others[rows] = np.where(found >= 0, probe.classes_[found], -1)
    return others, pairs


def find_outliers(vectors: np.ndarray, groups: np.ndarray, seed: int = 0) -> list[Flag]:
    """Texts that are far from all others.

    The rule: the mean cosine to the 20 nearest texts of other groups lies more than 4 robust standard deviations below
    the median of all texts. The deviation is 1.4826 times the median distance from the median of the texts below it,
    so that a long upper tail does not count. For normally distributed nearness 3 of 100,000 texts lie that low; on
    clipart12 none of 1,830 do. Neighbours are looked for among 20,000 texts drawn by chance where there are more.
    Fewer than 50 texts are not looked at.

    Args:
        vectors: unit vectors [N, D].
        groups: numbers of groups, int [N]: copies of an image or a text are no neighbours of each other.
        seed: seed of the choice.
    """
    if len(vectors) < FEWEST_TEXTS:
        return []
    near = nearness(vectors, groups, seed)
    median = float(np.median(near))
    below = near[near <= median]
    deviation = 1.4826 * float(np.median(median - below))
    far = (median - near) / max(deviation, 1e-6)
    return [
        Flag("outlier", int(at), f"mean cosine {near[at]:.2f} to its nearest texts; usual {median:.2f}", float(far[at]))
        for at in np.flatnonzero(far > FAR)
    ]


def nearness(vectors: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Mean cosine of each vector to its nearest ones of other groups, float32 [N]; 0 where there are none."""
    others = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:COMPARED_WITH])
    near = np.zeros(len(vectors), dtype=np.float32)
    with console.progress("Hold texts against texts", len(vectors)) as meter:
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, min(start + BLOCK, len(vectors)))
            cosines = vectors[rows] @ vectors[others].T
            cosines[groups[rows, None] == groups[None, others]] = NO_NEIGHBOUR
            near[rows] = mean_of_highest(cosines)
            meter.set(rows.stop)
    return near


def mean_of_highest(cosines: np.ndarray) -> np.ndarray:
    """Mean of the highest cosines in each row of [n, M], float32 [n]; 0 where there are none."""
    count = min(NEIGHBOURS, cosines.shape[1])
    highest = -np.partition(-cosines, count - 1, axis=1)[:, :count]
    there = highest > NO_NEIGHBOUR
    return np.asarray(np.where(there, highest, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1))
