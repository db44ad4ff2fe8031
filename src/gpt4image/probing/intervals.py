"""Paired differences with intervals that account for both kinds of luck: the seeds drawn and the test images drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean difference with its confidence interval.

    Attributes:
        mean: mean difference, as a share of 1.
        low: lower end of the 95% interval.
        high: upper end.
        covers: which luck the interval accounts for.
    """

    mean: float
    low: float
    high: float
    covers: Literal["seeds and images", "images only"]


def paired_interval(differences: np.ndarray) -> Interval:
    """Interval of the mean of paired differences [S, N] of S seeds on N test images.

    Each entry is what one arm scored on an image with a seed minus what the other did with the same seed: -1, 0 or 1
    for right or wrong answers. Seeds and images are both draws from something larger, so both count as random
    (two-way random effects without replication). With the mean squares of the two-way table,

        Var(mean) = (MS_seeds + MS_images - MS_residual) / (S N),

    never taken smaller than either of the first two alone, and Satterthwaite's degrees of freedom. That approximation
    is too sure of itself with two or three seeds, so the interval is also never narrower than the paired t interval
    over the seeds' means. One seed says nothing of the luck of the seed: the interval is then the t interval over
    images.

    Sources: Searle, Casella and McCulloch, "Variance Components" (1992), section 4.3 (mean squares); Satterthwaite,
    Biometrics Bulletin 2 (1946), equation 17 (degrees of freedom).

    Args:
        differences: float [S, N], N at least 2.
    """
    seeds, images = differences.shape
    mean = float(differences.mean())
    if seeds == 1:
        error = float(differences.std(ddof=1)) / images**0.5
        return Interval(mean, *around(mean, t_reach(error, images - 1)), "images only")
    squares, freedom = mean_squares(differences)
    combined = squares[0] + squares[1] - squares[2]
    largest = int(squares[:2].argmax())
    degrees = float(combined**2 / (squares**2 / freedom).sum()) if combined > squares[largest] else freedom[largest]
    both = t_reach((max(combined, squares[largest]) / differences.size) ** 0.5, degrees)
    seeds_alone = t_reach((squares[0] / differences.size) ** 0.5, seeds - 1)
    return Interval(mean, *around(mean, max(both, seeds_alone)), "seeds and images")


def mean_squares(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squares of a two-way table [S, N] for rows, columns and residual [3], and their degrees of freedom [3]."""
    rows, columns = table.shape
    by_row, by_column = table.mean(axis=1), table.mean(axis=0)
    residual = table - by_row[:, None] - by_column[None, :] + table.mean()
    freedom = np.array([rows - 1, columns - 1, (rows - 1) * (columns - 1)])
    sums = np.array(
        [
            columns * ((by_row - table.mean()) ** 2).sum(),
            rows * ((by_column - table.mean()) ** 2).sum(),
            (residual**2).sum(),
        ]
    )
    return sums / freedom, freedom


def t_reach(error: float, degrees: float) -> float:
    """Half the width of the confidence interval of a mean with a standard error."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error if error > 0 else 0.0


def around(mean: float, reach: float) -> tuple[float, float]:
    """Both ends of an interval."""
    return mean - reach, mean + reach
