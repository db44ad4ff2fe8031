"""Confidence intervals for a comparison over seeds and test images, and for accuracies over groups of images.

The verdict of a comparison uses `PairedDifference`, that of `gpt4image describe check` uses `GroupBootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt4image.core.record import ShareEstimate

# scipy takes a second to load, which commands that compute no interval should not wait for: functions import it.

CONFIDENCE = 0.95
POWER = 0.8  # of a planned comparison: the probability that it finds an existing effect
FEW_IMAGES = 100  # fewer test images are too few to estimate their variance
MOST_SEEDS, MOST_TIMES = 30, 10  # practical limits: runs per arm, and factor on the number of test images
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval.

    Attributes:
        mean: the mean, such as a difference of accuracies between -1 and 1.
        low: lower end of the interval.
        high: upper end of the interval.
        covers: the sources of randomness that the interval covers.
    """

    mean: float
    low: float
    high: float
    covers: Literal["seeds and images", "images only"]


def to_estimate(share: Interval | None) -> ShareEstimate | None:
    """Return the interval of a share as a record, where there is one."""
    return None if share is None else ShareEstimate(mean=share.mean, low=share.low, high=share.high)


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, with the standard errors for its intervals and tests.

    Attributes:
        mean: the mean.
        errors: standard error and degrees of freedom of each t statistic; the most conservative of them counts.
        covers: the sources of randomness that they cover.
    """

    mean: float
    errors: tuple[tuple[float, float], ...]
    covers: Literal["seeds and images", "images only"]

    @classmethod
    def of(cls, differences: np.ndarray) -> PairedDifference:
        """Compute the mean difference over S seeds and N test images.

        Seeds and test images are both samples, so both are random effects: x_sn = mean + seed_s + image_n + rest_sn, a
        two-way table without replication. With the mean squares of its rows, columns and residual,

            Var(mean) = (MS_seeds + MS_images - MS_residual) / (S N),

        bounded below by each of the first two terms, with Satterthwaite's degrees of freedom. That approximation is
        anti-conservative for two or three seeds, so the paired t test over the means of the seeds counts as well. With
        a single seed nothing is known about the variation between seeds, and only the paired t test over images is
        left.

        Sources: Searle, Casella and McCulloch, "Variance Components" (1992), section 4.3 (mean squares); Satterthwaite,
        Biometrics Bulletin 2 (1946), equation 17 (degrees of freedom).

        Args:
            differences: score of one arm minus that of the other for each seed and image, float [S, N], N at least 2.
                For right and wrong predictions the entries are -1, 0 and 1.
        """
        seeds, images = differences.shape
        mean = float(differences.mean())
        if seeds == 1:
            return cls(mean, ((float(differences.std(ddof=1)) / images**0.5, images - 1),), "images only")
        squares, freedom = mean_squares(differences)
        combined = squares[0] + squares[1] - squares[2]
        largest = int(squares[:2].argmax())
        degrees = combined**2 / (squares**2 / freedom).sum() if combined > squares[largest] else freedom[largest]
        both = float((max(combined, squares[largest]) / differences.size) ** 0.5), float(degrees)
        seeds_alone = float((squares[0] / differences.size) ** 0.5), float(seeds - 1)
        return cls(mean, (both, seeds_alone), "seeds and images")

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the confidence interval of the mean, within -1 and 1, the range of a difference of scores."""
        from scipy import stats

        quantile = (1 + confidence) / 2
        reach = max(float(stats.t.ppf(quantile, degrees)) * error if error else 0.0 for error, degrees in self.errors)
        return Interval(self.mean, max(self.mean - reach, -1.0), min(self.mean + reach, 1.0), self.covers)

    @property
    def p_value(self) -> float:
        """The two-sided p-value of a zero mean; below 0.05 exactly where the 95% interval excludes zero."""
        from scipy import stats

        if not self.mean:
            return 1.0
        return max(
            2 * float(stats.t.sf(abs(self.mean) / error, degrees)) if error else 0.0 for error, degrees in self.errors
        )


