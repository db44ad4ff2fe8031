"""State in plain words what a comparison shows, and claim nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.core.errors import StoreError
from gpt4image.core.format import counted, percent, points, printable, shorten
from gpt4image.probing.verdicts import LEVEL, VerdictKind, beats_all
from gpt4image.report.comparison.advice import margin_in_words, next_step, trained_with

if TYPE_CHECKING:
    from gpt4image.compare.records import ArmRecord, Comparison, Difference

CLAIMS: dict[VerdictKind, str] = {
    "better": "training {trained} made the model better",
    "worse": "training {trained} made the model worse",
    "equal": "training {trained} makes no difference of more than {margin}",
    "undecided": "these runs do not show that {what}",
    "one seed": "one seed cannot tell an effect from chance",
}
CREDITED = "the descriptions made the model better"
SHOWN: dict[VerdictKind, str] = {
    "better": "better",
    "worse": "worse",
    "equal": "no difference of more than {margin}",
    "undecided": "inconclusive",
    "one seed": "one seed cannot tell",
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
        controls: whether the content of the descriptions made the difference; empty unless there is one to explain.
        covers: what the interval accounts for and what it does not.
        advice: what to do next.
        command: the command for it, as the user would type it; empty if there is none.
        rules: the rules that the claim follows from.
    """

    kind: VerdictKind
    claim: str
    measure: str
    accuracies: str
    controls: str
    covers: str
    advice: str
    command: str
    rules: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Claim and measure in one line."""
        return f"{self.claim}: {self.measure}"

    @property
    def text(self) -> str:
        """Everything except the command as plain lines, safe to print on a terminal."""
        lines = [f"{self.headline}.", self.accuracies, self.controls, self.covers, self.advice]
        return "\n".join(filter(None, lines))


def verdict(comparison: Comparison) -> Verdict:
    """State what the paired difference of a comparison shows.

    Raises:
        StoreError: the difference names an unknown arm or seed, or is not a number.
    """
    difference = comparison.difference
    if not all(math.isfinite(value) for value in (difference.mean, difference.low, difference.high)):
        raise StoreError("The comparison's difference is not a finite number. Run the comparison again.")
    kind = difference.kind(comparison.margin)
    advice, command = next_step(kind, comparison)
    finished = len(difference.seeds)
    planned = comparison.planned_seeds or finished
    own = _own_controls(comparison)
    credited = kind == "better" and beats_all([control.low for control in own])
    claim = CREDITED if credited else state_claim(kind, comparison)
    if finished < planned or comparison.split == "validation":
        images = " on the validation images" if comparison.split == "validation" else ""
        claim = f"So far, with {finished} of {planned} seeds{images}: {claim}"
    return Verdict(
        kind=kind,
        claim=claim[0].upper() + claim[1:],
        measure=_measure(kind, comparison),
        accuracies=_accuracies(comparison),
        controls=_explain(comparison, own) if kind == "better" else "",
        covers=ONE_SEED_COVERS if kind == "one seed" else _covers(difference),
        advice=advice,
        command=printable(command),
        rules=_rules(comparison),
    )


def _judged(comparison: Comparison) -> int:
    """Return the number of arms that are compared with the baseline, not counting controls."""
    return sum(each.adjusted_p is not None for each in (comparison.difference, *comparison.others)) or 1


def _measure(kind: VerdictKind, comparison: Comparison) -> str:
    difference = comparison.difference
    mean, low, high = points((difference.mean, difference.low, difference.high))
    if kind == "one seed":
        return f"{mean} points in this one pair of runs (95% interval {low} to {high}, for the test images only)"
    if kind == "equal":
        mean, low, high = points((difference.mean, *(difference.equivalence or (difference.low, difference.high))))
        return f"{mean} points (90% interval {low} to {high})"
    if kind == "undecided" and (difference.low > 0 or difference.high < 0):
        return (
            f"{mean} points (95% interval {low} to {high}), too little to tell from chance among {_judged(comparison)} "
            f"arms (p = {difference.adjusted_p or 0:.2g})"
        )
    if kind == "undecided":
        return f"{mean} points, and the 95% interval ({low} to {high}) includes zero"
    return f"{mean} points (95% interval {low} to {high})"


def _own_controls(comparison: Comparison) -> list[Difference]:
    """Return the differences of the headline's arm from its controls, the smallest first."""
    arm = comparison.difference.arm
    return sorted((each for each in comparison.controls if each.arm == arm), key=lambda each: each.low)


