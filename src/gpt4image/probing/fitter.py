"""Softmax regressions fitted to subsets of rows, on the classes that occur there; earlier models speed up new fits."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

from gpt4image.probing.logistic_regression import TOLERANCE, SoftmaxRegression, fit_softmax_regression

if TYPE_CHECKING:
    import torch

MOST_KEPT = 2**26  # bytes of model weights that `Fits` keeps


@dataclass(frozen=True)
class PartialModel:
    """A model of some of the classes.

    Attributes:
        model: model of the classes that it has seen.
        seen: numbers of these classes, int64 [S], sorted.
        classes: number C of all classes.
        rows: number n of training rows.
    """

    model: SoftmaxRegression
    seen: np.ndarray
    classes: int
    rows: int

    def log_probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return log-probabilities of vectors [B, D] for all classes, float32 [B, C]."""
        absent = self.classes - len(self.seen)
        known = self.model.log_probabilities(vectors)  # [B, S]
        if not absent:
            return known
        whole = np.full((len(vectors), self.classes), -np.log((self.rows + 1) * absent), dtype=np.float32)
        whole[:, self.seen] = known + np.log(self.rows / (self.rows + 1))
        return whole


class Fits:
    """A cache of models fitted to the same vectors, which keeps the latest up to a memory limit.

    Methods with the same first fits share them, and a fit with another strength to the same labelled rows starts from
    the last one's result.
    """

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[bytes, float], PartialModel] = OrderedDict()
        self._latest: dict[bytes, PartialModel] = {}
        self._bytes = 0

    def find(self, rows: bytes, strength: float) -> PartialModel | None:
        """Return the model fitted to labelled rows, which are identified by `Fitter.name`; None if there is none."""
        return self._models.get((rows, strength))

    def latest(self, rows: bytes) -> PartialModel | None:
        """Return the last model of these rows, whatever its strength."""
        return self._latest.get(rows)

    def keep(self, rows: bytes, strength: float, model: PartialModel) -> None:
        """Keep a model, and drop the oldest ones if they take too much memory."""
        self._models[rows, strength] = self._latest[rows] = model
        self._bytes += model.model.weights.nbytes
        while self._bytes > MOST_KEPT and len(self._models) > 1:
            (oldest, _), gone = self._models.popitem(last=False)
            self._bytes -= gone.model.weights.nbytes
            if self._latest.get(oldest) is gone:
                del self._latest[oldest]


@dataclass(frozen=True)
class Fitter:
    """Fits models to subsets of the rows.

    Attributes:
        vectors: float [N, D].
        labels: int [N], -1 for none.
        classes: number C of classes.
        tolerance: precision of the fits.
        device: device of the fits.
        prior: added to the models' log-probabilities, float [N, C].
        fits: models of the same vectors and tolerance that were fitted already; None to keep none.
    """

    vectors: np.ndarray
    labels: np.ndarray
    classes: int
    tolerance: float = TOLERANCE
    device: torch.device | str | None = None
    prior: np.ndarray | None = None
    fits: Fits | None = None

    def fit(self, rows: np.ndarray, strength: float, start: PartialModel | None = None) -> PartialModel:
        """Fit a model of the classes that occur among labelled rows.

        Args:
            rows: the labelled rows, int64 [n].
            strength: inverse strength of the regularisation.
            start: model to start from. It affects little more than the speed; but because a fit stops only near the
                minimum, it must not have seen rows that the new model is to predict.
        """
        name = b"" if self.fits is None else self.name(rows)
        if self.fits is not None:
            if found := self.fits.find(name, strength):
                return found
            start = self.fits.latest(name) or start
        seen = np.unique(self.labels[rows])
        places = np.searchsorted(seen, self.labels)  # column of the class in the model; meaningless outside `rows`
        model = fit_softmax_regression(
            self.vectors,
            places,
            len(seen),
            strength=strength,
            rows=rows,
            tolerance=self.tolerance,
            device=self.device,
            start=start.model if start is not None and np.array_equal(start.seen, seen) else None,
        )
        fitted = PartialModel(model, seen, self.classes, len(rows))
        if self.fits is not None:
            self.fits.keep(name, strength, fitted)
        return fitted

    def latest(self, rows: np.ndarray) -> PartialModel | None:
        """Return the last model of labelled rows, int64 [n], whatever its strength; None if there is none."""
        return None if self.fits is None else self.fits.latest(self.name(rows))

    def name(self, rows: np.ndarray) -> bytes:
        """Return a hash of rows and their labels."""
        return hashlib.sha256(rows.tobytes() + self.labels[rows].tobytes()).digest()

    def predict(self, model: PartialModel, rows: np.ndarray) -> np.ndarray:
        """Return a model's log-probabilities for rows [B], with the prior, float32 [B, C]."""
        found = model.log_probabilities(self.vectors[rows])
        if self.prior is None:
            return found
        return np.asarray(log_softmax(found + self.prior[rows], axis=1), dtype=np.float32)
