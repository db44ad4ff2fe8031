"""Confusion matrices as tables; with many classes, the most frequent confusions as a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gpt4image.compare.records import ArmRecord, Comparison


MATRIX_AT_MOST, LISTED = 30, 25


@dataclass(frozen=True)
class Cell:
    """A count, and its share of the row's images."""

    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """One arm's confusion matrix: a row a true class, a column an answer."""

    arm: ArmRecord
    number: int
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Confusion:
    """Images of one class taken for another, by arm."""

    truth: str
    answer: str
    cells: list[Cell]


def matrices(comparison: Comparison) -> list[Matrix]:
    """Every arm's matrix; none where there are too many classes to read one."""
    if len(comparison.classes) > MATRIX_AT_MOST:
        return []
    return [_matrix(comparison.classes, arm, number) for number, arm in enumerate(comparison.arms)]


def _matrix(classes: list[str], arm: ArmRecord, number: int) -> Matrix:
    """Counts with their share of the row."""
    rows = [[Cell(count, _share(count, sum(row))) for count in row] for row in arm.confusion]
    return Matrix(arm, number, list(zip(classes, rows, strict=True)))


def frequent_confusions(comparison: Comparison) -> list[Confusion]:
    """The most frequent confusions over all arms, most frequent first."""
    counts = np.array([arm.confusion for arm in comparison.arms], dtype=np.int64)
    if not counts.size:
        return []
    classes, totals = comparison.classes, counts.sum(axis=2)
    wrong = counts.sum(axis=0)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    places = [(int(flat) // len(classes), int(flat) % len(classes)) for flat in order]
    return [
        Confusion(
            classes[truth],
            classes[answer],
            [
                Cell(int(arm[truth, answer]), _share(int(arm[truth, answer]), int(total[truth])))
                for arm, total in zip(counts, totals, strict=True)
            ],
        )
        for truth, answer in places
        if wrong[truth, answer]
    ]


def _share(count: int, total: int) -> float:
    """Share of 1; zero where the class has no test image."""
    return count / total if total else 0.0
