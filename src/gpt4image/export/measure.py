"""Measure exported forms: how well they agree with the trained model, and how fast they are on this processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

BATCHES = (1, 32)
WARM_UP = 3
ROUNDS = 20


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported model with the trained one.

    Attributes:
        images: number of real images compared.
        difference: largest absolute difference of a logit.
        same_answers: images with the same predicted class.
    """

    form: str
    images: int
    difference: float
    same_answers: int

    def line(self) -> str:
        """Return the result as one line of text."""
        return (
            f"{self.form}: largest logit difference {self.difference:.1e} on {self.images} real images, "
            f"{self.same_answers}/{self.images} same predictions"
        )


@torch.no_grad()
def compare_logits(form: str, model: nn.Module, exported: Callable[[Tensor], Tensor], sample: Tensor) -> Parity:
    """Compare the logits of an exported form with those of the trained model on images [N, 3, H, W]."""
    expected, found = model(sample), exported(sample)
    equal = expected.argmax(dim=1) == found.argmax(dim=1)  # [N], or of pixels [N, S, S]
    same = int(equal.reshape(len(sample), -1).all(dim=1).sum())
    return Parity(form, len(sample), float((expected - found).abs().max()), same)


@dataclass(frozen=True)
class Latency:
    """Time of one call in milliseconds: the median of several calls, and their lower and upper quartile."""

    form: str
    batch: int
    median: float
    low: float
    high: float

    def line(self) -> str:
        """Return the result as one line of text."""
        return (
            f"{self.form}, batch {self.batch}: {self.median:.3g} ms (quartiles {self.low:.3g} to {self.high:.3g}), "
            f"{1000 * self.batch / self.median:,.0f} images a second"
        )


@torch.no_grad()
def measure_latencies(forms: Mapping[str, Callable[[Tensor], Tensor]], sample: Tensor) -> list[Latency]:
    """Time every form on batches of 1 and 32 images, in turn, so that other load on this machine slows all alike.

    Args:
        forms: functions from images to logits, by name.
        sample: real images [N, 3, H, W], repeated as needed.
    """
    found = []
    for size in BATCHES:
        batch = sample[torch.arange(size) % len(sample)]
        times: dict[str, list[float]] = {form: [] for form in forms}
        for turn in range(WARM_UP + ROUNDS):
            for form, predict in forms.items():
                start = time.perf_counter()
                predict(batch)
                if turn >= WARM_UP:
                    times[form].append(1000 * (time.perf_counter() - start))
        for form, taken in times.items():
            low, median, high = np.percentile(taken, (25, 50, 75)).tolist()
            found.append(Latency(form, size, median, low, high))
    return found
