"""State what a comparison shows, in plain words, and nothing that it does not show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from gpt4image.core.errors import StoreError
from gpt4image.core.format import counted, percent, points, shorten

if TYPE_CHECKING:
    from gpt4image.compare.records import ArmRecord, Comparison, Difference

FIRST_SEEDS = 5  # to advise after a run with one seed


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        kind: which claim is allowed; "one seed" allows none.
        claim: the claim, a clause without a full stop.
        measure: the difference in percentage points with its interval.
        accuracies: both arms' mean test accuracy, a sentence.
        covers: what the interval accounts for and what it does not.
        advice: how to settle the question; empty if it is settled.
        command: the command for it.
    """

    kind: Literal["better", "worse", "undecided", "one seed"]
    claim: str
    measure: str
    accuracies: str
    covers: str
    advice: str = ""
    command: str = ""

    @property
    def headline(self) -> str:
        """Claim and measure in one line."""
        return f"{self.claim}: {self.measure}"

    @property
    def text(self) -> str:
        """Everything as plain lines, safe to print on a terminal."""
        lines = [f"{self.headline}.", self.accuracies, self.covers, self.advice, self.command and f"  {self.command}"]
        return "\n".join(line for line in lines if line)


def verdict(comparison: Comparison) -> Verdict:
    """State what the paired difference of a comparison shows.

    Raises:
        StoreError: the difference names an unknown arm or seed, or is not a number.
    """
    difference = comparison.difference
    if not all(math.isfinite(value) for value in (difference.mean, difference.low, difference.high)):
        raise StoreError("The comparison's difference is not a finite number. Run the comparison again.")
    accuracies = _accuracies(comparison)
    if difference.covers == "images only" or len(difference.seeds) < 2:
        return _one_seed(difference, accuracies)
    if difference.low > 0 or difference.high < 0:
        return _settled(difference, accuracies)
    return _undecided(difference, accuracies)


def find_arm(comparison: Comparison, name: str) -> ArmRecord:
    """Return the arm of that name. StoreError lists the known arms."""
    for arm in comparison.arms:
        if arm.name == name:
            return arm
    known = ", ".join(repr(arm.name) for arm in comparison.arms) or "none"
    raise StoreError(f"The comparison's difference names the arm {name!r}; its arms are: {known}. Run it again.")


def mean_accuracy(comparison: Comparison, name: str) -> float:
    """Return the mean test accuracy of an arm over the seeds of the paired difference."""
    accuracy = {run.seed: run.test_accuracy for run in find_arm(comparison, name).runs}
    missing = [seed for seed in comparison.difference.seeds if seed not in accuracy]
    if missing or not comparison.difference.seeds:
        raise StoreError(f"The comparison's arm {name!r} lacks the seeds {missing or '(none named)'}. Run it again.")
    return fmean(accuracy[seed] for seed in comparison.difference.seeds)


def accuracy_digits(comparison: Comparison) -> int:
    """Return the decimals at which both mean accuracies, in per cent, differ by the difference that is shown.

    Rounded to one decimal, 52.47% and 53.73% differ by 1.2 points and their difference, 1.26, reads 1.3.
    """
    difference = comparison.difference
    means = [100 * mean_accuracy(comparison, name) for name in (difference.arm, difference.reference)]
    apart = round(means[0], 1) - round(means[1], 1)
    return 1 if math.isclose(apart, round(100 * difference.mean, 1), abs_tol=1e-6) else 2


def _accuracies(comparison: Comparison) -> str:
    difference, digits = comparison.difference, accuracy_digits(comparison)
    sides = [
        f"{shorten(find_arm(comparison, name).title, 60)} {percent(mean_accuracy(comparison, name), digits)}"
        for name in (difference.reference, difference.arm)
    ]
    return f"{'Test' if len(difference.seeds) == 1 else 'Mean test'} accuracy: {sides[0]}, {sides[1]}."


def _settled(difference: Difference, accuracies: str) -> Verdict:
    """The interval lies on one side of zero."""
    mean, low, high = points((difference.mean, difference.low, difference.high))
    better = difference.low > 0
    return Verdict(
        kind="better" if better else "worse",
        claim=f"Training with descriptions made the model {'better' if better else 'worse'}",
        measure=f"{mean} points (95% interval {low} to {high})",
        accuracies=accuracies,
        covers=_covers(difference),
    )


def _undecided(difference: Difference, accuracies: str) -> Verdict:
    """The interval includes zero."""
    mean, low, high = points((difference.mean, difference.low, difference.high))
    return Verdict(
        kind="undecided",
        claim="These runs do not show that the descriptions help or hurt",
        measure=f"{mean} points, and the 95% interval ({low} to {high}) includes zero",
        accuracies=accuracies,
        covers=_covers(difference),
        advice=_advice(difference),
        command=f"gpt4image compare DATA ... --seeds {max(FIRST_SEEDS, 2 * len(difference.seeds))}",
    )


def _one_seed(difference: Difference, accuracies: str) -> Verdict:
    """Without a second seed nothing shows how much training varies, so nothing is claimed."""
    mean, low, high = points((difference.mean, difference.low, difference.high))
    return Verdict(
        kind="one seed",
        claim="One seed cannot tell an effect from chance",
        measure=f"{mean} points in this one pair of runs (95% interval {low} to {high}, for the test images only)",
        accuracies=accuracies,
        covers="The interval accounts for the sample of test images. It does not account for the random seed: the same "
        "training with another seed can differ by more than this, however large the difference is.",
        advice="To find out, train both arms with more seeds and otherwise the same options:",
        command=f"gpt4image compare DATA ... --seeds {FIRST_SEEDS}",
    )


def _covers(difference: Difference) -> str:
    return (
        f"The interval accounts for the random seeds ({counted(len(difference.seeds), 'pair')} of runs) and the sample "
        "of test images. It says nothing about other data, models or settings."
    )


def _advice(difference: Difference) -> str:
    """Advise more seeds and test images for an interval that includes zero, and estimate how many."""
    if difference.low == difference.high:
        return (
            "Both arms scored the same on every image, as models do that have hardly learned, or on a tiny test set. "
            "For more epochs or test images, use another --work directory, and pass this one as --text to reuse its "
            "descriptions. For more seeds, run the same command:"
        )
    half = max(difference.high - difference.mean, difference.mean - difference.low)
    times = (half / abs(difference.mean)) ** 2 if difference.mean else math.inf
    size = ""
    if 1 < times <= 25:
        size = f" If the true difference is {points([difference.mean])[0]} points, it takes roughly "
        size += f"{math.ceil(times)} times as many of both to show it."
    elif times > 25:
        size = " A difference as small as this one would take far more of both than is practical."
    return f"More seeds and more test images narrow the interval.{size} The same command with more seeds:"
