"""The labeller: labels for all rows from vectors, some given labels that may be wrong, and texts of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, logsumexp

from gpt4image.probing.calibration import adjust_for_skew, class_shares
from gpt4image.probing.cross_fit import CrossFit, Fitter, Refits, cross_fit
from gpt4image.probing.folds import FOLDS, to_unit
from gpt4image.probing.intervals import Interval, weighted_share
from gpt4image.probing.label_noise import NoiseEstimate, NoiseModel, estimate_noise, fit_noise_model

if TYPE_CHECKING:
    import torch

STRENGTH = 10.0  # inverse strength of the regularisation
LIKENESS = 0.2  # temperature of the likeness to the classes' texts, where there are labels as well
LIKENESS_ALONE = 0.1  # the same where it has to label alone
SELF_TRAINING = Refits(rounds=4)
ROBUST = Refits(trims=1, rounds=2)
ROBUST_STRENGTH = 3.0  # weaker fits memorise fewer wrong labels
MOST_TRIED_ON = 20_000  # labelled rows beyond which only the plain fit is tried: labels are no longer scarce
NOISE_ROWS = 30  # labelled rows per class, on average, from which the share of wrong labels is estimated
CLEAN = 0.01  # given labels are kept unless more than this share is wrong, at the lower end of the interval
NOISY = 0.03  # doubtful labels are certainly left out of the fit if more than this share is wrong, at the lower end
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Examples:
    """Texts of the classes as labelled rows.

    Attributes:
        vectors: float [K, D].
        labels: class of each, int [K]; every class has at least one.
    """

    vectors: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Labelling:
    """Labels for all rows.

    Attributes:
        out_of_fold: calibrated log-probabilities of a classifier that has not seen the row's label, float64 [N, C].
        method: how the classifier was fitted.
        accuracy: expected share of right labels among those of unlabelled rows, or of all rows if given labels are
            replaced; None if nothing measures it.
        per_class: share of right answers out of fold among each class's rows; None for classes without a label.
        wrong: share of wrong labels among the given ones; None if there are too few to tell.
        noise: how given labels arise from true ones; None likewise.
        replaced: whether given labels are replaced by the posterior of the true class.
        chance: accuracy of always naming the class that is expected most often.
    """

    out_of_fold: np.ndarray
    method: str
    accuracy: Interval | None
    per_class: tuple[Interval | None, ...]
    wrong: Interval | None
    noise: NoiseModel | None
    replaced: bool
    chance: float = 0.0

    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return log-probabilities of the true class given labels as well, float64 [N, C].

        Those of a labelled row are the posterior or, unless labels are replaced, 0 for the label and -inf elsewhere.

        Args:
            labels: int [N], -1 for none; may name labels that the classifier was not fitted to.
        """
        if self.replaced:
            return self.posterior(labels)
        known, found = np.flatnonzero(labels >= 0), self.out_of_fold.copy()
        found[known] = -np.inf
        found[known, labels[known]] = 0.0
        return found

    def posterior(self, labels: np.ndarray) -> np.ndarray:
        """Return log-probabilities of the true class given labels that may be wrong, float64 [N, C].

        s_i(k) is proportional to q_i(k) T_k,y_i; where T was not estimated, s = q.

        Args:
            labels: int [N], -1 for none.
        """
        if self.noise is None:
            return self.out_of_fold
        return NoiseModel(np.ones(1), self.noise.log_transition).posterior([self.out_of_fold], labels)


