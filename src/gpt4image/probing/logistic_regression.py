"""Multinomial logistic regression on any number of vectors: each step sees all rows, one chunk in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from gpt4image.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TINY = 2 * 10**7  # products per pass (rows x width x classes) below which one thread is faster than several
CHUNK = {"cpu": 2**20, "cuda": 2**25}  # elements of a chunk's vectors and logits
KEPT = 2**27  # bytes of vectors that may stay in memory from pass to pass
SAMPLE = 8  # rows per dimension D from which the covariance is estimated
WIDE = 8  # D**2 per row and class, up to which finding the axes of the covariance saves more time than it takes
SPANNED = 120  # approximate limit on the cost of finding the space that few vectors span, in passes of a fit
NULL = 1e-12  # share of the largest variance below which vectors do not vary along an axis
ROTATED = 8192  # rows at a time
TOLERANCE = 1e-7  # largest slope of the mean loss, in any coordinate of `_Axes`, at which a fit has converged
MOST_STEPS = 1000


@dataclass(frozen=True)
class SoftmaxRegression:
    """A fitted classifier, softmax(W x + b).

    Attributes:
        weights: W, float64 [C, D].
        bias: b, float64 [C].
        steps: number of L-BFGS steps that the fit took.
    """

    weights: np.ndarray
    bias: np.ndarray
    steps: int

    def log_probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of vectors [B, D], float32 [B, C]."""
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
    tolerance: float = TOLERANCE,
    device: torch.device | str | None = None,
    start: SoftmaxRegression | None = None,
) -> SoftmaxRegression:
    """Fit a multinomial logistic regression with L2 regularisation.

    The fit minimises (Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.108, with a Gaussian prior
    on W)

        sum_i -log softmax(W x_i + b)[y_i] + ||W||^2 / (2 strength)

    as scikit-learn's `LogisticRegression(C=strength)` does. With two classes, scikit-learn fits the difference of both
    rows of W instead, which costs half as much: there its C is 2 * strength. The bias is not regularised, so centring
    the vectors, done for speed, does not change the result. The steps are L-BFGS's (Liu and Nocedal, "On the limited
    memory BFGS method", 1989), in coordinates in which the loss has about the same curvature in all directions; each
    sees all rows, in float64. A few wide vectors are fitted in the space that they span (`_Span`). The same input on
    the same device gives the same result.

    Args:
        vectors: float [M, D] of any precision; may be a memory map.
        labels: class of each vector, int [M], from 0 to below `classes` in the rows that are used.
        classes: number C of classes; one without any row gets a probability near 0.
        strength: inverse strength of the regularisation.
        rows: positions of the vectors to learn from, int [n]; by default all.
        tolerance: largest slope of the mean loss at which the fit stops. 1e-4 takes about half the steps and gives
            probabilities within 0.005, enough to tell which class is the likeliest.
        device: device of the computation; by default a GPU if there is one.
        start: model of the same classes to start from, such as one of another strength; it affects only the speed.

    Raises:
        ConfigError: `strength` is not above 0, or there is no row.
        StoreError: vectors hold values that are not finite.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    if not (strength > 0 and math.isfinite(strength)) or not len(rows):
        raise ConfigError(
            f"A classifier needs a strength above 0 and at least one row, not {strength} and {len(rows)}."
        )
    with fitting_threads(len(rows) * vectors.shape[1] * classes):
        span = _Span.of(vectors, rows, classes)
        if span is None:
            return _minimise(_Objective(vectors, labels, rows, classes, strength, device), tolerance, start)
        objective = _Objective(span.places, labels[rows], np.arange(len(rows)), classes, strength, device)
        return span.model(_minimise(objective, tolerance, start and span.inside(start)))


def _minimise(objective: _Objective, tolerance: float, start: SoftmaxRegression | None) -> SoftmaxRegression:
    from scipy.optimize import minimize

    axes = _Axes.of(objective)

    def measure(coordinates: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slopes = objective(axes.weights(coordinates))
        return loss, axes.slopes(slopes)

    found = minimize(
        measure,
        axes.coordinates(objective.start(start)),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": tolerance, "ftol": 0, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS},
    )
    solution = axes.weights(found.x).reshape(objective.classes, -1)
    weights = np.array(solution[:, :-1])
    return SoftmaxRegression(weights, solution[:, -1] - weights @ objective.mean, int(found.nit))


@contextmanager
def fitting_threads(products: int) -> Iterator[None]:
    """Let torch and BLAS use one thread for passes with few products; restore the number of threads afterwards."""
    import torch

    if products > TINY:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    """Find the loaded BLAS libraries; this takes longer than a small fit."""
    return ThreadpoolController()


class _Objective:
    """Mean loss and its gradient as a function of the flattened weights [C, D + 1], whose last column is the bias."""

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

        self._vectors, self._labels, self.rows = vectors, labels, rows
        self.classes, self.width = classes, vectors.shape[1]
        self.penalty = 1 / (strength * len(rows))
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kept = len(rows) * self.width * vectors.itemsize <= KEPT
        self._kept = list(self._load(rows)) if kept else None
        self.mean, self.variance = self._measure_spread()
        centred = len(rows) * self.width * 8 <= KEPT  # so that not every pass has to centre them again
        self._centred = list(self._read()) if centred else None
        self._kept = None if centred else self._kept

    def _measure_spread(self) -> tuple[np.ndarray, np.ndarray]:
        import torch

        total, squares = torch.zeros(2, self.width, dtype=torch.float64, device=self._device)
        for part, _ in self._kept or self._load(self.rows):
            total += part.double().sum(dim=0)
            squares += part.double().square().sum(dim=0)
        if not total.isfinite().all():
            raise StoreError("Vectors hold values that are not finite. Delete the embeddings and embed again.")
        mean = total / len(self.rows)
        return mean.cpu().numpy(), (squares / len(self.rows) - mean.square()).clamp(min=0).cpu().numpy()

    def shares(self) -> np.ndarray:
        """Return the share of each class among the rows [C]; a class without rows counts as half a row."""
        counts = np.bincount(self._labels[self.rows], minlength=self.classes)
        return np.asarray(np.maximum(counts, 0.5) / len(self.rows))

    def start(self, model: SoftmaxRegression | None = None) -> np.ndarray:
        """Return initial weights, flattened: a model's, or 0 with the logarithms of the classes' shares as bias."""
        if model is not None:
            bias = model.bias + model.weights @ self.mean  # the vectors are centred here
            return np.column_stack([model.weights, bias]).ravel()
        weights = np.zeros((self.classes, self.width + 1))
        weights[:, -1] = np.log(self.shares())
        return weights.ravel()

    def covariance(self) -> np.ndarray:
        """Estimate the covariance of the vectors [D, D] from about `SAMPLE * D` rows, spread evenly over all."""
        rows = self.rows[:: max(len(self.rows) // (SAMPLE * self.width), 1)]
        return np.asarray(sum((part.T @ part).cpu().numpy() for part, _ in self._read(rows)) / len(rows))

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        import torch

        weights = torch.from_numpy(np.asarray(flat).reshape(self.classes, -1)).to(self._device)
        loss, slopes = weights.new_zeros(()), torch.zeros_like(weights)
        for part, labels in self._centred or self._read():  # [b, D], [b]
            errors = torch.addmm(weights[:, -1], part, weights[:, :-1].T).log_softmax(dim=1)  # log-probabilities [b, C]
            loss -= errors.gather(1, labels[:, None]).sum()
            # the gradient of the cross-entropy in the logits is probability - one-hot label; both in place
            errors.exp_().scatter_add_(1, labels[:, None], errors.new_full((len(labels), 1), -1))
            slopes[:, :-1] += errors.T @ part  # [C, b] @ [b, D]
            slopes[:, -1] += errors.sum(dim=0)
        loss, slopes = loss / len(self.rows), slopes / len(self.rows)
        loss += self.penalty / 2 * weights[:, :-1].square().sum()
        slopes[:, :-1] += self.penalty * weights[:, :-1]
        return float(loss), slopes.cpu().numpy().ravel()

    def _read(self, rows: np.ndarray | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield centred vectors, float64 [b, D], and labels [b] of all or given rows, a chunk at a time."""
        import torch

        mean = torch.from_numpy(self.mean).to(self._device)
        for part, labels in self._load(rows) if rows is not None else self._kept or self._load(self.rows):
            yield part.to(mean.dtype, copy=True).sub_(mean), labels

    def _load(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield vectors [b, D] as they are stored and labels [b], a chunk at a time."""
        import torch

        step = max(CHUNK.get(self._device.type, CHUNK["cpu"]) // (self.width + self.classes), 1)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            part = torch.from_numpy(np.ascontiguousarray(self._vectors[chunk])).to(self._device)
            yield part, torch.from_numpy(self._labels[chunk].astype(np.int64)).to(self._device)


@dataclass(frozen=True)
class _Axes:
    """Coordinates of the weights in which the loss has about the same curvature in all directions (preconditioning).

    At weights of 0 the curvature in the weights of a class is s (1 - s) S + penalty, where s is the class's share of
    the rows and S the covariance of the vectors. s S + penalty is used instead, which stays above 0 for a single class.
    The axes are the eigenvectors of S, or the vectors' own axes where finding those would take longer than the fit; a
    coordinate is a weight times the square root of its curvature. The coordinates affect only the number of steps and
    how close to the minimum a fit stops.

    Attributes:
        turn: the axes as columns [D, D]; None for the vectors' own.
        scales: weights divided by coordinates [C, D + 1].
    """

    turn: np.ndarray | None
    scales: np.ndarray

    @classmethod
    def of(cls, objective: _Objective) -> _Axes:
        """Choose the axes for the vectors of an objective."""
        spread, turn = objective.variance, None  # [D]
        if objective.width**2 <= WIDE * len(objective.rows) * objective.classes:
            spread, turn = np.linalg.eigh(objective.covariance())
        curvature = objective.shares()[:, None] * np.append(spread.clip(min=0), 1)  # [C, D + 1]
        curvature[:, :-1] += objective.penalty
        return cls(turn, curvature**-0.5)

    def coordinates(self, weights: np.ndarray) -> np.ndarray:
        """Return the coordinates of flattened weights, [C * (D + 1)]."""
        return np.asarray(self._turn(weights, back=False) / self.scales.ravel())

    def weights(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the flattened weights of coordinates, with a mean over the classes of 0, [C * (D + 1)].

        A part common to all classes changes no probability, and only the penalty would bring it to 0, in many steps.
        """
        weights = self._turn(coordinates * self.scales.ravel(), back=True).reshape(self.scales.shape)
        return np.asarray(weights - weights.mean(axis=0)).ravel()

    def slopes(self, slopes: np.ndarray) -> np.ndarray:
        """Return the gradient in the coordinates from that in the weights, [C * (D + 1)]."""
        return np.asarray(self._turn(slopes, back=False) * self.scales.ravel())

    def _turn(self, flat: np.ndarray, *, back: bool) -> np.ndarray:
        if self.turn is None:
            return flat
        weights = flat.reshape(self.scales.shape)
        turned = weights[:, :-1] @ (self.turn.T if back else self.turn)
        return np.concatenate([turned, weights[:, -1:]], axis=1).ravel()


@dataclass(frozen=True)
class _Span:
    """A few vectors in the space that they span, along the axes of their covariance.

    The n vectors x_i with mean m are m + V z_i, where V [D, R] has R < n orthonormal columns. The penalty makes W zero
    outside that space (the representer theorem; Kimeldorf and Wahba, 1971), so the fit to all z_i, whose weights are
    W V, gives the same predictions. V and z_i come from the eigenvectors of the n x n inner products.

    Attributes:
        places: z_i, float64 [n, R].
        axes: V, float64 [D, R].
        mean: m, float64 [D].
    """

    places: np.ndarray
    axes: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, rows: np.ndarray, classes: int) -> _Span | None:
        """Find the space that vectors span; None where that would take longer than it saves."""
        count, width = len(rows), vectors.shape[1]
        if count >= width or count * (width + 9 * count) > SPANNED * width * classes:
            return None
        chosen = np.asarray(vectors[rows], dtype=np.float64)
        mean = chosen.mean(axis=0)
        if not np.isfinite(mean).all():
            return None  # the fit raises the error
        chosen -= mean
        spread, turned = _main_axes(chosen @ chosen.T)
        places = turned * np.sqrt(spread)
        return cls(places, chosen.T @ (turned / np.sqrt(spread)), mean)

    def inside(self, model: SoftmaxRegression) -> SoftmaxRegression:
        """Project a model of the vectors onto this space."""
        return SoftmaxRegression(model.weights @ self.axes, model.bias + model.weights @ self.mean, model.steps)

    def model(self, inside: SoftmaxRegression) -> SoftmaxRegression:
        """Convert a model of this space to one of the vectors."""
        weights = inside.weights @ self.axes.T
        return SoftmaxRegression(weights, inside.bias - weights @ self.mean, inside.steps)


