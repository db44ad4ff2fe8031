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
        low: lower end of the 95 % interval.
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

    never taken smaller than either part alone, and Satterthwaite's degrees of freedom. One seed says nothing of the
    luck of the seed: the interval is then the t interval over images. Source: Searle, Casella and McCulloch, "Variance
    Components" (1992), section 4.3 (mean squares); Satterthwaite, Biometrics Bulletin 2 (1946), equation 17 (degrees
    of freedom).

    Args:
        differences: float [S, N], N at least 2.
    """
    seeds, images = differences.shape
    mean = float(differences.mean())
    if seeds == 1:
        error = float(differences.std(ddof=1)) / images**0.5
        return t_interval(mean, error, images - 1, "images only")
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    residual = differences - by_seed[:, None] - by_image[None, :] + mean
    mean_squares = np.array(
        [
            images * float(by_seed.var(ddof=1)),
            seeds * float(by_image.var(ddof=1)),
            float((residual**2).sum()) / ((seeds - 1) * (images - 1)),
        ]
    )
    freedom = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    combined = mean_squares[0] + mean_squares[1] - mean_squares[2]
    largest = int(mean_squares[:2].argmax())
    if combined < mean_squares[largest]:
        return t_interval(mean, (mean_squares[largest] / differences.size) ** 0.5, freedom[largest], "seeds and images")
    degrees = combined**2 / (mean_squares**2 / freedom).sum() if combined > 0 else 1.0
    return t_interval(mean, (combined / differences.size) ** 0.5, degrees, "seeds and images")


def t_interval(
    mean: float, error: float, degrees: float, covers: Literal["seeds and images", "images only"]
) -> Interval:
    """Interval around a mean with a standard error, from the t distribution."""
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error if error > 0 else 0.0
    return Interval(mean, mean - reach, mean + reach, covers)
