"""Ways of labelling rows: by their vectors, by the texts of the classes, and by the classes that an LLM picked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import log_softmax

from gpt4image.probing.calibration import measure_quality
from gpt4image.probing.cross_fit import CrossFit, Refits, cross_fit, deal_out
from gpt4image.probing.fitter import Fits, Fitter
from gpt4image.probing.folds import to_unit
from gpt4image.probing.logistic_regression import turn_to_axes

if TYPE_CHECKING:
    import torch

STRENGTH = 10.0  # inverse strength of the regularisation, unless another value fits the labels clearly better
OTHER_STRENGTHS = (1.0, 3.0, 30.0, 100.0)
FEWEST_LABELS = 3  # labels that the rarest class needs for the strength to be chosen
LIKENESS = 0.2  # temperature of the likeness to the classes' texts, combined with a classifier fitted to labels
LIKENESS_ALONE = 0.1  # its temperature without such a classifier
SELF_TRAINING = Refits(rounds=4)
MOST_TRIED_ON = 20_000  # with more labelled rows only the plain fit is tried: labels are no longer scarce
TOLERANCE = 1e-5
MOST_TURNED = 2**28  # elements of the vectors; larger arrays are not rotated, and each fit finds the axes itself
IMAGINED_RIGHT, IMAGINED_WRONG = 7.0, 3.0  # pseudo-counts of an LLM's right and wrong picks (prior)


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
class Rows:
    """The rows to label, then the examples.

    Attributes:
        vectors: float32 [N + K, D], rotated to their principal axes, which makes the many fits faster and changes no
            prediction; without columns where only picked classes label.
        labels: int [N + K], -1 for none.
        groups: leakage groups, int [N + K].
        classes: number C of classes.
        likeness: cosines to the classes' texts, float32 [N + K, C]; None without examples.
        picks: share of an LLM's answers that goes to each class, float32 [N + K, C]; None if it was not asked.
        count: number N of rows to label.
        fits: models that were fitted to the vectors.
    """

    vectors: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    likeness: np.ndarray | None
    picks: np.ndarray | None
    count: int
    fits: Fits = field(default_factory=Fits, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        vectors: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        classes: int,
        examples: Examples | None,
        picks: np.ndarray | None = None,
    ) -> Rows:
        """Append the examples to the rows to label, each in a group of its own; their picks are their own classes."""
        if examples is None:
            return cls(_turned(vectors), labels, groups, classes, None, picks, len(labels))
        extra = np.arange(len(examples.labels)) + int(groups.max(initial=0)) + 1
        both = np.concatenate([np.asarray(vectors, np.float32), examples.vectors.astype(np.float32)])
        return cls(
            _turned(both),
            np.concatenate([labels, examples.labels]),
            np.concatenate([groups, extra]),
            classes,
            likeness(both, len(labels), examples.labels, classes),
            None if picks is None else np.concatenate([picks, np.eye(classes, dtype=np.float32)[examples.labels]]),
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

    def picked(self, train: np.ndarray) -> np.ndarray:
        """Return log-probabilities by the picks, with the confidence that labelled rows show, float64 [N + K, C]."""
        assert self.picks is not None
        own = train[train < self.count]
        return pick_log_probabilities(self.picks, fit_confidence(self.picks[own], self.labels[own]))

    @property
    def is_example(self) -> np.ndarray:
        """Which rows are examples, bool [N + K]."""
        return np.arange(len(self.labels)) >= self.count


def _turned(vectors: np.ndarray) -> np.ndarray:
    return turn_to_axes(vectors) if 0 < vectors.size <= MOST_TURNED else vectors


def name_classes(picks: np.ndarray) -> np.ndarray:
    """Return the rows of an LLM's answers, [N, C], for which some class is likelier than no class, bool [N]."""
    return np.asarray(picks.max(axis=1, initial=0) > 1 - picks.sum(axis=1) + 1e-6)


