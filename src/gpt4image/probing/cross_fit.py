"""Each row labelled by a classifier that has seen neither it nor its like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.probing.calibration import LabelQuality, blocks, fit_temperature, measure_quality
from gpt4image.probing.folds import FOLDS, grouped_folds, number
from gpt4image.probing.logistic_regression import SoftmaxRegression, fit_softmax_regression

if TYPE_CHECKING:
    import torch


STRENGTH = 3.0


"""Inverse strength of the regularisation."""


@dataclass(frozen=True)
class CrossFit:
    """Cross-fitted answers.

    Attributes:
        logits: log-probabilities, float32 [N, C] unless another array was given to be filled.
        folds: fold of each row, int64 [N]: it was answered by the model that was fitted to the other folds. -1 where
            no model has seen the row or its group: the mean of all models' log-probabilities.
        temperature: divides the logits before the softmax, so that the probabilities of labelled rows fit best.
        quality: how good the answers to labelled rows are, at that temperature.
    """

    logits: np.ndarray
    folds: np.ndarray
    temperature: float
    quality: LabelQuality


def cross_fit(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: Sequence[str],
    *,
    folds: int = FOLDS,
    strength: float = STRENGTH,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: np.ndarray | None = None,
) -> CrossFit:
    """Answer each row by a softmax regression that was fitted to the folds in which neither it nor its group lies.

    Cross-fitting as in Chernozhukov et al., "Double/debiased machine learning", 2018, definition 3.1, with groups kept
    whole and each class dealt out evenly. A class that is absent from what a model has learned from gets, of 1, the
    share 1 / (n + 1) of one more row after the n rows learned from (Laplace), divided among all such classes.

    Args:
        vectors: float [N, D] of any precision; may be a memory map.
        labels: int [N], -1 where there is none.
        groups: number of each row's group, int [N]: rows that must not vouch for each other, such as copies of an
            image and images of the same text.
        classes: names of the C classes.
        folds: number of folds.
        strength: inverse strength of the regularisation, as `C` of scikit-learn's `LogisticRegression`.
        seed: seed of the folds.
        device: where models are fitted; the fastest available when not given.
        out: array [N, C] to fill, such as a memory map, where the logits do not fit into memory.

    Raises:
        ConfigError: fewer than two folds, or arrays of different lengths.
        DataError: labelled rows lie in fewer than two groups, or fewer than two classes have one.
    """
    check_arguments(vectors, labels, groups, classes, folds)
    fold_of = deal_out(labels, groups, folds, seed)
    learnt = np.flatnonzero(labels >= 0)
    logits = np.empty((len(labels), len(classes)), dtype=np.float32) if out is None else out
    unseen = np.flatnonzero(fold_of < 0)
    logits[unseen] = 0
    used = np.unique(fold_of[learnt]).tolist()
    with console.progress("Label images by their vectors", len(used)) as meter:
        for fold in used:
            model = fit_present(vectors, labels, learnt[fold_of[learnt] != fold], len(classes), strength, device)
            for rows in blocks(np.flatnonzero(fold_of == fold)):
                logits[rows] = model.log_probabilities(vectors[rows])
            for rows in blocks(unseen):
                logits[rows] += model.log_probabilities(vectors[rows]) / len(used)
            meter.advance()
    temperature = fit_temperature(logits, labels, seed)
    return CrossFit(logits, fold_of, temperature, measure_quality(logits, labels, temperature))


def check_arguments(
    vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], folds: int
) -> None:
    """ConfigError or DataError when nothing can be cross-fitted."""
    if folds < 2:
        raise ConfigError(f"Cross-fitting takes at least 2 folds, not {folds}.")
    if not len(vectors) == len(labels) == len(groups):
        raise ConfigError(f"{len(vectors):,} vectors, {len(labels):,} labels and {len(groups):,} groups do not match.")
    known = labels >= 0
    found = len(np.unique(labels[known]))
    if labels.max(initial=-1) >= len(classes):
        raise ConfigError(f"Label {labels.max()} is beyond the {len(classes):,} classes.")
    if found < 2:
        raise DataError(f"Labels can be learnt from two classes and more; labelled rows have {found}.")
    if len(np.unique(groups[known])) < 2:
        raise DataError("All labelled rows lie in one group, such as images of one text: none can vouch for another.")


def deal_out(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each row, int64 [N]; unlabelled rows share that of their group, -1 where none of it is labelled."""
    groups = number(groups)
    known = labels >= 0
    fold_of_group = np.full(int(groups.max()) + 1, -1, dtype=np.int64)
    fold_of_group[groups[known]] = grouped_folds(labels[known], groups[known], seed, folds)
    return np.asarray(fold_of_group[groups])


@dataclass(frozen=True)
class PartialModel:
    """A model of some of the classes.

    Attributes:
        model: answers for the classes it has seen.
        seen: their numbers, int64 [S], sorted.
        classes: number C of all classes.
        rows: number n of rows it has learned from.
    """

    model: SoftmaxRegression
    seen: np.ndarray
    classes: int
    rows: int

    def log_probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Log-probabilities of vectors [B, D] for all classes, float32 [B, C]."""
        absent = self.classes - len(self.seen)
        answers = self.model.log_probabilities(vectors)
        if not absent:
            return answers
        whole = np.full((len(vectors), self.classes), -np.log((self.rows + 1) * absent), dtype=np.float32)
        whole[:, self.seen] = answers + np.log(self.rows / (self.rows + 1))
        return whole


def fit_present(
    vectors: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    classes: int,
    strength: float,
    device: torch.device | str | None,
) -> PartialModel:
    """Fit a model of the classes that occur among some rows, int64 [n]."""
    seen = np.unique(labels[rows])
    places = np.searchsorted(seen, labels)
    model = fit_softmax_regression(vectors, places, len(seen), strength=strength, rows=rows, device=device)
    return PartialModel(model, seen, classes, len(rows))
