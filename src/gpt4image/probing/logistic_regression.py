"""Multinomial logistic regression on vectors of any number: all rows at each step, a chunk in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.probing.folds import FOLDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


SMALL = 2 * 10**8


"""Products of a pass (rows x width x classes) up to which it is computed in float64."""


TINY = 2 * 10**7


"""Products of a pass up to which one thread is faster than several that wait for each other."""


CHUNK = {"cpu": 2**22, "cuda": 2**26}


"""Numbers in a chunk's vectors and logits, by kind of device."""


KEPT = 2**25


"""Numbers in vectors up to which they stay in memory from pass to pass."""


TOLERANCE = 1e-7


"""Largest slope of the mean loss, in any weight, at which a fit has settled."""


MOST_STEPS = 1000


@dataclass(frozen=True)
class SoftmaxRegression:
    """A fitted classifier: the probabilities of vectors x are softmax(W x + b).

    Attributes:
        weights: W, float64 [C, D].
        bias: b, float64 [C].
        steps: steps that the fit took.
    """

    weights: np.ndarray
    bias: np.ndarray
    steps: int

    def log_probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Log-probabilities of vectors [B, D], float32 [B, C]."""
        from scipy.special import log_softmax

        logits = np.asarray(vectors, dtype=np.float32) @ self.weights.T.astype(np.float32) + self.bias
        return np.asarray(log_softmax(logits, axis=1), dtype=np.float32)


def fit_softmax_regression(
    vectors: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    strength: float = 3.0,
    rows: np.ndarray | None = None,
    device: torch.device | str | None = None,
) -> SoftmaxRegression:
    """Fit a multinomial logistic regression with L2 regularisation.

    What is minimised is that of scikit-learn's `LogisticRegression(C=strength)`, for two classes `C=2 * strength`, as
    scikit-learn then fits one row of weights:

        sum_i -log softmax(W x_i + b)[y_i] + ||W||^2 / (2 strength)

    (Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.108, with a Gaussian prior on W). The bias is
    not regularised, so taking the mean off the vectors changes nothing but the speed, and is done. The steps are
    L-BFGS's (Liu and Nocedal, "On the limited memory BFGS method", 1989), in float64; each sees all rows. The same
    input on the same device gives the same result.

    Args:
        vectors: float [M, D] of any precision; may be a memory map.
        labels: class of each vector, int [M], from 0 to below `classes` in the rows that are used.
        classes: number C of classes; one without any row gets a probability near 0.
        strength: inverse strength of the regularisation.
        rows: positions of the vectors to learn from, int [n]; all when not given.
        device: where it is computed; the fastest available when not given. Sets of more than 2e8 products a pass are
            summed from chunks in float32.

    Raises:
        ConfigError: `strength` is not above 0, or there is no row.
        StoreError: vectors are not finite.
    """
    from scipy.optimize import minimize

    rows = np.arange(len(vectors)) if rows is None else rows
    if not (strength > 0 and math.isfinite(strength)) or not len(rows):
        raise ConfigError(
            f"A classifier needs a strength above 0 and at least one row, not {strength} and {len(rows)}."
        )
    with _fitting_threads(len(rows) * vectors.shape[1] * classes):
        objective = _Objective(vectors, labels, rows, classes, strength, device)
        found = minimize(
            objective,
            objective.start(),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": TOLERANCE, "ftol": objective.noise, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS},
        )
    solution = found.x.reshape(classes, -1)
    weights = np.array(solution[:, :-1])
    return SoftmaxRegression(weights, solution[:, -1] - weights @ objective.mean, int(found.nit))


@contextmanager
def _fitting_threads(products: int) -> Iterator[None]:
    """Let torch use one thread for passes of few products, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if products <= TINY else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Objective:
    """Mean loss and its slopes for flattened weights [C, D + 1], the bias last."""

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        classes: int,
        strength: float,
        device: torch.device | str | None,
    ) -> None:
        import torch

        self._vectors, self._labels, self._rows, self._classes = vectors, labels, rows, classes
        self._width = vectors.shape[1]
        self._penalty = 1 / (strength * len(rows))
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        small = len(rows) * self._width * classes <= SMALL
        self._dtype = torch.float64 if small else torch.float32
        self.noise = 64 * float(torch.finfo(torch.float64).eps) if small else 1e-10
        self.mean = np.zeros(self._width)
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        self.mean = self._measure_mean()
        if len(rows) * self._width <= KEPT:
            self._kept = list(self._read())

    def _measure_mean(self) -> np.ndarray:
        total = np.zeros(self._width)
        for part, _ in self._read():
            total += part.double().sum(dim=0).cpu().numpy()
        if not np.isfinite(total).all():
            raise StoreError("Vectors hold values that are not finite. Delete the embeddings and embed again.")
        return np.asarray(total / len(self._rows))

    def start(self) -> np.ndarray:
        """Weights of 0, and a bias of the logarithms of the classes' shares."""
        counts = np.bincount(self._labels[self._rows], minlength=self._classes)
        weights = np.zeros((self._classes, self._width + 1))
        weights[:, -1] = np.log(np.maximum(counts, 0.5) / len(self._rows))
        return weights.ravel()

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        import torch

        exact = torch.from_numpy(np.asarray(flat).reshape(self._classes, -1)).to(self._device)
        weights, bias = exact[:, :-1].to(self._dtype), exact[:, -1].to(self._dtype)
        loss, slopes = exact.new_zeros(()), torch.zeros_like(exact)
        for part, labels in self._kept or self._read():
            errors = torch.addmm(bias, part, weights.T).log_softmax(dim=1)
            loss -= errors.gather(1, labels[:, None]).sum(dtype=loss.dtype)
            errors.exp_().scatter_add_(1, labels[:, None], errors.new_full((len(labels), 1), -1))
            slopes[:, :-1] += errors.T @ part
            slopes[:, -1] += errors.sum(dim=0, dtype=loss.dtype)
        loss, slopes = loss / len(self._rows), slopes / len(self._rows)
        loss += self._penalty / 2 * exact[:, :-1].square().sum()
        slopes[:, :-1] += self._penalty * exact[:, :-1]
        return float(loss), slopes.cpu().numpy().ravel()

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Vectors [b, D] with the mean taken off, and labels [b], a chunk at a time."""
        import torch

        step = max(CHUNK.get(self._device.type, CHUNK["cpu"]) // (self._width + self._classes), 1)
        mean = torch.from_numpy(self.mean).to(self._device, self._dtype)
        for start in range(0, len(self._rows), step):
            rows = self._rows[start : start + step]
            part = torch.from_numpy(np.ascontiguousarray(self._vectors[rows])).to(self._device, self._dtype)
            yield part - mean, torch.from_numpy(self._labels[rows].astype(np.int64)).to(self._device)


STRENGTHS = (0.03, 0.3, 3.0, 30.0)


"""Inverse strengths of the regularisation that are tried, from strong to weak."""


ITERATIONS = 300


def scale(vectors: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, float]]:
    """Take off the mean and bring the mean squared length to 1, so that one regularisation fits vectors of any kind.

    Args:
        vectors: float [N, D].

    Returns:
        Scaled vectors, float32 [N, D]; and what was done: the mean [D] and the divisor.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    spread = max(float(np.sqrt((centred**2).sum(axis=1).mean())), 1e-12)
    return (centred / spread).astype(np.float32), (mean, spread)