def _explain(comparison: Comparison, controls: list[Difference]) -> str:
    """State whether the content of the descriptions made the difference, or any additional loss would have."""
    if not controls:
        return (
            "Whether the descriptions themselves helped, or any additional loss would have, cannot be told from "
            "these runs: compare again with controls (--controls)."
        )
    closest = controls[0]
    mean, low, high = points((closest.mean, closest.low, closest.high))
    title = shorten(find_arm(comparison, closest.reference).title, 60)
    if closest.low > 0:
        matters = "What the descriptions say matters: the model is better than"
        if len(controls) == 1:
            return f"{matters} the control, {title}, by {mean} points ({low} to {high})."
        by = f"by {mean} points ({low} to {high}) over the closest, {title}"
        return f"{matters} each of the {len(controls)} controls, {by}."
    needed, plan = closest.needed, ""
    if needed and needed.seeds and needed.times_images == 1:
        plan = f" If it is the true one, {needed.seeds} seeds in all would show it in four comparisons of five."
    return (
        f"That this is due to what the descriptions say is not shown: to the control {title} the difference is {mean} "
        f"points ({low} to {high}).{plan}"
    )


def _rules(comparison: Comparison) -> tuple[str, ...]:
    """Return the rules of the verdict, a sentence each."""
    level, margin, judged = f"{LEVEL:.0%}", margin_in_words(comparison), _judged(comparison)
    corrected = f", corrected for {judged} arms by Holm's method" if judged > 1 else ""
    return (
        f"Better or worse: a paired test over seeds and test images tells the difference to "
        f"{comparison.difference.reference} from zero at {level}{corrected}.",
        f"No difference: two one-sided tests at {level} rule out a difference of {margin} or more (--margin), so the "
        "90% interval lies within it.",
        "Inconclusive: neither of these, or only one seed.",
        f"The descriptions made it better: it is better, and better than every control (--controls), each at {level}.",
    )


def other_arms(comparison: Comparison) -> list[str]:
    """State the differences of the arms that the verdict does not judge, one per line."""
    margin = margin_in_words(comparison)
    return [
        f"{_beside(comparison, other)}: {SHOWN[other.kind(comparison.margin)].format(margin=margin)}"
        f"{_minus_this(comparison, other.arm, comparison.rivals)}"
        for other in comparison.others
        if find_arm(comparison, other.arm).controls is None
    ]


def control_arms(comparison: Comparison) -> list[str]:
    """State how each control differs from the baseline, and its arm from the control, one per line."""
    return [
        _beside(comparison, other) + _minus_this(comparison, other.arm, comparison.controls)
        for other in comparison.others
        if find_arm(comparison, other.arm).controls is not None
    ]


def _minus_this(comparison: Comparison, arm: str, found: Sequence[Difference]) -> str:
    """Return, in words, the difference whose reference is the given arm; empty if there is none."""
    for each in found:
        if each.reference == arm:
            mean, low, high = points((each.mean, each.low, each.high))
            title = shorten(find_arm(comparison, each.arm).title, 60)
            return f"; {title}: {mean} points over this ({low} to {high})"
    return ""


def _beside(comparison: Comparison, other: Difference) -> str:
    """Return accuracy and difference of an arm that is not the headline's."""
    mean, low, high = points((other.mean, other.low, other.high))
    title = shorten(find_arm(comparison, other.arm).title, 60)
    return f"{title}: {percent(mean_accuracy(comparison, other.arm))}, {mean} points ({low} to {high})"


def state_claim(kind: VerdictKind, comparison: Comparison) -> str:
    """Return what may be claimed about a comparison, as a clause without a full stop."""
    trained = trained_with(comparison)
    what = "the descriptions help or hurt" if comparison.encoders else f"training {trained} helps or hurts"
    return CLAIMS[kind].format(margin=margin_in_words(comparison), trained=trained, what=what)


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
    """Return the decimals needed for both mean accuracies, in per cent, to match the difference that is shown.

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
    title = f"{comparison.split} {comparison.score}"
    title = title if len(difference.seeds) == 1 else f"mean {title}"
    return f"{title[0].upper()}{title[1:]}: {sides[0]}, {sides[1]}."


def _covers(difference: Difference) -> str:
    return (
        f"The interval accounts for the random seeds ({counted(len(difference.seeds), 'pair')} of runs) and the sample "
        "of test images. It says nothing about other data, models or settings."
    )
