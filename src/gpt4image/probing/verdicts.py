"""The rules by which a comparison is judged: what may be claimed about a difference, and about the descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gpt4image.probing.intervals import CONFIDENCE

VerdictKind = Literal["better", "worse", "equal", "undecided", "one seed"]
"""The verdict on an arm: it is better or worse than the baseline, or differs by less than the margin; or these runs
cannot tell."""
LEVEL = round(1 - CONFIDENCE, 9)  # significance level of all claims together that an arm is better or worse
EQUIVALENCE_CONFIDENCE = 1 - 2 * LEVEL  # two one-sided tests at the level


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons by Holm's method, which controls the family-wise error rate.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): the
    k-th smallest of m is multiplied by m - k + 1, and raised to the one before it if that is larger.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()  # type: ignore[no-any-return]


def judge(mean: float, p_value: float, equivalence: tuple[float, float], margin: float) -> VerdictKind:
    """Return the verdict on a difference over several seeds.

    The arms differ if the p-value is below 5%. Otherwise they are equivalent if two one-sided tests at 5% reject a
    difference as large as the margin, that is, if the 90% interval lies within the margin (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15, 1987).

    Args:
        mean: the mean difference.
        p_value: its two-sided p-value, adjusted for the number of arms.
        equivalence: both ends of its 90% interval.
        margin: largest negligible difference, above 0.
    """
    if p_value < LEVEL:
        return "better" if mean > 0 else "worse"
    low, high = equivalence
    return "equal" if -margin < low and high < margin and low < high else "undecided"


def beats_all(lows: Sequence[float]) -> bool:
    """Return whether an arm is better than every one of its controls.

    Args:
        lows: lower ends of the 95% intervals of the differences from them. No correction is needed, because all have to
            lie above zero (intersection-union test: Berger, "Multiparameter hypothesis testing and acceptance
            sampling", Technometrics 24, 1982).
    """
    return bool(lows) and min(lows) > 0