def fit_probe(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """Logistic regression of labels [N] on scaled vectors [N, D]."""
    return fit(new_probe(strength), vectors, labels)


def new_probe(strength: float) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """A logistic regression that goes on from its last weights when it is fitted again."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=ITERATIONS, warm_start=True)


def fit(probe: Any, vectors: np.ndarray, labels: np.ndarray) -> Any:  # noqa: ANN401 - scikit-learn is untyped
    """Fit a probe; one that has not quite settled is good enough."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(vectors, labels)


def answer_out_of_fold(vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each row's class as a probe says that was fitted to the other folds.

    The regularisation of each fold's probe is the one that is right most often within the other folds: probes fitted
    to all but two folds are tried on either of the two, and count for the other. So no row takes part in any choice
    about its own answer.

    Args:
        vectors: scaled vectors [N, D].
        labels: int [N]; each class lies in at least three folds.
        folds: fold of each row, int [N].

    Returns:
        Classes, int64 [N].
    """
    right = np.zeros((FOLDS, len(STRENGTHS)))
    for one, two in combinations(range(FOLDS), 2):
        train = (folds != one) & (folds != two)
        probe = new_probe(STRENGTHS[0])
        for at, strength in enumerate(STRENGTHS):
            fit(probe.set_params(C=strength), vectors[train], labels[train])
            for judged, tried in ((one, two), (two, one)):
                rows = folds == tried
                right[judged, at] += (probe.predict(vectors[rows]) == labels[rows]).sum()
    answers = np.empty(len(labels), dtype=np.int64)
    for fold in range(FOLDS):
        train = folds != fold
        probe = fit_probe(vectors[train], labels[train], STRENGTHS[right[fold].argmax()])
        answers[~train] = probe.predict(vectors[~train])
    return answers