def label_rows(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    examples: Examples | None = None,
    *,
    strength: float = STRENGTH,
    folds: int = FOLDS,
    seed: int = 0,
    device: torch.device | str | None = None,
    adjustment: float = 0.0,
) -> Labelling:
    """Label rows by a classifier on their vectors, and judge given labels by it.

    Several ways of fitting are tried, with and without the classes' texts and self-training, and compared by their
    out-of-fold likelihood. If many given labels turn out wrong, it is fitted again without the doubtful ones.
    A row's own label is judged by models that have not seen it; unlabelled rows are labelled by a model of all labels.

    Args:
        vectors: float [N, D].
        labels: given classes, int [N], -1 for none; all -1 if there are examples.
        groups: leakage groups, int [N].
        classes: number C of classes.
        examples: texts of the classes in the same vector space.
        strength: inverse strength of the regularisation.
        folds: number of folds.
        seed: seed of folds and resampling.
        device: device of the fits.
        adjustment: strength of the logit adjustment for skewed labels, of the labels of unlabelled rows.

    Raises:
        DataError: without examples, the labels have fewer than two classes or groups.
    """
    rows = _Rows.of(vectors, labels, groups, classes, examples)
    settings = _Settings(strength, folds, seed, device)
    if examples is not None and len(np.unique(labels[labels >= 0])) < 2:
        return _label_by_examples(rows, settings)
    best, logits = _choose(rows, settings)
    noise, estimate = _judge_labels(rows, logits, seed)
    if noise is not None and estimate is not None:
        name = f"{best.name}, doubtful labels left out"
        robust = replace(best, name=name, refits=ROBUST, strength=min(ROBUST_STRENGTH, strength))
        again = robust.out_of_fold(rows, settings).logits[: rows.count]
        if estimate.wrong.low > NOISY or not _fits_worse(rows.given, again, logits):
            best, logits = robust, again
            noise, estimate = _judge_labels(rows, logits, seed)
    free = labels < 0
    if free.any():
        logits = logits.copy()
        logits[free] = best.label(rows, settings)[: rows.count][free]
    replaced = estimate is not None and estimate.wrong.low > CLEAN
    temperature = best.temperature if noise is None else 1 / float(noise.weights[0])
    calibrated = np.asarray(log_softmax(logits.astype(np.float64) / temperature, axis=1))
    adjusted = adjust_for_skew(calibrated, labels, adjustment)
    right = adjusted.argmax(axis=1) == labels
    return Labelling(
        out_of_fold=np.where(free[:, None], adjusted, calibrated),
        method=best.name,
        accuracy=estimate.right if estimate and replaced else _expected(right, labels, calibrated),
        per_class=_per_class(right, labels, classes),
        wrong=estimate.wrong if estimate else None,
        noise=noise,
        replaced=replaced,
        chance=float(_shares(labels, calibrated).max()),
    )


@dataclass(frozen=True)
class _Rows:
    """The rows to label, then the examples.

    Attributes:
        likeness: cosines to the classes' texts, float32 [N + K, C]; None without examples.
        count: number N of rows to label.
    """

    vectors: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    likeness: np.ndarray | None
    count: int

    @classmethod
    def of(
        cls, vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, examples: Examples | None
    ) -> _Rows:
        if examples is None:
            return cls(vectors, labels, groups, classes, None, len(labels))
        extra = np.arange(len(examples.labels)) + int(groups.max(initial=0)) + 1
        both = np.concatenate([np.asarray(vectors, np.float32), examples.vectors.astype(np.float32)])
        return cls(
            both,
            np.concatenate([labels, examples.labels]),
            np.concatenate([groups, extra]),
            classes,
            likeness(both, len(labels), examples.labels, classes),
            len(labels),
        )

    @property
    def given(self) -> np.ndarray:
        """Given labels of the rows to label [N]."""
        return self.labels[: self.count]

    def prior(self, temperature: float = LIKENESS) -> np.ndarray:
        """Return the log-softmax of the likeness, float32 [N + K, C]."""
        assert self.likeness is not None
        return np.asarray(log_softmax(self.likeness / temperature, axis=1))

    @property
    def is_example(self) -> np.ndarray:
        """Which rows are examples, bool [N + K]."""
        return np.arange(len(self.labels)) >= self.count