def fit_confidence(picks: np.ndarray, labels: np.ndarray) -> float:
    """Return the confidence c in an LLM's picks that gives the labels the highest posterior probability.

    Label y has the probability c a(y) + (1 - c sum_k a(k)) / C: the pick, mixed with a guess. The prior is worth ten
    labels, seven of which the LLM picked, so that without any label a pick is right with probability 0.7.

    Args:
        picks: share a of its answers that goes to each class, float [n, C].
        labels: classes of the rows, int [n].
    """
    from scipy.optimize import minimize_scalar

    rows, classes = np.arange(len(labels)), picks.shape[1]
    named, total = picks[rows, labels].astype(np.float64), picks.sum(axis=1, dtype=np.float64)

    def loss(confidence: float) -> float:
        right = confidence + (1 - confidence) / classes
        imagined = IMAGINED_RIGHT * np.log(right) + IMAGINED_WRONG * np.log(1 - right)
        return float(-np.log(confidence * named + (1 - confidence * total) / classes).sum() - imagined)

    return float(minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded").x)


def pick_log_probabilities(picks: np.ndarray, confidence: float) -> np.ndarray:
    """Return log(c a(k) + (1 - c sum_j a(j)) / C), where a are an LLM's answers, [N, C], and c the confidence."""
    total = picks.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(np.log(confidence * picks + np.maximum(1 - confidence * total, 1e-9) / picks.shape[1]))


def likeness(vectors: np.ndarray, count: int, example_labels: np.ndarray, classes: int) -> np.ndarray:
    """Return cos(v - m, c_k - m'), float32 [N + K, C].

    CLIP classifies by cosines (Radford et al., arXiv 2103.00020, section 3.1); here the mean m of the N rows and the
    mean m' of the classes are subtracted first, because texts of different kinds differ in much that is unrelated to
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
class FitSettings:
    """How every classifier is fitted; see `gpt4image.soft_labels.labelling.label_rows`."""

    strength: float | None
    folds: int
    seed: int
    device: torch.device | str | None


@dataclass(frozen=True)
class Method:
    """A way of labelling.

    Attributes:
        name: its name in words.
        examples: whether it learns from the examples.
        likeness: whether the likeness to the classes' texts is multiplied in.
        picks: how an LLM's picks are used: multiplied in, as further columns of the vectors, by themselves, or not.
        refits: how it is fitted again.
        strength: inverse strength of the regularisation; None for that of the settings, or the default.
        temperature: temperature that fits its out-of-fold predictions best.
    """

    name: str
    examples: bool = False
    likeness: bool = False
    picks: Literal["", "product", "features", "alone"] = ""
    refits: Refits | None = None
    strength: float | None = None
    temperature: float = 1.0

    def with_picks(self) -> Iterator[Method]:
        """Yield a method that uses only an LLM's picks, then this method with picks used in each of the two ways."""
        yield PICKS_ALONE
        yield replace(self, name=f"{self.name}, times the LLM's picks", picks="product")
        yield replace(self, name=f"{self.name}, with the LLM's picks as features", picks="features")

    @property
    def title(self) -> str:
        """Return its name, with the strength if that is not the default."""
        return self.name if self.strength in (None, STRENGTH) else f"{self.name}, strength {self.strength:g}"

    def chosen_strength(self, settings: FitSettings) -> float:
        """Return the inverse strength of its regularisation."""
        return self.strength or settings.strength or STRENGTH

    def fitter(self, rows: Rows, settings: FitSettings, train: np.ndarray) -> Fitter:
        """Return the fitter of its classifiers for labelled rows, int64 [n]."""
        prior = self._prior(rows)
        return Fitter(
            self._vectors(rows),
            self._labels(rows),
            rows.classes,
            TOLERANCE,
            settings.device,
            prior(train) if callable(prior) else prior,
            self._fits(rows),
        )

    def learned(self, rows: Rows) -> np.ndarray:
        """Return the rows whose labels it learns from, int64 [n]."""
        return np.flatnonzero(self._labels(rows) >= 0)

    def out_of_fold(self, rows: Rows, settings: FitSettings) -> CrossFit:
        """Cross-fit the labelled rows."""
        if self.picks == "alone":
            return cross_fit_picks(rows, settings)
        return cross_fit(
            self._vectors(rows),
            self._labels(rows),
            rows.groups,
            rows.classes,
            folds=settings.folds,
            strength=self.chosen_strength(settings),
            seed=settings.seed,
            tolerance=TOLERANCE,
            device=settings.device,
            examples=rows.is_example if self.examples else None,
            prior=self._prior(rows),
            refits=self.refits,
            title=f"Label images: {self.title}",
            fits=self._fits(rows),
        )

    def label(self, rows: Rows, settings: FitSettings) -> np.ndarray:
        """Return log-probabilities of all rows by a model fitted to all labels, float [N + K, C]."""
        known, strength = self.learned(rows), self.chosen_strength(settings)
        if self.picks == "alone":
            return rows.picked(known)
        fitter = self.fitter(rows, settings, known)
        if self.refits is None:
            model = fitter.fit(known, strength)
        else:
            model = self.refits.refit(fitter, None, known, rows.groups, strength, settings.seed)
        return fitter.predict(model, np.arange(len(rows.labels)))

    def _vectors(self, rows: Rows) -> np.ndarray:
        return np.concatenate([rows.vectors, rows.picks], axis=1) if self.picks == "features" else rows.vectors

    def _fits(self, rows: Rows) -> Fits | None:
        return None if self.picks == "features" else rows.fits

    def _labels(self, rows: Rows) -> np.ndarray:
        return rows.labels if self.examples else np.where(rows.is_example, -1, rows.labels)

    def _prior(self, rows: Rows) -> np.ndarray | Callable[[np.ndarray], np.ndarray] | None:
        fixed = rows.prior() if self.likeness else None
        if self.picks != "product":
            return fixed
        return lambda train: rows.picked(train) + (0 if fixed is None else fixed)


PICKS_ALONE = Method("the LLM's picks alone", picks="alone")


def cross_fit_picks(rows: Rows, settings: FitSettings) -> CrossFit:
    """Predict each fold's rows by an LLM's picks, with the confidence that the labels of the other folds show."""
    fold_of = deal_out(rows.labels, rows.groups, settings.folds, settings.seed)
    known = np.flatnonzero(rows.labels >= 0)
    logits = rows.picked(known)
    for fold in np.unique(fold_of[fold_of >= 0]):
        logits[fold_of == fold] = rows.picked(known[fold_of[known] != fold])[fold_of == fold]
    return CrossFit(logits, fold_of, 1.0, measure_quality(logits, rows.labels, 1.0))


def methods(rows: Rows) -> Iterator[Method]:
    """Yield the methods to try, starting with those that suit scarce labels.

    If a class has no label, only the likeness to its texts can find its rows. Held-out labels cannot judge that, and
    would reject the likeness in favour of the other classes.
    """
    if not rows.vectors.shape[1]:
        yield PICKS_ALONE
        return
    given, free = rows.given[rows.given >= 0], bool((rows.given < 0).any())
    few, named = len(given) <= MOST_TRIED_ON, rows.likeness is not None
    by_names = named and free and len(np.unique(given)) < rows.classes
    if named and free and (few or by_names):
        yield Method("class texts, their likeness and self-training", True, True, refits=SELF_TRAINING)
    if by_names:
        return
    if few and named and free:
        yield Method("class texts and self-training", examples=True, refits=SELF_TRAINING)
    if few and free:
        yield Method("self-training", refits=SELF_TRAINING)
    if few and named:
        yield Method("class texts", examples=True)
    yield Method("plain fit")


def other_strengths(rows: Rows, settings: FitSettings) -> tuple[float, ...]:
    """Return the strengths to try besides the default: none if one is set, or if labels are too few or very many."""
    counts = np.bincount(rows.given[rows.given >= 0])
    fixed = settings.strength is not None or counts[counts > 0].min() < FEWEST_LABELS or counts.sum() > MOST_TRIED_ON
    return () if fixed else OTHER_STRENGTHS
