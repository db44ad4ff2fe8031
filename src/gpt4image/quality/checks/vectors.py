"""Checks of the texts' vectors: likely label errors, and texts unlike all others."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryFile

import numpy as np
from scipy.special import softmax

from gpt4image.core.format import percent
from gpt4image.probing.calibration import blocks, fit_temperature
from gpt4image.probing.cross_fit import cross_fit
from gpt4image.probing.folds import FOLDS, groups_per_class
from gpt4image.probing.label_issues import find_label_issues
from gpt4image.quality.checks.context import CheckContext, Flag

MAX_TRAINING_TEXTS = 50_000  # more take longer and change little
BLOCK = 1024  # rows at a time

NEIGHBOURS = 20
MAX_DEVIATIONS = 4.0  # robust standard deviations below the median, beyond which a text is an outlier
MAX_REFERENCE_TEXTS = 20_000  # texts that are searched for neighbours
MIN_TEXTS = 50
SAME_GROUP = -2.0  # below any cosine


def find_contradicting_texts(context: CheckContext) -> list[Flag]:
    """Flag texts whose vectors indicate a class other than their label."""
    rows, vectors, groups = context.usable
    labels = np.asarray([context.texts[at].label for at in rows], dtype=np.int64)
    flags = find_contradictions(vectors, labels, groups, context.classes, context.seed)
    return [flag._replace(at=int(rows[flag.at])) for flag in flags]


def find_unusual_texts(context: CheckContext) -> list[Flag]:
    """Flag texts whose vectors are far from all others."""
    rows, vectors, groups = context.usable
    return [flag._replace(at=int(rows[flag.at])) for flag in find_outliers(vectors, groups, context.seed)]


def find_contradictions(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], seed: int = 0
) -> list[Flag]:
    """Flag texts whose vectors clearly indicate a class other than their label.

    The rule is the one by which `gpt4image label` lists likely label errors: `find_label_issues` on the calibrated
    out-of-fold probabilities of `cross_fit`.

    Measured on clipart12: it flags 36 of 1,830 texts (2.0%), nearly all rightly (a factory under "office", a lighthouse
    under "transportation"). It finds four in five randomly swapped labels when 5% are swapped, and half when 15% are.
    An error that more than one in twenty texts of a class share, such as a whole series in the wrong class, is learned
    rather than found.

    Args:
        vectors: unit vectors [N, D].
        labels: int [N], -1 for none; classes in fewer than five groups are skipped.
        groups: group numbers, int [N]; rows of a group, such as copies of an image or a text, share a fold.
        classes: class names.
        seed: seed of the folds.
    """
    enough = groups_per_class(labels, groups, len(classes)) >= FOLDS
    if enough.sum() < 2:
        return []
    rows = np.flatnonzero((labels >= 0) & enough[np.maximum(labels, 0)])
    vectors, labels = vectors[rows], labels[rows]
    known = np.full(len(rows), -1)  # labels to learn from; for all other rows the classifiers' predictions are averaged
    sample = np.random.default_rng(seed).permutation(len(rows))[:MAX_TRAINING_TEXTS]
    known[sample] = labels[sample]
    flags = []
    with TemporaryFile() as file:  # a million texts of a thousand classes take 4 GB
        out = np.memmap(file, np.float32, "w+", shape=(len(rows), len(classes)))
        title = "Compare texts with labels"
        folds = cross_fit(vectors, known, groups[rows], len(classes), seed=seed, out=out, title=title).folds
        _, distinct = np.unique(groups[rows[sample]], return_index=True)  # copies of an error would bias it
        temperature = fit_temperature(out[sample[distinct]], known[sample[distinct]], seed)
        counts = np.zeros((FOLDS, len(classes)), dtype=np.int64)
        np.add.at(counts, (folds[sample], labels[sample]), 1)
        learned = (counts.sum(axis=0) - counts)[folds, labels] > 0  # by the model that predicts the row
        for places in blocks(np.flatnonzero(learned)):
            probabilities = softmax(out[places] / temperature, axis=1)
            likelier = find_label_issues(probabilities, labels[places])
            for at in np.flatnonzero(likelier >= 0).tolist():
                own, other = int(labels[places[at]]), int(likelier[at])
                shares = [percent(probabilities[at, other], 0), percent(probabilities[at, own])]
                detail = f"{classes[other]} {shares[0]}, {classes[own]} {shares[1]}"
                flags.append(Flag(int(rows[places[at]]), detail, -float(probabilities[at, own])))
    return sorted(flags, key=lambda flag: flag.at)


def find_outliers(vectors: np.ndarray, groups: np.ndarray, seed: int = 0) -> list[Flag]:
    """Flag texts far from all others.

    The rule: the mean cosine to the 20 nearest texts of other groups is more than 4 robust standard deviations below
    the median over all texts. The deviation is 1.4826 times the median distance from the median of the texts below it,
    so a long upper tail has no influence. For normally distributed values 3 of 100,000 texts lie that low; on clipart12
    none of 1,830 do. If there are more than 20,000 texts, neighbours are searched in a sample of that size. Fewer than
    50 texts are too few to judge, and none is flagged.

    Args:
        vectors: unit vectors [N, D].
        groups: group numbers, int [N]; texts of a group, such as copies, are not neighbours of each other.
        seed: seed of the sample.
    """
    if len(vectors) < MIN_TEXTS:
        return []
    near = _mean_nearest(vectors, groups, seed)
    median = float(np.median(near))
    deviation = 1.4826 * float(np.median(median - near[near <= median]))
    deviations = (median - near) / max(deviation, 1e-6)
    return [
        Flag(at, f"mean cosine to its nearest texts {near[at]:.2f}; median {median:.2f}", float(deviations[at]))
        for at in np.flatnonzero(deviations > MAX_DEVIATIONS).tolist()
    ]


def _mean_nearest(vectors: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean cosine of each vector to its nearest ones in other groups, float32 [N]; 0 if there are none."""
    others = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:MAX_REFERENCE_TEXTS])
    count = min(NEIGHBOURS, len(others))
    near = np.zeros(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines = vectors[rows] @ vectors[others].T  # [block, M]
        cosines[groups[rows, None] == groups[None, others]] = SAME_GROUP
        highest = -np.partition(-cosines, count - 1, axis=1)[:, :count]
        found = highest > SAME_GROUP
        near[rows] = np.where(found, highest, 0).sum(axis=1) / np.maximum(found.sum(axis=1), 1)
    return near
