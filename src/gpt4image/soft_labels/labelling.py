"""The labeller: it labels all rows, given vectors, some labels that may be wrong, and texts of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, logsumexp

from gpt4image.core.format import counted
from gpt4image.probing.calibration import adjust_for_skew, class_shares, fit_temperature
from gpt4image.probing.cross_fit import Refits
from gpt4image.probing.fitter import Fitter
from gpt4image.probing.folds import FOLDS
from gpt4image.probing.intervals import Interval, weighted_share
from gpt4image.probing.label_noise import NoiseEstimate, NoiseModel, estimate_noise, fit_noise_model
from gpt4image.soft_labels.co_training import co_train
from gpt4image.soft_labels.methods import (
    LIKENESS_ALONE,
    PICKS_ALONE,
    SELF_TRAINING,
    STRENGTH,
    TOLERANCE,
    Examples,
    FitSettings,
    Method,
    Rows,
    methods,
    name_classes,
    other_strengths,
)

if TYPE_CHECKING:
    import torch

ROBUST = Refits(trims=3, trimmed=0.5, rounds=2)
ROBUST_STRENGTH = 3.0  # weaker fits memorise fewer wrong labels
NOISE_ROWS = 30  # labelled rows per class, on average, needed to estimate the share of wrong labels
CLEAN = 0.01  # given labels are kept unless more than this share is wrong, at the lower end of the interval
NOISY = 0.03  # doubtful labels are always left out of the fit if more than this share is wrong, at the lower end


@dataclass(frozen=True)
class Labelling:
    """Labels for all rows.

    Attributes:
        out_of_fold: calibrated log-probabilities of a classifier that has not seen the row's label, float64 [N, C].
        method: how the classifier was fitted.
        accuracy: expected share of right labels among those of unlabelled rows, or of all rows if given labels are
            replaced; None if it cannot be measured.
        per_class: out-of-fold accuracy on each class's rows; None for classes without a label.
        wrong: share of wrong labels among the given ones; None if there are too few to tell, or the vectors are not
            shown to predict them.
        noise: how given labels arise from true ones; None where `wrong` is.
        replaced: whether given labels are replaced by the posterior of the true class.
        chance: accuracy of always predicting the class that is expected most often, of those with a label.
    """

    out_of_fold: np.ndarray
    method: str
    accuracy: Interval | None
    per_class: tuple[Interval | None, ...]
    wrong: Interval | None
    noise: NoiseModel | None
    replaced: bool
    chance: float = 0.0

    @property
    def is_informed(self) -> bool:
        """Whether its labels are shown to beat always predicting the most frequent class, or cannot be measured."""
        return self.accuracy is None or self.accuracy.low > self.chance

    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return log-probabilities of the true class, given the labels as well, float64 [N, C].

        For a labelled row they are the posterior if labels are replaced, else 0 for the label and -inf elsewhere.

        Args:
            labels: int [N], -1 for none; may include labels that the classifier was not fitted to.
        """
        if self.replaced:
            return self.posterior(labels)
        known, found = np.flatnonzero(labels >= 0), self.out_of_fold.copy()
        found[known] = -np.inf
        found[known, labels[known]] = 0.0
        return found

    def posterior(self, labels: np.ndarray) -> np.ndarray:
        """Return log-probabilities of the true class, given labels that may be wrong, float64 [N, C].

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
    strength: float | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    device: torch.device | str | None = None,
    adjustment: float = 0.0,
    picks: np.ndarray | None = None,
    partner: np.ndarray | None = None,
    described: np.ndarray | None = None,
) -> Labelling:
    """Label rows by a classifier on their vectors, and judge given labels by it.

    Several ways of fitting are tried, with and without the classes' texts and self-training, then with and without the
    classes that an LLM picked, and compared by their out-of-fold likelihood. If many given labels turn out wrong, the
    classifier is fitted again without the doubtful ones. A row's own label is judged by models that have not seen it;
    unlabelled rows are labelled by a model fitted to all labels.

    Args:
        vectors: float [N, D].
        labels: given classes, int [N], -1 for none; may be all -1 if there are examples.
        groups: leakage groups, int [N].
        classes: number C of classes.
        examples: texts of the classes in the same vector space.
        strength: inverse strength of the regularisation; by default 10, or another value that fits the labels clearly
            better.
        folds: number of folds.
        seed: seed of folds and resampling.
        device: device of the fits.
        adjustment: strength of the logit adjustment, for skewed labels, that is applied to unlabelled rows.
        picks: share of an LLM's answers that goes to each class, float32 [N, C]; where a row sums to less than 1, the
            rest of its answers went to no class. If the vectors have no columns, only the picks label.
        partner: features of the images, float [N, F], to co-train with (`co_train`).
        described: which rows have a vector, bool [N]; by default all. Only the picks label the others.

    Raises:
        DataError: without examples and picks, the labels have fewer than two classes or groups.
    """
    if described is not None and not described.all():
        fit = partial(
            label_rows, classes=classes, strength=strength, folds=folds, seed=seed, device=device, adjustment=adjustment
        )
        assert picks is not None
        some = [each[described] for each in (vectors, labels, groups)]
        by_texts = fit(*some, examples=examples, picks=picks[described])
        by_picks = fit(np.empty((len(labels), 0)), labels, groups, picks=picks)
        return _join(by_texts, by_picks, described, labels)
    rows = Rows.of(vectors, labels, groups, classes, examples, picks)
    settings = FitSettings(strength, folds, seed, device)
    if len(np.unique(labels[labels >= 0])) < 2 and picks is not None:
        return _label_by_picks(rows, examples, settings)
    if len(np.unique(labels[labels >= 0])) < 2 and examples is not None:
        return _label_without_labels(rows, settings)
    best, logits, losses = _choose(rows, settings)
    pooled = [(best, logits)]
    judges = _can_judge(rows, losses)
    noise, estimate = _judge_labels(rows, [logits] if judges and best.picks == "alone" else [], seed)
    if best.picks != "alone" and judges:
        first, robust = best, replace(best, refits=ROBUST, strength=min(ROBUST_STRENGTH, strength or ROBUST_STRENGTH))
        again = robust.out_of_fold(rows, settings).logits[: rows.count]
        if _fits_worse(rows.given, again, logits):
            noise, estimate = _judge_labels(rows, [logits], seed)
        if estimate is None or estimate.wrong.low > NOISY:
            noise, estimate = _judge_labels(rows, [again], seed)
            assert estimate is not None
            name = best.name
            best, pooled = replace(robust, name=f"{name}, doubtful labels left out"), [(robust, again)]
            for parts in ([(first, logits), (robust, again)], [(robust, again), (first, logits)]):
                joint = _judge_labels(rows, [found for _, found in parts], seed)
                if _agree(estimate, joint[1]):
                    (noise, estimate), pooled = joint, parts
                    best = replace(first, name=f"{name}, with all labels and without doubtful ones")
                    break
    free = labels < 0
    if partner is not None and best.picks != "alone":
        begun = next((method for method, _ in pooled if method.refits is ROBUST), best)
        trained = co_train(rows, partner, begun, settings)
        name = f"{best.name}, co-trained with images in {counted(len(trained.accuracies), 'round')}"
        best = replace(best, name=name, temperature=trained.temperature)
        pooled = [(best, trained.logits)]
        noise, estimate = _judge_labels(rows, [trained.logits] if judges else [], seed)
    elif free.any():
        for method, found in pooled:
            found[free] = method.label(rows, settings)[: rows.count][free]
    replaced = estimate is not None and estimate.wrong.low > CLEAN
    weighting = noise or NoiseModel(np.array([1 / best.temperature]), np.empty(0))
    calibrated = weighting.log_probabilities([found for _, found in pooled])
    adjusted = adjust_for_skew(calibrated, labels, adjustment)
    right = adjusted.argmax(axis=1) == labels
    return Labelling(
        out_of_fold=np.where(free[:, None], adjusted, calibrated),
        method=best.title,
        accuracy=estimate.right if estimate and replaced else _expected(right, labels, calibrated),
        per_class=_per_class(right, labels, classes),
        wrong=estimate.wrong if estimate else None,
        noise=noise,
        replaced=replaced,
        chance=float(_shares(labels, calibrated)[np.unique(labels[~free])].max()),
    )


_Tried = tuple[Method, np.ndarray, np.ndarray]  # with out-of-fold log-probabilities [N, C] and losses [n]


def _choose(rows: Rows, settings: FitSettings) -> _Tried:
    """Return a method, its out-of-fold log-probabilities [N, C] and its losses [n].

    Other strengths of the regularisation are tried without self-training: with it, each would take several times as
    long. Because several are tried, one has to be better by two standard errors.
    """
    chosen = _first_of_equals(_try(methods(rows), rows, settings))
    if chosen[0].picks != "alone" and (strengths := other_strengths(rows, settings)):
        quick = [replace(chosen[0], refits=None, strength=strength) for strength in (None, *strengths)]
        strength = _first_of_equals(_try(quick, rows, settings), errors=2)[0].strength
        if strength is not None:
            chosen = next(_try([replace(chosen[0], strength=strength)], rows, settings))
    if rows.picks is not None and chosen[0].picks != "alone":
        without = replace(chosen[0], name=f"{chosen[0].name}; the LLM's picks add nothing"), *chosen[1:]
        chosen = _first_of_equals(chain(_try(chosen[0].with_picks(), rows, settings), [without]))
    return chosen


def _try(candidates: Iterable[Method], rows: Rows, settings: FitSettings) -> Iterator[_Tried]:
    known = np.flatnonzero(rows.given >= 0)
    for method in candidates:
        fitted = method.out_of_fold(rows, settings)
        logits = fitted.logits[: rows.count]
        scaled = log_softmax(logits[known].astype(np.float64) / fitted.temperature, axis=1)
        losses = -scaled[np.arange(len(known)), rows.given[known]]
        yield replace(method, temperature=fitted.temperature), logits, losses


def _first_of_equals(tried: Iterator[_Tried], errors: float = 1) -> _Tried:
    """Return the first method, or a later one whose loss is lower by more than `errors` standard errors.

    Few labels cannot distinguish methods that are nearly equal.
    """
    return reduce(lambda one, other: other if _clearly_lower(other[2] - one[2], errors) else one, tried)


def _clearly_lower(differences: np.ndarray, errors: float = 1) -> bool:
    """Return whether the mean of differences [n] is below 0 by more than `errors` standard errors."""
    return bool(differences.mean() < -errors * differences.std() / len(differences) ** 0.5)


def _fits_worse(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether one classifier explains the given labels clearly worse than another, each with its own T.

    A classifier that has learned systematic errors sees none. One that has learned only from the labels it trusts
    explains the others just as well, through T; where labels are clean, leaving out some of them costs likelihood.
    """
    known = np.flatnonzero(labels >= 0)
    losses = []
    for logits in (one[known], other[known]):
        model = fit_noise_model([logits], labels[known])
        joint = model.log_probabilities([logits]) + model.log_transition.T[labels[known]]
        losses.append(-logsumexp(joint, axis=1))
    return _clearly_lower(losses[1] - losses[0])


