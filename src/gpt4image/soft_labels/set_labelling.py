"""The labeller for several labels per image: it learns to label texts from labels that may be few, missing or wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, logit

from gpt4image.core import console
from gpt4image.core.errors import DataError
from gpt4image.probing.calibration import TEMPERATURES
from gpt4image.probing.cross_fit import deal_out
from gpt4image.probing.folds import FOLDS, number
from gpt4image.probing.intervals import Interval, ratio_interval, weighted_share
from gpt4image.probing.label_noise import NoiseEstimate, NoiseModel, estimate_noise, fit_noise_model
from gpt4image.probing.label_regression import LabelRegressions, fit_label_regressions
from gpt4image.probing.logistic_regression import turn_to_axes
from gpt4image.soft_labels.labelling import CLEAN
from gpt4image.soft_labels.methods import STRENGTH, TOLERANCE, Examples

OTHER_STRENGTHS = (1.0, 3.0, 30.0, 100.0)
FEWEST_PRESENT = 30  # present and absent labels, each, needed to estimate how many are wrong


@dataclass(frozen=True)
class SetLabelling:
    """Labels for every image and class, from texts.

    Attributes:
        log_odds: calibrated log p / (1 - p) of each label being present, float64 [N, C]: for given labels from models
            that have not seen them, for unknown ones from a model fitted to all known labels.
        told: which classes have both present and absent labels, so that texts can predict them, bool [C].
        method: how the classifiers were fitted.
        precision: share of given labels among the labels found from texts, out of fold.
        recall: share of the given labels that are found from texts, out of fold.
        per_class: precision and recall of each class; None where the denominator is zero.
        noise: how given labels, absent and present, arise from true ones, the same for all classes; None if there are
            too few to estimate, or texts are not shown to predict labels better than the classes' shares.
        estimate: share of wrong labels among the given ones, present and absent; None where `noise` is.
    """

    log_odds: np.ndarray
    told: np.ndarray
    method: str
    precision: Interval | None
    recall: Interval | None
    per_class: tuple[tuple[float | None, float | None], ...]
    noise: NoiseModel | None
    estimate: NoiseEstimate | None

    @property
    def replaced(self) -> bool:
        """Whether enough given labels are wrong for the posterior to replace them."""
        return self.estimate is not None and self.estimate.wrong.low > CLEAN

    def probabilities(self, marks: np.ndarray) -> np.ndarray:
        """Return the probability that each label is present, given labels that may be wrong, float64 [N, C].

        For a given label y it is s(1), where s(k) is proportional to q(k) T_ky, unless so few labels are wrong that
        given ones are kept. NaN for classes that texts cannot predict.

        Args:
            marks: given labels, int [N, C]: 1 present, 0 absent, -1 unknown.
        """
        found = np.where(self.told, expit(self.log_odds), np.nan)
        known = marks >= 0
        if self.replaced and self.noise is not None:
            judged = known & self.told
            posterior = self.noise.posterior([_both(self.log_odds[judged])], marks[judged].astype(np.int64))
            found[judged] = np.exp(posterior[:, 1])
            known = known & ~self.told
        found[known] = marks[known]
        return found


class _Fit(NamedTuple):
    """Out-of-fold log-odds [N, C] of one way of fitting, and the mean loss of each row [N] at its best temperature."""

    strength: float
    examples: bool
    log_odds: np.ndarray
    temperature: float
    losses: np.ndarray


def label_rows_with_sets(
    vectors: np.ndarray,
    marks: np.ndarray,
    groups: np.ndarray,
    examples: Examples | None = None,
    *,
    strength: float | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> SetLabelling:
    """Label rows by one logistic regression per class on their vectors, and judge given labels by them.

    An unknown label is not taken to be absent: it has no part in the fit of its class. A given label is judged by
    models that have not seen it or its leakage group; an unknown one is predicted by models fitted to all known labels.
    All classes share the strength of regularisation, the temperature, and the rates of wrong labels, which the few
    labels of a class could not determine.

    Args:
        vectors: float [N, D].
        marks: given labels, int [N, C]: 1 present, 0 absent, -1 unknown.
        groups: leakage groups, int [N].
        examples: texts of the classes in the same vector space, as rows in which all other classes are absent.
        strength: inverse strength of the regularisation; by default 10, or another value that fits the labels clearly
            better.
        folds: number of folds.
        seed: seed of folds and resampling.

    Raises:
        DataError: no class has both present and absent labels, or all known labels lie in one group.
    """
    told = (marks > 0).any(axis=0) & (marks == 0).any(axis=0)
    order = number(_rarest(marks))  # the classes by which the folds are stratified
    fold_of = deal_out(np.where((marks >= 0).any(axis=1), order, -1), groups, folds, seed)
    used = np.unique(fold_of[fold_of >= 0]).tolist()
    if not told.any() or len(used) < 2:
        raise DataError(
            "Texts cannot tell which labels are present: it takes a class that is known to be present in some images "
            "and absent in others, and two images with different texts."
        )
    rows = _Rows.of(vectors, marks, examples)
    known = marks >= 0
    shares = logit(((marks > 0).sum(axis=0) + 0.5) / (known.sum(axis=0) + 1))  # log-odds of the classes [C]

    def out_of_fold(strength: float, with_examples: bool) -> _Fit:
        found = np.zeros(marks.shape)
        fitted: LabelRegressions | None = None
        for fold in used:
            fitted = rows.fit(np.flatnonzero(fold_of != fold), strength, with_examples)
            own = fold_of == fold
            found[own] = fitted.log_odds(rows.vectors[: len(marks)][own])
        judged = known & told
        base = np.broadcast_to(shares, marks.shape)[judged]
        temperature = fit_odds_temperature(found[judged], marks[judged] > 0, base)
        losses = _losses(shares + (found - shares) / temperature, marks, told)
        return _Fit(strength, with_examples, found, temperature, losses)

    first = STRENGTH if strength is None else strength
    with console.doing("Label images by their texts, a class at a time"):
        best = out_of_fold(first, examples is not None)
        if examples is not None and _clearly_better(without := out_of_fold(first, False), best, errors=1):
            best = without
        for other in OTHER_STRENGTHS if strength is None else ():
            if _clearly_better(tried := out_of_fold(other, best.examples), best, errors=2):
                best = tried
        whole = rows.fit(np.arange(len(marks)), best.strength, best.examples)
        by_all = whole.log_odds(rows.vectors[: len(marks)])
    log_odds = shares + (np.where(known, best.log_odds, by_all) - shares) / best.temperature
    judged = known & told
    noise = estimate = None
    given = marks[judged].astype(np.int64)
    # as with one class per image, the estimate would be its prior if texts predicted no more than the classes' shares
    nothing = best._replace(losses=_losses(np.broadcast_to(shares, marks.shape), marks, told))
    if min(given.sum(), (1 - given).sum()) >= FEWEST_PRESENT and _clearly_better(best, nothing, errors=2):
        classifier = _both(log_odds[judged])
        noise = fit_noise_model([classifier], given)
        image = np.broadcast_to(groups[:, None], marks.shape)[judged]
        estimate = estimate_noise(noise, [classifier], given, image, seed)
    chosen = log_odds > 0
    method = "one logistic regression a class" + (", class texts" if best.examples else "")
    return SetLabelling(
        log_odds=log_odds,
        told=told,
        method=method if best.strength == STRENGTH else f"{method}, strength {best.strength:g}",
        precision=_ratio(chosen & (marks > 0), chosen & judged, groups),
        recall=_ratio(chosen & (marks > 0), (marks > 0) & told, groups),
        per_class=tuple(_precision_and_recall(chosen[:, k], marks[:, k]) for k in range(marks.shape[1])),
        noise=noise,
        estimate=estimate,
    )


@dataclass(frozen=True)
class _Rows:
    """Vectors along their principal axes [N + K, D] and labels [N + K, C] of N rows and of K texts of classes."""

    vectors: np.ndarray
    marks: np.ndarray
    count: int

    @classmethod
    def of(cls, vectors: np.ndarray, marks: np.ndarray, examples: Examples | None) -> _Rows:
        if examples is None:
            return cls(turn_to_axes(vectors), marks, len(marks))
        own = np.eye(marks.shape[1], dtype=marks.dtype)[examples.labels]
        both = np.concatenate([np.asarray(vectors, np.float32), examples.vectors.astype(np.float32)])
        return cls(turn_to_axes(both), np.concatenate([marks, own]), len(marks))

    def fit(self, rows: np.ndarray, strength: float, with_examples: bool) -> LabelRegressions:
        """Fit classifiers to rows, int64 [n], and with `with_examples` to the texts of classes."""
        rows = rows[(self.marks[rows] >= 0).any(axis=1)]
        if with_examples:
            rows = np.concatenate([rows, np.arange(self.count, len(self.marks))])
        return fit_label_regressions(self.vectors[rows], self.marks[rows], strength=strength, tolerance=TOLERANCE)


def fit_odds_temperature(log_odds: np.ndarray, present: np.ndarray, base: np.ndarray) -> float:
    """Return the temperature T, from 0.05 to 20, at which base + (log_odds - base) / T explains the labels best.

    Guo et al., arXiv 1706.04599, section 4.1, for two classes, around the log-odds of a class's share, which remain
    where a text carries no information.

    Args:
        log_odds: float [n].
        present: whether each label is present, bool [n].
        base: log-odds of the share of its class, float [n].
    """
    from scipy.optimize import minimize_scalar

    sign = np.where(present, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(-log_expit(sign * (base + (log_odds - base) / np.exp(log_temperature))).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def _both(log_odds: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of absent and present, [n, 2]."""
    return np.stack([log_expit(-log_odds), log_expit(log_odds)], axis=1)


