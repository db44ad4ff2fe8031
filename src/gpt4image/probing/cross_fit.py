"""Out-of-fold prediction: each row is predicted by a model that has seen neither the row nor its leakage group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.probing.calibration import LabelQuality, blocks, fit_temperature, measure_quality
from gpt4image.probing.fitter import Fits, Fitter, PartialModel
from gpt4image.probing.folds import FOLDS, grouped_folds, number
from gpt4image.probing.logistic_regression import TOLERANCE

if TYPE_CHECKING:
    import torch

STRENGTH = 3.0  # inverse strength of the regularisation
RANKING = 1e-4  # tolerance of fits that only rank labels
STRENGTHS = (0.03, 0.3, 3.0, 30.0)  # strengths to choose from, for vectors scaled by `standardise`


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold predictions.

    Attributes:
        logits: log-probabilities [N, C], float32 unless an array was given to fill.
        folds: fold of each row, int64 [N]: the row was predicted by the model fitted to all other folds. -1 where no
            model has seen the row or its group: there the models' log-probabilities are averaged.
        temperature: divides the logits before the softmax; fitted to the labelled rows.
        quality: quality of the predictions for labelled rows, at that temperature.
    """

    logits: np.ndarray
    folds: np.ndarray
    temperature: float
    quality: LabelQuality


def cross_fit(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    *,
    folds: int = FOLDS,
    strength: float | Sequence[float] = STRENGTH,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    device: torch.device | str | None = None,
    out: np.ndarray | None = None,
    title: str = "Label images by their vectors",
    examples: np.ndarray | None = None,
    prior: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
    refits: Refits | None = None,
    fits: Fits | None = None,
) -> CrossFit:
    """Predict each row by a softmax regression fitted to the folds without the row and its group.

    This is cross-fitting as in Chernozhukov et al., "Double/debiased machine learning", 2018, definition 3.1, with
    groups kept whole and each class spread evenly over the folds. Classes that are absent from a model's n training
    rows share the probability 1 / (n + 1), that of one more row (Laplace).

    Args:
        vectors: float [N, D] of any precision; may be a memory map.
        labels: int [N], -1 for none.
        groups: leakage group of each row, int [N], such as copies of an image and images with the same text.
        classes: number C of classes.
        folds: number of folds.
        strength: inverse strength of the regularisation (`fit_softmax_regression`). If there are several, each fold's
            model gets the one with the highest accuracy within the other folds (nested cross-validation).
        seed: seed of the folds.
        tolerance: tolerance of the fits (`fit_softmax_regression`).
        device: device of the fits; by default a GPU if there is one.
        out: array [N, C] to fill, such as a memory map for logits that do not fit into memory.
        title: caption of the progress line.
        examples: labelled rows that every model learns from and that are in no fold, such as the classes' names, bool
            [N]; each in a group of its own.
        prior: added to every model's log-probabilities, float [N, C], such as the likeness to the classes' names; or a
            function of a model's labelled rows, int64 [n], that returns it.
        refits: how each fold's model is fitted again after seeing all rows; by default not at all.
        fits: models already fitted to the same vectors with the same tolerance; by default none.

    Raises:
        ConfigError: fewer than two folds, arrays of different lengths, or a label beyond the classes.
        DataError: labelled rows lie in fewer than two groups, or belong to fewer than two classes.
    """
    judged = labels if examples is None else np.where(examples, -1, labels)
    check_arguments(vectors, judged, groups, classes, folds)
    fold_of = deal_out(judged, groups, folds, seed)
    known, unseen = np.flatnonzero(labels >= 0), np.flatnonzero(fold_of < 0)
    strengths = [strength] if isinstance(strength, int | float) else strength
    used = np.unique(fold_of[judged >= 0]).tolist()  # fewer than `folds` where there are few groups
    fits = fits or (Fits() if len(strengths) > 1 else None)
    fitter = Fitter(vectors, labels, classes, tolerance, device, None if callable(prior) else prior, fits)
    logits = np.empty((len(labels), classes), dtype=np.float32) if out is None else out
    logits[unseen] = 0
    trials = math.comb(len(used), 2) * len(strengths) if len(strengths) > 1 else 0
    with console.progress(title, trials + len(used)) as meter:
        chosen = choose_strengths(fitter, fold_of, used, strengths, meter.advance)
        for fold in used:
            train = known[fold_of[known] != fold]
            fitter = replace(fitter, prior=prior(train)) if callable(prior) else fitter
            if refits is None:
                model = fitter.fit(train, chosen[fold])
            else:
                model = refits.refit(fitter, None, train, groups, chosen[fold], seed)
            for rows in blocks(np.flatnonzero(fold_of == fold)):
                logits[rows] = fitter.predict(model, rows)
            for rows in blocks(unseen):
                logits[rows] += fitter.predict(model, rows) / len(used)
            meter.advance()
    temperature = fit_temperature(logits, judged, seed)
    return CrossFit(logits, fold_of, temperature, measure_quality(logits, judged, temperature))


