"""What a comparison shows, in plain words, and no more than it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from gpt4image.core.errors import StoreError
from gpt4image.core.format import counted, percent, points, shorten

if TYPE_CHECKING:
    from gpt4image.compare.records import ArmRecord, Comparison, Difference


SEEDS_TO_START_WITH = 5


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        kind: what may be claimed; "one seed" never claims anything.
        claim: the claim, a clause without a full stop.
        measure: the difference in percentage points with its interval.
        accuracies: the mean test accuracy of either arm, a sentence.
        covers: which luck the interval accounts for, and which not.
        advice: what would settle the question; empty where it is settled.
        command: the command that follows the advice; empty where there is none.
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
    """Say what the paired difference of a comparison shows.

    Args:
        comparison: a comparison whose difference names two of its arms.

    Raises:
        StoreError: the difference names an arm or a seed that the comparison does not hold, or is no number.
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
    """The arm of that name. StoreError lists the arms there are when it is unknown."""
    for arm in comparison.arms:
        if arm.name == name:
            return arm
    known = ", ".join(repr(arm.name) for arm in comparison.arms) or "none"
    raise StoreError(f"The comparison's difference names the arm {name!r}, and it holds {known}. Run it again.")


def mean_accuracy(comparison: Comparison, name: str) -> float:
    """Mean test accuracy of an arm over the seeds that the paired difference uses."""
    accuracy = {run.seed: run.test_accuracy for run in find_arm(comparison, name).runs}
    missing = [seed for seed in comparison.difference.seeds if seed not in accuracy]
    if missing or not comparison.difference.seeds:
        raise StoreError(f"The comparison's arm {name!r} lacks the seeds {missing or '(none named)'}. Run it again.")
    return fmean(accuracy[seed] for seed in comparison.difference.seeds)


def _accuracies(comparison: Comparison) -> str:
    """The sentence with both arms' mean accuracies."""
    arm, reference = comparison.difference.arm, comparison.difference.reference
    sides = [
        f"{shorten(find_arm(comparison, name).title, 60)} {percent(mean_accuracy(comparison, name))}"
        for name in (reference, arm)
    ]
    mean = "Test accuracy" if len(comparison.difference.seeds) == 1 else "Mean test accuracy"
    return f"{mean}: {sides[0]}, {sides[1]}."


def _settled(difference: Difference, accuracies: str) -> Verdict:
    """The interval lies wholly on one side of zero."""
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
        advice=_what_would_settle(difference),
        command=f"gpt4image compare DATA ... --seeds {max(SEEDS_TO_START_WITH, 2 * len(difference.seeds))}",
    )


def _one_seed(difference: Difference, accuracies: str) -> Verdict:
    """No second seed to see the luck of training by: nothing is claimed, whatever the number."""
    mean, low, high = points((difference.mean, difference.low, difference.high))
    return Verdict(
        kind="one seed",
        claim="One seed cannot tell luck from effect",
        measure=f"{mean} points in this one pair of runs (95% interval {low} to {high}, for the test images only)",
        accuracies=accuracies,
        covers="The interval covers which test images were drawn. It does not cover which seed was drawn: the same "
        "training with another seed can differ by more than this, whatever the number is.",
        advice="Train both arms with more seeds to find out, otherwise with the same options:",
        command=f"gpt4image compare DATA ... --seeds {SEEDS_TO_START_WITH}",
    )


def _covers(difference: Difference) -> str:
    """What an interval over seeds and images accounts for, and what not."""
    return (
        f"The interval covers which of the seeds ({counted(len(difference.seeds), 'pair')} of runs here) and which "
        "test images were drawn. It says nothing about other data, other models or other settings."
    )


def _what_would_settle(difference: Difference) -> str:
    """Advice for an interval around zero: more seeds, more test images, and roughly how many."""
    if difference.low == difference.high:
        return (
            "Both arms scored the same on every image, so nothing can be told: models that have hardly learned and "
            "tiny test sets look like this. More epochs or test images want another --work folder, and --text with the "
            "name of this one, for its descriptions. More seeds take the same command:"
        )
    half = max(difference.high - difference.mean, difference.mean - difference.low)
    times = (half / abs(difference.mean)) ** 2 if difference.mean else math.inf
    if times <= 1:
        size = ""
    elif times <= 25:
        size = f" If the true difference is {points([difference.mean])[0]} points, it takes roughly "
        size += f"{math.ceil(times)} times as many of both to show it."
    else:
        size = " A difference as small as the one seen here would take far more of both than is practical."
    settle = "More seeds and more test images narrow the interval and would settle it."
    return f"{settle}{size} The same command with more seeds:"
