"""Groups of rows that must not vouch for each other, and folds that keep them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FOLDS = 5


BLOCK = 2048


ALIKE = (0.8, 0.9, 0.95)


LARGEST_GROUP = 0.1


def link(*columns: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Groups of rows that share a value in any column, directly or through other rows.

    Args:
        columns: columns of hashable values, each [N].

    Returns:
        Number of each row's group, int64 [N].

    >>> link(["a", "a", "b", "c"], [1, 2, 2, 3]).tolist()
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, ends, nodes = [], [], len(columns[0])
    for column in columns:
        values, inverse = np.unique(np.asarray(column), return_inverse=True)
        rows.append(np.arange(len(inverse)))
        ends.append(nodes + inverse.reshape(-1))
        nodes += len(values)
    start, end = np.concatenate(rows), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=(nodes, nodes))
    _, groups = connected_components(graph, directed=False)
    return number(groups[: len(columns[0])])


def look_alikes(vectors: np.ndarray) -> np.ndarray:
    """Groups of images that look nearly alike, such as frames of one scene.

    Two belong together when the cosine of their features, with the mean taken off, is at least 0.8; where that chains
    more than a tenth of the images together, 0.9 or 0.95; where that does so too, none do.

    Args:
        vectors: features [N, F].

    Returns:
        Number of each image's group, int64 [N].
    """
    for least in ALIKE:
        groups = near_copies(vectors, least)
        if np.bincount(groups).max() <= max(len(vectors) * LARGEST_GROUP, 1):
            return groups
    return np.arange(len(vectors))


def near_copies(vectors: np.ndarray, least: float) -> np.ndarray:
    """Groups of rows whose vectors, with the mean taken off, point nearly the same way, directly or in steps.

    Args:
        vectors: float [N, F].
        least: least cosine of two that are linked.

    Returns:
        Number of each row's group, int64 [N].
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    unit = to_unit(vectors - vectors.mean(axis=0))
    pairs = []
    for start in range(0, len(unit), BLOCK):
        row, column = np.nonzero(unit[start : start + BLOCK] @ unit.T >= least)
        pairs.append(np.stack([row + start, column]))
    start_of, end_of = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(start_of), dtype=bool), (start_of, end_of)), shape=(len(unit), len(unit)))
    return number(connected_components(graph, directed=False)[1])


def number(values: np.ndarray) -> np.ndarray:
    """The values [N] as numbers from 0, int64 [N]."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [N, D] at length 1; those of length 0 stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def grouped_folds(labels: np.ndarray, groups: np.ndarray, seed: int, folds: int = FOLDS) -> np.ndarray:
    """Share rows out to folds by chance: groups stay whole, and every fold gets its share of each class.

    A group counts for the rarest of its rows' classes.

    Args:
        labels: int [N], from 0.
        groups: numbers of groups, int [N].
        seed: seed of the chance.
        folds: number of folds.

    Returns:
        Fold of each row, int64 [N].
    """
    groups = number(groups)
    rare_first = np.argsort(np.bincount(labels)[labels], kind="stable")
    _, first = np.unique(groups[rare_first], return_index=True)
    chance = np.random.default_rng(seed).random(len(first))
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[np.lexsort((chance, labels[rare_first[first]]))] = np.arange(len(first)) % folds
    return np.asarray(dealt[groups])


def groups_per_class(labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Number of groups that each class's rows lie in, int64 [C]; rows of label -1 are left out."""
    pairs = np.unique(np.stack([labels[labels >= 0], groups[labels >= 0]]), axis=1)
    return np.bincount(pairs[0].astype(np.int64), minlength=classes)