def turn_to_axes(vectors: np.ndarray) -> np.ndarray:
    """Centre vectors [N, D] and rotate them to the axes of their covariance, float32 [N, R] with R <= D and R <= N.

    Directions in which they do not vary are left out. A softmax regression gives the same predictions for them, because
    neither its penalty nor its bias depends on the axes and the centre; but L-BFGS takes fewer steps, because the loss
    is curved along the axes. This saves time before many fits to parts of the vectors.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        return np.asarray(vectors, dtype=np.float32)  # the fit raises the error
    if len(vectors) <= vectors.shape[1]:
        centred = vectors - mean
        spread, turned = _main_axes(centred @ centred.T)
        return np.asarray(turned * np.sqrt(spread), dtype=np.float32)
    covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
    parts = [slice(start, start + ROTATED) for start in range(0, len(vectors), ROTATED)]
    for part in parts:
        centred = vectors[part] - mean
        covariance += centred.T @ centred
    axes = _main_axes(covariance)[1]
    turned = np.empty((len(vectors), axes.shape[1]), dtype=np.float32)
    for part in parts:
        turned[part] = (vectors[part] - mean) @ axes
    return turned


def _main_axes(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues [R] of a matrix of inner products, the largest first, and its eigenvectors [n, R].

    Eigenvalues that are 0 up to rounding are left out; if all are, one is kept.
    """
    spread, axes = np.linalg.eigh(products)
    kept = np.flatnonzero(spread > NULL * spread[-1])[::-1] if spread[-1] > 0 else np.array([len(spread) - 1])
    return np.maximum(spread[kept], np.finfo(np.float64).tiny), axes[:, kept]


def standardise(vectors: np.ndarray) -> np.ndarray:
    """Centre vectors [N, D] and scale them to a mean squared length of 1, float32 [N, D].

    One strength of regularisation then suits vectors of any kind.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float32) - mean.astype(np.float32)
    length = (np.einsum("nd,nd->", centred, centred, dtype=np.float64) / len(centred)) ** 0.5
    return np.asarray(centred / np.float32(max(length, 1e-6)))