def likeness(vectors: np.ndarray, count: int, example_labels: np.ndarray, classes: int) -> np.ndarray:
    """Return cos(v - m, c_k - m'), float32 [N + K, C].

    CLIP classifies by cosines (Radford et al., arXiv 2103.00020, section 3.1); here the mean m of the N rows and the
    mean m' of the classes are subtracted first, because texts of different kinds differ in much that says nothing about
    classes.

    Args:
        vectors: rows, then examples, float [N + K, D].
        count: number N of rows.
        example_labels: class of each example, int [K]; c_k is the mean of its examples.
        classes: number C of classes.
    """
    names = np.zeros((classes, vectors.shape[1]))
    np.add.at(names, example_labels, vectors[count:])
    names /= np.bincount(example_labels, minlength=classes)[:, None]
    rows = to_unit(vectors - vectors[:count].mean(axis=0))
    return np.asarray(rows @ to_unit(names - names.mean(axis=0)).T, dtype=np.float32)


@dataclass(frozen=True)
class _Settings:
    strength: float
    folds: int
    seed: int
    device: torch.device | str | None


@dataclass(frozen=True)
class _Method:
    """A way of fitting the classifier.

    Attributes:
        name: what it is, in words.
        examples: whether it learns from the examples.
        likeness: whether the likeness to the classes' texts is multiplied in.
        refits: how it is fitted again.
        strength: inverse strength of the regularisation; None for the settings'.
        temperature: temperature that fits its out-of-fold predictions best.
    """

    name: str
    examples: bool = False
    likeness: bool = False
    refits: Refits | None = None
    strength: float | None = None
    temperature: float = 1.0

    def out_of_fold(self, rows: _Rows, settings: _Settings) -> CrossFit:
        """Cross-fit the labelled rows."""
        labels = rows.labels if self.examples else np.where(rows.is_example, -1, rows.labels)
        return cross_fit(
            rows.vectors,
            labels,
            rows.groups,
            rows.classes,
            folds=settings.folds,
            strength=self.strength or settings.strength,
            seed=settings.seed,
            tolerance=TOLERANCE,
            device=settings.device,
            examples=rows.is_example if self.examples else None,
            prior=rows.prior() if self.likeness else None,
            refits=self.refits,
            title=f"Label images: {self.name}",
        )

    def label(self, rows: _Rows, settings: _Settings) -> np.ndarray:
        """Return log-probabilities of all rows by a model of all labels, float32 [N + K, C]."""
        labels = rows.labels if self.examples else np.where(rows.is_example, -1, rows.labels)
        prior, strength = rows.prior() if self.likeness else None, self.strength or settings.strength
        fitter = Fitter(rows.vectors, labels, rows.classes, TOLERANCE, settings.device, prior)
        known = np.flatnonzero(labels >= 0)
        model = fitter.fit(known, strength)
        if self.refits is not None:
            model = self.refits.refit(fitter, model, known, rows.groups, strength, settings.seed)
        return fitter.predict(model, np.arange(len(labels)))


def _methods(rows: _Rows) -> Iterator[_Method]:
    """Yield the ways of fitting to try, those that serve scarce labels first."""
    scarce = (rows.given >= 0).sum() <= MOST_TRIED_ON
    if scarce and rows.likeness is not None and (rows.given < 0).any():
        yield _Method("class texts, their likeness and self-training", True, True, SELF_TRAINING)
        yield _Method("class texts and self-training", examples=True, refits=SELF_TRAINING)
    if scarce and (rows.given < 0).any():
        yield _Method("self-training", refits=SELF_TRAINING)
    if scarce and rows.likeness is not None:
        yield _Method("class texts", examples=True)
    yield _Method("plain fit")