def _label_without_labels(rows: Rows, settings: FitSettings) -> Labelling:
    """Label rows by the classes' texts, for when there are too few given labels to measure anything."""
    prior = rows.prior(LIKENESS_ALONE)
    fitter = Fitter(rows.vectors, rows.labels, rows.classes, TOLERANCE, settings.device, prior)
    known = np.flatnonzero(rows.labels >= 0)
    model = SELF_TRAINING.self_train(fitter, lambda some: prior[some], known, settings.strength or STRENGTH)
    logits = fitter.predict(model, np.arange(rows.count)).astype(np.float64)
    return _unmeasured(logits, "likeness to class texts and self-training", rows.classes)


def _label_by_picks(rows: Rows, examples: Examples | None, settings: FitSettings) -> Labelling:
    """Label rows by an LLM's picks, for when there are too few given labels to measure anything.

    With vectors, the picks are treated as labels that may be wrong: s_i(k) is proportional to q_i(k) T_k,pick, where
    q is a classifier of the vectors that is fitted to the picks of other rows. Where T cannot be estimated, the picks
    have the confidence that the prior of `fit_confidence` gives them. The likeness to the classes' texts is multiplied
    in, at the temperature that fits the picks best.
    """
    assert rows.picks is not None
    picks = rows.picks[: rows.count]
    trusted = rows.picked(np.empty(0, np.int64))[: rows.count]
    given = np.where(name_classes(picks), picks.argmax(axis=1), -1)
    if not rows.vectors.shape[1] or len(np.unique(given[given >= 0])) < 2:
        return _unmeasured(trusted, PICKS_ALONE.name, rows.classes)
    examples = None if examples is None else Examples(rows.vectors[rows.count :], examples.labels)  # rotated alike
    found = label_rows(
        rows.vectors[: rows.count], given, rows.groups[: rows.count], rows.classes, examples,
        strength=settings.strength, folds=settings.folds, seed=settings.seed, device=settings.device,
    )  # fmt: skip
    logits = found.posterior(given) if found.noise else found.out_of_fold + trusted
    if rows.likeness is not None:
        cosines = rows.likeness[: rows.count]
        logits = logits + log_softmax(cosines / fit_temperature(cosines, given, settings.seed), axis=1)
    logits = np.asarray(log_softmax(logits, axis=1))
    return _unmeasured(logits, f"the LLM's picks and a classifier fitted to them ({found.method})", rows.classes)