def _losses(log_odds: np.ndarray, marks: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Return, for each row with known labels, the sum of their -log probability, [n]."""
    known = (marks >= 0) & told
    of_label = -log_expit(np.where(marks > 0, log_odds, -log_odds))
    return np.asarray(np.where(known, of_label, 0.0).sum(axis=1)[known.any(axis=1)])


def _clearly_better(one: _Fit, other: _Fit, errors: float) -> bool:
    """Return whether one fit's loss is lower than another's by more than `errors` standard errors of the difference."""
    differences = one.losses - other.losses
    return bool(differences.mean() < -errors * differences.std() / len(differences) ** 0.5)


def _rarest(marks: np.ndarray) -> np.ndarray:
    """Return the rarest class that is present in each row, int64 [N]; C where none is."""
    present = marks > 0
    order = np.argsort(present.sum(axis=0), kind="stable")
    return np.asarray(np.where(present.any(axis=1), order[present[:, order].argmax(axis=1)], marks.shape[1]))


def _ratio(counted: np.ndarray, among: np.ndarray, groups: np.ndarray) -> Interval | None:
    """Return the ratio of two counts of labels, bool [N, C] each, with an interval over groups [N]."""
    if not among.any():
        return None
    found = ratio_interval(counted.sum(axis=1), among.sum(axis=1), groups)
    alone = weighted_share(counted[among], np.ones(int(among.sum())))  # wider where none or all are counted
    return replace(found, low=min(found.low, alone.low), high=max(found.high, alone.high))


def _precision_and_recall(chosen: np.ndarray, marks: np.ndarray) -> tuple[float | None, float | None]:
    found, known, present = int((chosen & (marks > 0)).sum()), chosen & (marks >= 0), marks > 0
    return (found / int(known.sum()) if known.any() else None), (found / int(present.sum()) if present.any() else None)