def _choose(rows: _Rows, settings: _Settings) -> tuple[_Method, np.ndarray]:
    """Return a method and its out-of-fold log-probabilities [N, C].

    A method gives way to a later one whose out-of-fold loss is lower by more than the standard error of the difference:
    few labels cannot tell near equals apart.
    """
    known = np.flatnonzero(rows.given >= 0)
    chosen: tuple[_Method, np.ndarray, np.ndarray] | None = None
    for method in _methods(rows):
        fitted = method.out_of_fold(rows, settings)
        logits = fitted.logits[: rows.count]
        scaled = log_softmax(logits[known].astype(np.float64) / fitted.temperature, axis=1)
        losses = -scaled[np.arange(len(known)), rows.given[known]]
        if chosen is None or _clearly_lower(losses - chosen[2]):
            chosen = replace(method, temperature=fitted.temperature), logits, losses
    assert chosen is not None
    return chosen[0], chosen[1]


def _clearly_lower(differences: np.ndarray) -> bool:
    """Return whether the mean of differences [n] is below 0 by more than its standard error."""
    return bool(differences.mean() < -differences.std() / len(differences) ** 0.5)


def _fits_worse(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether one classifier explains the given labels clearly worse than another, both with errors allowed for.

    A classifier can learn systematic errors and then sees none. One that has learned from the labels it trusts explains
    them as well, by T; where labels are clean, leaving out a part of them costs likelihood.
    """
    known = np.flatnonzero(labels >= 0)
    losses = []
    for logits in (one[known], other[known]):
        model = fit_noise_model([logits], labels[known])
        joint = model.log_probabilities([logits]) + model.log_transition.T[labels[known]]
        losses.append(-logsumexp(joint, axis=1))
    return _clearly_lower(losses[1] - losses[0])


def _label_by_examples(rows: _Rows, settings: _Settings) -> Labelling:
    """Label rows by the classes' texts, where given labels are too few to measure anything."""
    prior = rows.prior(LIKENESS_ALONE)
    fitter = Fitter(rows.vectors, rows.labels, rows.classes, TOLERANCE, settings.device, prior)
    known = np.flatnonzero(rows.labels >= 0)
    model = SELF_TRAINING.self_train(fitter, lambda some: prior[some], known, settings.strength)
    logits = fitter.predict(model, np.arange(rows.count)).astype(np.float64)
    return Labelling(
        out_of_fold=logits,
        method="likeness to class texts and self-training",
        accuracy=None,
        per_class=(None,) * rows.classes,
        wrong=None,
        noise=None,
        replaced=False,
    )


def _judge_labels(rows: _Rows, logits: np.ndarray, seed: int) -> tuple[NoiseModel, NoiseEstimate] | tuple[None, None]:
    """Fit how given labels arise from true ones; None if there are too few."""
    if (rows.given >= 0).sum() < NOISE_ROWS * rows.classes:
        return None, None
    model = fit_noise_model([logits], rows.given)
    return model, estimate_noise(model, [logits], rows.given, rows.groups[: rows.count], seed)


def _expected(right: np.ndarray, labels: np.ndarray, calibrated: np.ndarray) -> Interval | None:
    """Estimate the accuracy of labels of unlabelled rows from labelled rows.

    Labelled rows may be drawn from other proportions of the classes, so those of a class together weigh as much as the
    class is likely among unlabelled rows.
    """
    known = np.flatnonzero(labels >= 0)
    given = labels[known]
    weights = (_shares(labels, calibrated) / np.maximum(np.bincount(given, minlength=calibrated.shape[1]), 1))[given]
    return weighted_share(right[known], weights)


def _shares(labels: np.ndarray, calibrated: np.ndarray) -> np.ndarray:
    """Return the classes' expected shares among unlabelled rows, or their shares among all rows if there are none."""
    counts = np.bincount(labels[labels >= 0], minlength=calibrated.shape[1])
    free = labels < 0
    return class_shares(np.exp(calibrated[free]), counts) if free.any() else counts / counts.sum()


def _per_class(right: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Interval | None, ...]:
    of_class: Sequence[np.ndarray] = [right[labels == value] for value in range(classes)]
    return tuple(weighted_share(own, np.ones(len(own))) if len(own) else None for own in of_class)