def paired_interval(differences: np.ndarray) -> Interval:
    """Return the 95% confidence interval of the mean of paired differences, float [S, N], see `PairedDifference`."""
    return PairedDifference.of(differences).interval()


@dataclass(frozen=True)
class SampleSize:
    """The sample size that decides a comparison with a power of 80%, if the true difference is the measured one.

    Attributes:
        seeds: runs per arm; None if no practical number is enough.
        times_images: factor on the number of test images; 1 if more seeds are enough.
        shows: what it would show: the difference, or that there is none as large as the margin.
    """

    seeds: int | None
    times_images: int = 1
    shows: Literal["difference", "no difference"] = "difference"


def sample_size(differences: np.ndarray, margin: float = 0.0, comparisons: int = 1) -> SampleSize:
    """Return the sample size needed to judge the mean of paired differences, float [S, N] with at least 2 seeds.

    The variance components of the two-way table (see `PairedDifference`) give the interval for other numbers of seeds
    and images; the mean has to exceed its half-width by enough for the power (Searle, Casella and McCulloch, section
    4.3). For equivalence, the interval has to fit within the margin with the same power. More images are advised where
    more seeds are not enough. Fewer than 100 test images may show no variance between them by chance: then the
    components are computed with the two images that `small_sample_interval` adds.

    Args:
        differences: as for `PairedDifference.of`.
        margin: largest negligible difference; 0 for none.
        comparisons: number of comparisons to correct for.
    """
    from scipy import stats

    seeds, images = differences.shape
    judged = differences if images >= FEW_IMAGES else _with_discordant_images(differences)
    of_seeds, of_images, rest = mean_squares(judged)[0]
    by_seed, by_image = max(0.0, of_seeds - rest) / images, max(0.0, of_images - rest) / seeds
    mean, level = abs(float(differences.mean())), (1 - CONFIDENCE) / comparisons
    goals: list[tuple[Literal["difference", "no difference"], float, float, float]] = [
        ("difference", mean, 1 - level / 2, POWER),
        ("no difference", margin - mean, CONFIDENCE, (1 + POWER) / 2),  # either of two tests may fail
    ]
    for times in range(1, MOST_TIMES + 1):
        number = np.arange(seeds + 1 if times == 1 else seeds, MOST_SEEDS + 1)
        seeds_error = np.sqrt((by_seed + rest / (images * times)) / number)
        error = np.sqrt(seeds_error**2 + by_image / (images * times))
        found = []
        for shows, room, quantile, power in goals:
            reach = np.maximum(stats.t.ppf(quantile, number - 1) * seeds_error, stats.norm.ppf(quantile) * error)
            enough = number[(reach + stats.norm.ppf(power) * error <= room) & (room > 0)]
            found += [(int(enough[0]), shows)] if len(enough) else []
        if found:
            least, shows = min(found)
            return SampleSize(least, times, shows)
    return SampleSize(None)


def small_sample_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return both ends of an interval that is also valid for few test images, such as those of one class.

    The plain interval of two arms that are right on the same 3 images has a width of zero. Like Bonett and Price,
    "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
    Educational and Behavioral Statistics 37 (2012), this adds one image that only the first arm gets right and one that
    only the second does: the paired form of the Agresti-Coull interval, which approximates Wilson's.

    Args:
        differences: float [S, N], N at least 1, as for `paired_interval`.
    """
    interval = paired_interval(_with_discordant_images(differences))
    return interval.low, interval.high


def _with_discordant_images(differences: np.ndarray) -> np.ndarray:
    added = np.broadcast_to([1.0, -1.0], (len(differences), 2))
    return np.concatenate([differences, added], axis=1)


def exact_paired_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value of the exact sign-flip test of the hypothesis that both arms are equally accurate.

    If neither arm is better, each image's difference has either sign with the same probability. The distribution of
    the sum over all signs is computed exactly, so the test is valid for any number of images. With one seed this is
    McNemar's exact test (McNemar, Psychometrika 12, 1947); for several, the images' sums over seeds are permuted as in
    Fisher, "The Design of Experiments" (1935), section 21. It covers the test images, not the random seeds.

    Args:
        differences: -1, 0 or 1 for each seed and image, [S, N].

    >>> round(exact_paired_test(np.array([[1, 1, 1, 1, 1, -1, 0, 0]])), 5)
    0.21875
    """
    from scipy import signal, stats

    sums = np.rint(differences.sum(axis=0)).astype(np.int64)  # [N]
    chances = np.ones(1)  # probability of each sum from -total to total
    for size, images in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        of_size = np.zeros(2 * size * images + 1)  # by the number of positive images
        of_size[:: 2 * size] = stats.binom.pmf(np.arange(images + 1), images, 0.5)
        chances = signal.convolve(chances, of_size)
    total = len(chances) // 2
    extreme = np.abs(np.arange(-total, total + 1)) >= abs(int(sums.sum()))
    return float(np.clip(chances[extreme].sum(), 0, 1))