def check_arguments(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, folds: int) -> None:
    """Raise ConfigError or DataError if nothing can be cross-fitted."""
    if folds < 2:
        raise ConfigError(f"Cross-fitting takes at least 2 folds, not {folds}.")
    if not len(vectors) == len(labels) == len(groups):
        raise ConfigError(f"{len(vectors):,} vectors, {len(labels):,} labels and {len(groups):,} groups do not match.")
    known = labels >= 0
    found = len(np.unique(labels[known]))
    if labels.max(initial=-1) >= classes:
        raise ConfigError(f"Label {labels.max()} is beyond the {classes:,} classes.")
    if found < 2:
        raise DataError(f"A classifier needs at least two classes; the labelled rows have {found}.")
    if len(np.unique(groups[known])) < 2:
        raise DataError(
            "All labelled rows are in one group, such as images with the same text: nothing can be held out."
        )


def deal_out(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Draw the fold of each row, int64 [N].

    Unlabelled rows share the fold of their group; it is -1 where no row of the group is labelled.
    """
    groups = number(groups)
    known = labels >= 0
    fold_of_group = np.full(int(groups.max()) + 1, -1, dtype=np.int64)
    fold_of_group[groups[known]] = grouped_folds(labels[known], groups[known], seed, folds)
    return np.asarray(fold_of_group[groups])


def choose_strengths(
    fitter: Fitter,
    fold_of: np.ndarray,
    used: Sequence[int],
    strengths: Sequence[float],
    fitted: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Choose the strength of each fold's model by nested cross-validation.

    A model fitted to all but two folds is tested on each of the two; its accuracy on one counts for the model of the
    other. No row influences the choice for its own prediction.

    Args:
        fitter: fits the models.
        fold_of: fold of each row, int64 [N].
        used: the folds with labelled rows; at least three if there are several strengths.
        strengths: the strengths to choose from; ties go to the first.
        fitted: called after each fit.
    """
    labels = fitter.labels
    right = {fold: np.zeros(len(strengths)) for fold in used}
    for pair in combinations(used, 2) if len(strengths) > 1 else ():
        train = np.flatnonzero((labels >= 0) & ~np.isin(fold_of, pair))
        for at, strength in enumerate(strengths):
            model = fitter.fit(train, strength)
            for judged, tried in (pair, pair[::-1]):
                for rows in blocks(np.flatnonzero((labels >= 0) & (fold_of == tried))):
                    predicted = fitter.predict(model, rows).argmax(axis=1)
                    right[judged][at] += (predicted == labels[rows]).sum()
            fitted()
    return {fold: strengths[int(counts.argmax())] for fold, counts in right.items()}


@dataclass(frozen=True)
class Refits:
    """How a model is fitted again: without labels that it doubts, and with its own labels for other rows.

    Attributes:
        trims: number of fits, each without the labels that the one before doubts.
        trimmed: share of each class's labels that are left out: those least likely under a model that has not seen them
            (iterative trimming; Shen and Sanghavi, arXiv 1810.11874).
        rounds: number of fits with the model's own labels (self-training; Scudder, "Probability of error of some
            adaptive pattern-recognition machines", 1965).
        sure: probability above which such a label is used.
    """

    trims: int = 0
    trimmed: float = 0.3
    rounds: int = 0
    sure: float = 0.7

    def refit(
        self,
        fitter: Fitter,
        model: PartialModel | None,
        train: np.ndarray,
        groups: np.ndarray,
        strength: float,
        seed: int,
    ) -> PartialModel:
        """Fit a model again and return the last fit.

        Labels of rows outside `train` are not used, so the model is still out-of-fold for these rows; their vectors
        take part in self-training.

        Args:
            fitter: fits the models.
            model: model of all of `train` to start from; None to fit one if needed.
            train: labelled rows to learn from, int64 [n].
            groups: leakage groups of all rows, int [N].
            strength: inverse strength of the regularisation.
            seed: seed of the inner folds.
        """
        trusted = self.trusted(fitter, train, groups, strength, seed)
        if self.trims:
            model = fitter.fit(trusted, strength, model or fitter.latest(train))
        elif model is None:
            model = fitter.fit(train, strength)
        guess = partial(fitter.predict, model)
        return self.self_train(fitter, guess, trusted, strength, model) if self.rounds else model

    def trusted(self, fitter: Fitter, train: np.ndarray, groups: np.ndarray, strength: float, seed: int) -> np.ndarray:
        """Return the rows of `train` [n] whose labels are not trimmed, int64 [m]; arguments as for `refit`."""
        kept, models = train, dict[int, PartialModel]()
        for _ in range(self.trims):
            kept = self._trust(fitter, train, kept, groups, strength, seed, models)
        return kept

    def self_train(
        self,
        fitter: Fitter,
        guess: Callable[[np.ndarray], np.ndarray],
        trusted: np.ndarray,
        strength: float,
        model: PartialModel | None = None,
    ) -> PartialModel:
        """Fit models in rounds, to the labels of trusted rows and to confident guesses for all others.

        Args:
            fitter: fits the models.
            guess: returns log-probabilities of rows, [B] to [B, C], for the first round; later ones use the last model.
            trusted: rows whose labels are used, int64 [n].
            strength: inverse strength of the regularisation.
            model: the model behind `guess`, if it is one, to start the first fit from.
        """
        others = np.setdiff1d(np.arange(len(fitter.labels)), trusted)
        for _ in range(self.rounds):
            guessed = np.concatenate([guess(rows) for rows in blocks(others)] or [np.empty((0, fitter.classes))])
            sure = guessed.max(axis=1) > math.log(self.sure)
            labels = fitter.labels.copy()
            labels[others[sure]] = guessed[sure].argmax(axis=1)
            alone = replace(fitter, labels=labels, fits=None)
            model = alone.fit(np.concatenate([trusted, others[sure]]), strength, model)
            guess = partial(fitter.predict, model)
        assert model is not None
        return model

    def _trust(
        self,
        fitter: Fitter,
        train: np.ndarray,
        trusted: np.ndarray,
        groups: np.ndarray,
        strength: float,
        seed: int,
        models: dict[int, PartialModel] | None = None,
    ) -> np.ndarray:
        """Return the rows of `train` [n] whose labels are likeliest under models of other folds' trusted rows.

        `models` holds the models of the last trim, by fold, to start from; it is updated with those of this one.
        """
        labels = fitter.labels[train]
        fold_of = deal_out(labels, groups[train], FOLDS, seed)
        believed = np.empty(len(train))  # log-probability of the given label
        is_trusted = np.isin(train, trusted)
        quick = replace(fitter, tolerance=max(fitter.tolerance, RANKING), fits=None)
        models = {} if models is None else models
        for fold in np.unique(fold_of).tolist():
            model = models[fold] = quick.fit(train[(fold_of != fold) & is_trusted], strength, models.get(fold))
            for places in blocks(np.flatnonzero(fold_of == fold)):
                found = fitter.predict(model, train[places])
                believed[places] = found[np.arange(len(places)), labels[places]]
        kept = np.zeros(len(train), dtype=bool)
        for value in np.unique(labels):
            of_class = np.flatnonzero(labels == value)
            doubtful = int(self.trimmed * len(of_class))
            kept[of_class[np.argsort(believed[of_class], kind="stable")[doubtful:]]] = True
        return train[kept]
