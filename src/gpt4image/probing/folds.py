"""Leakage groups, such as copies of an image, and folds that keep each group whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FOLDS = 5
ALIKE = (0.8, 0.9, 0.95)  # cosines tried in turn, until groups of look-alikes are small enough
LARGEST_GROUP = 0.1  # as a share of all images
BLOCK = 2048  # rows of the cosine matrix at a time


def link(*columns: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Group rows that share a value in any column, directly or through other rows.

    Args:
        columns: columns of hashable values, each [N].

    Returns:
        Number of each row's group, int64 [N].

    >>> link(["a", "a", "b", "c"], [1, 2, 2, 3]).tolist()
    [0, 0, 0, 1]
    """
    count = len(columns[0])
    starts, ends, nodes = [], [], count  # nodes of the graph: the rows, then the distinct values of each column
    for column in columns:
        values, inverse = np.unique(np.asarray(column), return_inverse=True)
        starts.append(np.arange(count))
        ends.append(nodes + inverse.reshape(-1))
        nodes += len(values)
    return number(_components(np.concatenate(starts), np.concatenate(ends), nodes)[:count])


def look_alikes(vectors: np.ndarray) -> np.ndarray:
    """Group images that look nearly alike, such as frames of one scene.

    Two images belong together when the cosine of their centred features is at least 0.8. If that chains more than a
    tenth of the images together, 0.9 is tried, then 0.95; if that does too, each image is a group of its own.

    Args:
        vectors: features [N, F].

    Returns:
        Number of each image's group, int64 [N].
    """
    for threshold in ALIKE:
        groups = near_copies(vectors, threshold)
        if np.bincount(groups).max() <= max(len(vectors) * LARGEST_GROUP, 1):
            return groups
    return np.arange(len(vectors))


def near_copies(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Group rows whose centred vectors [N, F] have a cosine of at least `threshold`, directly or through other rows.

    Returns:
        Number of each row's group, int64 [N].
    """
    unit = to_unit(vectors - vectors.mean(axis=0))
    pairs = []
    for start in range(0, len(unit), BLOCK):
        row, column = np.nonzero(unit[start : start + BLOCK] @ unit.T >= threshold)
        pairs.append(np.stack([row + start, column]))
    starts, ends = np.concatenate(pairs, axis=1)
    return number(_components(starts, ends, len(unit)))


def grouped_folds(labels: np.ndarray, groups: np.ndarray, seed: int, folds: int = FOLDS) -> np.ndarray:
    """Draw folds that keep groups whole and hold equal shares of each class.

    Args:
        labels: int [N], from 0; a group is assigned to the rarest class of its rows.
        groups: group numbers, int [N].
        seed: seed of the draw.
        folds: number of folds.

    Returns:
        Fold of each row, int64 [N].
    """
    groups = number(groups)
    rare_first = np.argsort(np.bincount(labels)[labels], kind="stable")
    _, first = np.unique(groups[rare_first], return_index=True)
    class_of_group = labels[rare_first[first]]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), class_of_group))
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[order] = np.arange(len(first)) % folds  # class after class, each in random order, like cards
    return np.asarray(dealt[groups])


def groups_per_class(labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Count the groups that each class's rows lie in, int64 [C]; rows with label -1 are left out."""
    pairs = np.unique(np.stack([labels[labels >= 0], groups[labels >= 0]]), axis=1)
    return np.bincount(pairs[0].astype(np.int64), minlength=classes)


def number(values: np.ndarray) -> np.ndarray:
    """Number the distinct values [N] from 0, in ascending order, int64 [N]."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [N, D] to length 1; those of length 0 stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def _components(starts: np.ndarray, ends: np.ndarray, nodes: int) -> np.ndarray:
    """Return the connected component of each node [nodes] of an undirected graph, given its edges [E]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1])
