"""How fast each exported form is on this machine's processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BATCHES = (1, 32)
WARM_UP = 3
ROUNDS = 20


@dataclass(frozen=True)
class Latency:
    """Time of one call in milliseconds: the median of some calls, and their lower and upper quartile."""

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
    """Time every form on batches of 1 and 32 images, in turn, so that whatever else runs here slows all alike.

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
