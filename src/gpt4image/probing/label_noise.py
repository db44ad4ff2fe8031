"""Wrong labels: the transition matrix, the share of wrong labels, and the posterior of the true class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import stats
from scipy.special import expit, log_expit, log_softmax

from gpt4image.probing.folds import number
from gpt4image.probing.intervals import CONFIDENCE, Interval
from gpt4image.probing.logistic_regression import fitting_threads

WRONG, RIGHT = 1.0, 9.0  # pseudo-counts of wrong and right labels, which keep the share of wrong labels off 0 and 1
STRICTNESS = 3  # pseudo-counts per class in each row of T, with errors spread evenly
RESAMPLES = 40
FITTED_ON = 20_000  # most rows that the fit uses; a random sample if there are more
MOST_CLASSES = 200  # with more, all errors of a class are taken to be equally likely
LOG_CEILING = 30.0  # limit of the weights' logarithms, because a line search may try absurdly large weights
TINY = 1e-300  # smallest likelihood of a label, for the same reason


@dataclass(frozen=True)
class NoiseModel:
    """How given labels arise from true ones.

    Attributes:
        weights: weight of each classifier's log-probabilities, float64 [M]; the inverse temperature if M is 1.
        log_transition: log T, where T_kj is the probability that an image of class k is labelled j, float64 [C, C].
    """

    weights: np.ndarray
    log_transition: np.ndarray

    def log_probabilities(self, classifiers: Sequence[np.ndarray]) -> np.ndarray:
        """Pool the log-probabilities of M classifiers, [N, C] each; return log q, float64 [N, C].

        A logarithmic opinion pool (Genest and Zidek, "Combining probability distributions", 1986):
        q_i(k) is proportional to prod_m p_mi(k)^w_m.
        """
        pooled = sum(
            weight * np.asarray(each, np.float64) for weight, each in zip(self.weights, classifiers, strict=True)
        )
        return np.asarray(log_softmax(pooled, axis=1))

    def posterior(self, classifiers: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
        """Return the log-probability of each true class, given the label as well, float64 [N, C].

        s_i(k) is proportional to q_i(k) T_k,y_i; without a label, s_i = q_i.

        Args:
            classifiers: as for `log_probabilities`.
            labels: given classes, int [N], -1 for none.
        """
        pooled = self.log_probabilities(classifiers)
        known = labels >= 0
        pooled[known] += self.log_transition.T[labels[known]]
        return np.asarray(log_softmax(pooled, axis=1))


def fit_noise_model(
    classifiers: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    start: NoiseModel | None = None,
) -> NoiseModel:
    """Fit weights and transition matrix to given labels, by maximum a posteriori.

    The given label y_i has the likelihood sum_k q_i(k) T_k,y_i: forward correction (Patrini et al., arXiv 1609.03683)
    of a calibrated classifier, which separates its own uncertainty from errors of the labels. First T has a single
    parameter, the share e of wrong labels, spread evenly over the other classes, with a Beta prior worth 1 wrong and 9
    right labels. Then each row of T is free, with a Dirichlet prior worth 3 C labels around that matrix.

    Only the first classifier determines T, and the weights of all are fitted to it: a classifier that has learned
    systematic errors explains the labels without them, and would hide them from T.

    Args:
        classifiers: log-probabilities of M classifiers that have not seen the labels (out of fold), float [N, C] each.
        labels: given classes, int [N], -1 for none.
        weights: how often each row counts, float [N]; by default once.
        start: model whose T to start from, such as one fitted to about the same rows; it affects only the speed.
    """
    rows = np.flatnonzero(labels >= 0)
    if len(rows) > FITTED_ON:
        rows = np.sort(np.random.default_rng(0).choice(rows, FITTED_ON, replace=False))
    every = _Likelihood(
        np.stack([np.asarray(each[rows], np.float64) for each in classifiers]),
        labels[rows],
        np.ones(len(rows)) if weights is None else weights[rows],
    )
    with fitting_threads(every.classifiers.size):
        model = replace(every, classifiers=every.classifiers[:1]).fit(start)
        return model if len(classifiers) == 1 else every.fit_weights(model)


@dataclass(frozen=True)
class NoiseEstimate:
    """Estimated quality of the labels.

    Attributes:
        wrong: share of wrong labels among the given ones.
        right: share of right classes among the posterior's likeliest ones.
    """

    wrong: Interval
    right: Interval


def estimate_noise(
    model: NoiseModel, classifiers: Sequence[np.ndarray], labels: np.ndarray, groups: np.ndarray, seed: int = 0
) -> NoiseEstimate:
    """Estimate both shares, with bootstrap intervals that resample whole groups and refit T.

    Davison and Hinkley, "Bootstrap methods and their application" (1997), equation 5.5: normal intervals around the
    estimates, corrected for the bias that the bootstrap finds. The interval of `right` also allows for chance: if the
    likeliest class of row i has the probability p_i, the number of right ones has the variance sum_i p_i (1 - p_i).

    Args:
        model: the model fitted to all rows.
        classifiers: out-of-fold log-probabilities, float [N, C] each.
        labels: given classes, int [N], -1 for none.
        groups: leakage groups, int [N].
        seed: seed of the resampling.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) > FITTED_ON:
        known = np.sort(np.random.default_rng(seed).choice(known, FITTED_ON, replace=False))
    parts, given, group = [each[known] for each in classifiers], labels[known], number(groups[known])

    def shares(fitted: NoiseModel, counts: np.ndarray) -> tuple[float, float]:
        posterior = np.exp(fitted.posterior(parts, given))
        wrong, right = 1 - posterior[np.arange(len(given)), given], posterior.max(axis=1)
        return float(np.average(wrong, weights=counts)), float(np.average(right, weights=counts))

    generator, size = np.random.default_rng(seed), int(group.max()) + 1
    found = []
    for _ in range(RESAMPLES):
        counts = np.bincount(generator.integers(0, size, size), minlength=size)[group].astype(np.float64)
        found.append(shares(fit_noise_model(parts, given, weights=counts, start=model), counts))
    means, spread = shares(model, np.ones(len(given))), np.std(found, axis=0, ddof=1)
    surest = np.exp(model.posterior(parts, given)).max(axis=1)
    # resampling varies the given labels, right and wrong ones, but not whether the likeliest class is the true one
    spread[1] = np.hypot(spread[1], np.sqrt((surest * (1 - surest)).sum()) / len(given))
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, RESAMPLES - 1) * spread
    centre = np.clip(
        2 * np.asarray(means) - np.mean(found, axis=0), 0, 1
    )  # corrected for the bias that resampling finds
    wrong, right = (
        Interval(float(mean), max(float(mean - half), 0.0), min(float(mean + half), 1.0), "images only")
        for mean, half in zip(centre, reach, strict=True)
    )
    return NoiseEstimate(wrong, right)