def _join(by_texts: Labelling, by_picks: Labelling, described: np.ndarray, labels: np.ndarray) -> Labelling:
    """Return the labels by texts [n] for rows with a description (`described`, bool [N]), and by picks for the others.

    The expected accuracy is the mean of both, weighted by their unlabelled rows, or by all of their rows if labels are
    replaced. The ends of the interval are averaged alike, as if both errors had the same sign. What is known about the
    given labels comes from the texts.
    """
    logits, accuracy = by_picks.out_of_fold.copy(), by_texts.accuracy
    logits[described] = by_texts.out_of_fold
    if accuracy is not None and by_picks.accuracy is not None:
        judged = (labels < 0) if (labels < 0).any() and not by_texts.replaced else np.full(len(labels), True)
        share = float(described[judged].mean())
        ends = [
            share * getattr(accuracy, name) + (1 - share) * getattr(by_picks.accuracy, name)
            for name in ("mean", "low", "high")
        ]
        accuracy = replace(accuracy, mean=ends[0], low=ends[1], high=ends[2])
    same = by_texts.method == by_picks.method
    method = by_texts.method if same else f"{by_texts.method}; for images without a text, {by_picks.method}"
    return replace(by_texts, out_of_fold=logits, accuracy=accuracy, method=method)


def _unmeasured(logits: np.ndarray, method: str, classes: int) -> Labelling:
    return Labelling(
        out_of_fold=logits,
        method=method,
        accuracy=None,
        per_class=(None,) * classes,
        wrong=None,
        noise=None,
        replaced=False,
    )


