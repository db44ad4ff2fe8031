"""Several labels per image: one logistic regression per class, in one joint fit, each on the known labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from gpt4image.core.errors import ConfigError
from gpt4image.probing.logistic_regression import MOST_STEPS, TOLERANCE, fitting_threads


@dataclass(frozen=True)
class LabelRegressions:
    """Fitted classifiers, one per class: p_k(x) = 1 / (1 + exp(-w_k x - b_k)).

    Attributes:
        weights: float64 [C, D]; 0 for classes without both present and absent labels.
        bias: float64 [C].
        steps: number of L-BFGS steps that the fit took.
    """

    weights: np.ndarray
    bias: np.ndarray
    steps: int

    def log_odds(self, vectors: np.ndarray) -> np.ndarray:
        """Return log p / (1 - p) of each class for vectors [B, D], float64 [B, C]."""
        return np.asarray(np.asarray(vectors, np.float64) @ self.weights.T + self.bias)


def fit_label_regressions(
    vectors: np.ndarray,
    marks: np.ndarray,
    *,
    strength: float = 3.0,
    tolerance: float = TOLERANCE,
    start: LabelRegressions | None = None,
) -> LabelRegressions:
    """Fit a logistic regression with L2 regularisation for each class, to the images whose label for it is known.

    The fit minimises (Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.90, with a Gaussian prior on
    w_k; one against the rest, section 4.1.2)

        sum_k (sum_(i known) log(1 + exp(-y_ik (w_k x_i + b_k))) + ||w_k||^2 / (2 strength)),  y_ik = 1 or -1,

    as scikit-learn's `LogisticRegression(C=strength)` does for each class by itself; unknown labels have no part in it.
    L-BFGS steps all classes at once, in coordinates in which the loss has about the same curvature in all directions;
    it takes the fewest steps for vectors along their principal axes (`turn_to_axes`). For a class whose known labels
    are all of one kind, only the bias is fitted, with half a label of each kind added.

    Args:
        vectors: float [N, D].
        marks: int [N, C]: 1 for a label that is present, 0 for absent, -1 for unknown.
        strength: inverse strength of the regularisation.
        tolerance: largest slope of the mean loss at which the fit stops.
        start: classifiers to start from; they affect only the speed.

    Raises:
        ConfigError: `strength` is not above 0, or there is no row.
    """
    from scipy.optimize import minimize

    if not (strength > 0 and np.isfinite(strength)) or not len(vectors):
        raise ConfigError(
            f"A classifier needs a strength above 0 and at least one row, not {strength}, {len(vectors)}."
        )
    present, absent = (marks > 0).sum(axis=0), (marks == 0).sum(axis=0)
    share, told = (present + 0.5) / (present + absent + 1), np.flatnonzero((present > 0) & (absent > 0))
    weights, bias = np.zeros((marks.shape[1], vectors.shape[1])), np.asarray(logit(share))
    if not len(told):
        return LabelRegressions(weights, bias, 0)
    x = np.asarray(vectors, np.float64)
    mean = x.mean(axis=0)
    x = x - mean  # the bias is not regularised, so this changes no prediction
    known = (marks[:, told] >= 0).astype(np.float64)  # [N, K] of the classes that are fitted
    true = (marks[:, told] > 0).astype(np.float64)
    penalty = 1 / (strength * len(x))
    spread = np.append((x**2).mean(axis=0), 1)
    curvature = (share * (1 - share))[told, None] * known.mean(axis=0)[:, None] * spread  # [K, D + 1]
    curvature[:, :-1] += penalty
    scales = curvature**-0.5

    def measure(coordinates: np.ndarray) -> tuple[float, np.ndarray]:
        own = coordinates.reshape(scales.shape) * scales
        odds = x @ own[:, :-1].T + own[:, -1]
        loss = (known * np.logaddexp(0, np.where(true > 0, -odds, odds))).sum() / len(x)
        errors = known * (expit(odds) - true) / len(x)
        slopes = np.concatenate([errors.T @ x + penalty * own[:, :-1], errors.sum(axis=0)[:, None]], axis=1)
        return float(loss + penalty / 2 * (own[:, :-1] ** 2).sum()), (slopes * scales).ravel()

    if start is None:
        first = np.concatenate([np.zeros((len(told), x.shape[1])), bias[told, None]], axis=1)
    else:
        moved = start.bias[told] + start.weights[told] @ mean
        first = np.concatenate([start.weights[told], moved[:, None]], axis=1)
    with fitting_threads(x.size * len(told)):
        options = {"gtol": tolerance, "ftol": 0, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS}
        found = minimize(measure, (first / scales).ravel(), jac=True, method="L-BFGS-B", options=options)
    solution = found.x.reshape(scales.shape) * scales
    weights[told] = solution[:, :-1]
    bias[told] = solution[:, -1] - weights[told] @ mean
    return LabelRegressions(weights, bias, int(found.nit))