@dataclass(frozen=True)
class _Likelihood:
    """Log-posterior of the parameters: classifiers [M, N, C], labels [N], how often each row counts [N]."""

    classifiers: np.ndarray
    labels: np.ndarray
    counts: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.classifiers.shape[2])

    @cached_property
    def one_hot(self) -> np.ndarray:
        return np.asarray(np.eye(self.classes)[self.labels])

    def fit(self, start: NoiseModel | None) -> NoiseModel:
        from scipy.optimize import minimize

        sources = len(self.classifiers)
        first = np.append(np.zeros(sources), -2.0)  # logarithms of the weights, and the logit of the share
        found = minimize(self._uniform, first, jac=True, method="L-BFGS-B").x
        uniform = NoiseModel(_weights(found[:-1]), self._uniform_transition(found[-1]))
        if self.classes > MOST_CLASSES:
            return uniform
        first = np.concatenate([np.log(uniform.weights), (start or uniform).log_transition.ravel()])
        pseudo = STRICTNESS * self.classes * np.exp(uniform.log_transition)
        found = minimize(self._free, first, args=(pseudo,), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
        transition = log_softmax(found[sources:].reshape(self.classes, -1), axis=1)
        return NoiseModel(_weights(found[:sources]), np.asarray(transition))

    def fit_weights(self, model: NoiseModel) -> NoiseModel:
        """Fit only the weights, with T from a model of the first classifier."""
        from scipy.optimize import minimize

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, slopes, _ = self._measure(parameters, model.log_transition)
            return -value, -slopes

        count = len(self.classifiers)
        first = np.repeat(np.log(model.weights / count), count)
        return replace(model, weights=_weights(minimize(loss, first, jac=True, method="L-BFGS-B").x))

    def _uniform_transition(self, logit: float) -> np.ndarray:
        """Return log T for a share of wrong labels, given as a logit, spread evenly over the other classes."""
        wrong = log_expit(logit) - np.log(self.classes - 1)
        transition = np.full((self.classes, self.classes), wrong)
        np.fill_diagonal(transition, log_expit(-logit))
        return transition

    def _uniform(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = parameters[-1]
        value, slopes, joint = self._measure(parameters[:-1], self._uniform_transition(logit))
        right = np.trace(joint)
        value += WRONG * log_expit(logit) + RIGHT * log_expit(-logit)
        share = expit(logit)
        slope = (joint.sum() - right + WRONG) * (1 - share) - (right + RIGHT) * share
        return -value, -np.append(slopes, slope)

    def _free(self, parameters: np.ndarray, pseudo: np.ndarray) -> tuple[float, np.ndarray]:
        sources = len(self.classifiers)
        transition = log_softmax(parameters[sources:].reshape(self.classes, -1), axis=1)
        value, slopes, joint = self._measure(parameters[:sources], transition)
        joint = joint + pseudo
        value += float((pseudo * transition).sum())
        free = joint - joint.sum(axis=1, keepdims=True) * np.exp(transition)
        return -value, -np.concatenate([slopes, free.ravel()])

    def _measure(self, log_weights: np.ndarray, transition: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the log-likelihood, its slopes in the logarithms of the weights [M], and the joint counts [C, C].

        The joint counts are the expected numbers of rows of each true and given class. By Fisher's identity the slopes
        are expectations under the posterior s.
        """
        weights = _weights(log_weights)
        shares = np.tensordot(weights, self.classifiers, 1)  # [N, C], in place from log q to q
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=1, keepdims=True)
        joint = shares * np.exp(transition).T[self.labels]
        likelihood = np.maximum(joint.sum(axis=1), TINY)
        posterior = joint * (self.counts / likelihood)[:, None]
        surplus = posterior - shares * self.counts[:, None]
        slopes = weights * np.einsum("nc,mnc->m", surplus, self.classifiers)
        return float(self.counts @ np.log(likelihood)), slopes, posterior.T @ self.one_hot


def _weights(logarithms: np.ndarray) -> np.ndarray:
    """Return weights [M], kept finite even if classifiers are never wrong and ever larger weights fit better."""
    return np.asarray(np.exp(np.minimum(logarithms, LOG_CEILING)))
