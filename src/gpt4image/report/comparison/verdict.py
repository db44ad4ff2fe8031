"""State what a comparison shows, in plain words, and nothing that it does not show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.core.errors import StoreError
from gpt4image.core.format import counted, percent, points, printable, shorten
from gpt4image.report.comparison.advice import Kind, next_step

if TYPE_CHECKING:
    from gpt4image.compare.records import ArmRecord, Comparison, Difference

CLAIMS: dict[Kind, str] = {
    "better": "training with descriptions made the model better",
    "worse": "training with descriptions made the model worse",
    "undecided": "these runs do not show that the descriptions help or hurt",
    "one seed": "one seed cannot tell an effect from chance",
}
ONE_SEED_COVERS = (
    "The interval accounts for the sample of test images. It does not account for the random seed: the same training "
    "with another seed can differ by more than this, however large the difference is."
)


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows.

    Attributes:
        kind: which claim is allowed; "one seed" allows none.
        claim: the claim, a clause without a full stop.
        measure: the difference in percentage points with its interval.
        accuracies: both arms' mean test accuracy, a sentence.
        covers: what the interval accounts for and what it does not.
        advice: what to do now.
        command: the command for it, as the user would type it; empty if there is none.
    """

    kind: Kind
    claim: str
    measure: str
    accuracies: str
    covers: str
    advice: str
    command: str

    @property
    def headline(self) -> str:
        """Claim and measure in one line."""
        return f"{self.claim}: {self.measure}"

    @property
    def text(self) -> str:
        """Everything but the command as plain lines, safe to print on a terminal."""
        return "\n".join([f"{self.headline}.", self.accuracies, self.covers, self.advice])


def verdict(comparison: Comparison) -> Verdict:
    """State what the paired difference of a comparison shows.

    Raises:
        StoreError: the difference names an unknown arm or seed, or is not a number.
    """
    difference = comparison.difference
    if not all(math.isfinite(value) for value in (difference.mean, difference.low, difference.high)):
        raise StoreError("The comparison's difference is not a finite number. Run the comparison again.")
    kind = _kind(difference)
    advice, command = next_step(kind, comparison)
    finished = len(difference.seeds)
    planned = comparison.planned_seeds or finished
    claim = f"So far, with {finished} of {planned} seeds: {CLAIMS[kind]}" if finished < planned else CLAIMS[kind]
    return Verdict(
        kind=kind,
        claim=claim[0].upper() + claim[1:],
        measure=_measure(kind, difference),
        accuracies=_accuracies(comparison),
        covers=ONE_SEED_COVERS if kind == "one seed" else _covers(difference),
        advice=advice,
        command=printable(command),
    )


def _kind(difference: Difference) -> Kind:
    """Return what may be claimed; without a second seed nothing shows how much training varies."""
    if difference.covers == "images only" or len(difference.seeds) < 2:
        return "one seed"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "undecided"


def _measure(kind: Kind, difference: Difference) -> str:
    mean, low, high = points((difference.mean, difference.low, difference.high))
    if kind == "one seed":
        return f"{mean} points in this one pair of runs (95% interval {low} to {high}, for the test images only)"
    if kind == "undecided":
        return f"{mean} points, and the 95% interval ({low} to {high}) includes zero"
    return f"{mean} points (95% interval {low} to {high})"


def other_arms(comparison: Comparison) -> list[str]:
    """State the differences of the arms that the verdict does not judge, a line each."""
    lines = []
    for other in comparison.others:
        mean, low, high = points((other.mean, other.low, other.high))
        title = shorten(find_arm(comparison, other.arm).title, 60)
        lines.append(f"{title}: {percent(mean_accuracy(comparison, other.arm))}, {mean} points ({low} to {high})")
    return lines


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


def _covers(difference: Difference) -> str:
    return (
        f"The interval accounts for the random seeds ({counted(len(difference.seeds), 'pair')} of runs) and the sample "
        "of test images. It says nothing about other data, models or settings."
    )