def _can_judge(rows: Rows, losses: np.ndarray) -> bool:
    """Return whether there are enough given labels for a classifier with these losses [n] to tell how many are wrong.

    It has to explain the labels better than the classes' shares do, by two standard errors. Otherwise the labels carry
    no information about T, and the estimate would be its prior.
    """
    given = rows.given[rows.given >= 0]
    if len(given) < NOISE_ROWS * rows.classes:
        return False
    shares = np.bincount(given, minlength=rows.classes) / len(given)
    return _clearly_lower(losses + np.log(shares[given]), errors=2)


def _judge_labels(
    rows: Rows, classifiers: Sequence[np.ndarray], seed: int
) -> tuple[NoiseModel, NoiseEstimate] | tuple[None, None]:
    """Fit how given labels arise from true ones to out-of-fold log-probabilities [N, C]; None without classifiers."""
    if not classifiers:
        return None, None
    model = fit_noise_model(classifiers, rows.given)
    return model, estimate_noise(model, classifiers, rows.given, rows.groups[: rows.count], seed)


def _agree(alone: NoiseEstimate | None, both: NoiseEstimate | None) -> bool:
    """Return whether a classifier fitted without doubtful labels finds about as many wrong ones by itself as in a pool.

    If not, the other classifier in the pool has learned systematic errors. In the first pool that is tried, T comes
    from that one: it is fitted to all labels, and so mistakes fewer of its own errors for wrong labels.
    """
    assert alone is not None and both is not None
    return alone.wrong.low <= both.wrong.mean <= alone.wrong.high


def _expected(right: np.ndarray, labels: np.ndarray, calibrated: np.ndarray) -> Interval | None:
    """Estimate the accuracy of labels of unlabelled rows from labelled rows.

    The proportions of the classes may differ between labelled and unlabelled rows, so each class has the weight of its
    expected share among unlabelled rows. Nothing is known about classes without a label: their rows count like the
    others in the mean, and as all wrong and all right at the ends of the interval.
    """
    known = np.flatnonzero(labels >= 0)
    given, shares = labels[known], _shares(labels, calibrated)
    counts = np.bincount(given, minlength=len(shares))
    found = weighted_share(right[known], (np.maximum(shares, 1e-12) / np.maximum(counts, 1))[given])
    unknown = float(shares[counts == 0].sum())
    return replace(found, low=(1 - unknown) * found.low, high=(1 - unknown) * found.high + unknown)


def _shares(labels: np.ndarray, calibrated: np.ndarray) -> np.ndarray:
    """Return the classes' expected shares among unlabelled rows, or their shares among all rows if there are none."""
    counts = np.bincount(labels[labels >= 0], minlength=calibrated.shape[1])
    free = labels < 0
    return class_shares(np.exp(calibrated[free]), counts) if free.any() else counts / counts.sum()


def _per_class(right: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Interval | None, ...]:
    of_class: Sequence[np.ndarray] = [right[labels == value] for value in range(classes)]
    return tuple(weighted_share(own, np.ones(len(own))) if len(own) else None for own in of_class)