def weighted_share(true: np.ndarray, weights: np.ndarray) -> Interval:
    """Return the weighted share of true values, with Wilson's interval for the effective number of values.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); effective number of
    values: Kish, "Survey Sampling" (1965), section 11.7.

    Args:
        true: bool [N].
        weights: float [N], not all 0.

    >>> found = weighted_share(np.array([True] * 8 + [False] * 2), np.ones(10))
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (0.8, 0.49, 0.943)
    """
    return wilson_interval(float(weights @ true / weights.sum()), float(weights.sum() ** 2 / (weights**2).sum()))


def wilson_interval(share: float, count: float) -> Interval:
    """Return a share with Wilson's interval, which is also valid for few values and for shares near 0 and 1.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        share: share of true values. The mean of several seeds counts as one share, because seeds add no images.
        count: number of values, above 0.
    """
    from scipy import stats

    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    low, high = round(centre - reach, 9), round(centre + reach, 9)  # exactly 0 and 1 where all values agree
    return Interval(share, max(low, 0.0), min(high, 1.0), "images only")


def mean_squares(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean squares [3] of rows, columns and residual of a table [S, N], and their degrees of freedom [3]."""
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


@dataclass(frozen=True)
class GroupBootstrap:
    """Percentile bootstrap that resamples whole groups, because the images of a group are not independent.

    Field and Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007).

    Attributes:
        groups: group numbers from 0, int [N].
        seed: seed of the resampling.
    """

    groups: np.ndarray
    seed: int

    def mean(self, values: np.ndarray) -> Interval:
        """Return the mean of values, float [N], with its interval."""
        from scipy import stats

        sums, sizes = np.bincount(self.groups, weights=values), np.bincount(self.groups).astype(np.float64)
        interval = stats.bootstrap(
            (sums, sizes),
            lambda total, size, axis=-1: total.sum(axis=axis) / size.sum(axis=axis),
            paired=True,  # a group keeps its sum and its size
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=100,
            confidence_level=CONFIDENCE,
            method="percentile",
            random_state=np.random.default_rng(self.seed),
        ).confidence_interval
        return Interval(float(values.mean()), float(interval.low), float(interval.high), "images only")


def ratio_interval(counts: np.ndarray, sizes: np.ndarray, groups: np.ndarray) -> Interval:
    """Return the ratio of two sums, from 0 to 1, with its 95% confidence interval over groups.

    The variance is that of a ratio estimator (Cochran, "Sampling Techniques", 3rd edition 1977, equation 6.13):
    G / (G - 1) sum_g (a_g - r b_g)^2 / (sum_g b_g)^2, where a_g and b_g are the sums of a group and r their ratio.

    Args:
        counts: float [N].
        sizes: float [N], not all 0.
        groups: group of each row, int [N].
    """
    from scipy import stats

    places = np.unique(groups, return_inverse=True)[1].reshape(-1)
    a, b = (np.bincount(places, weights=values) for values in (counts, sizes))
    ratio, taking = a.sum() / b.sum(), int((b > 0).sum())
    residual = ((a - ratio * b) ** 2).sum() * taking / max(taking - 1, 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, max(taking - 1, 1)) * residual**0.5 / b.sum()
    return Interval(float(ratio), float(max(ratio - reach, 0.0)), float(min(ratio + reach, 1.0)), "images only")
