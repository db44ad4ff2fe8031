"""What to do after a comparison: one rule gives both the advice and its command, so that they cannot disagree."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.format import counted, decimal, percent, points
from gpt4image.core.invocation import Invocation
from gpt4image.core.workdir import WorkDir

if TYPE_CHECKING:
    from gpt4image.compare.records import CommandRecord, Comparison
    from gpt4image.probing.verdicts import VerdictKind

LITTLE_PRECISION = 0.01  # mAP at 0.5 of a detector that has hardly learned
LITTLE_GAIN = 1.1  # balanced accuracy of a classifier that has hardly learned, in multiples of guessing
FIRST_SEEDS = 5  # number of seeds to advise after a comparison with one seed


def next_step(kind: VerdictKind, comparison: Comparison) -> tuple[str, str]:
    """Return what to do next, in a sentence or two, and the command for it; empty if there is none.

    Args:
        kind: what the comparison shows.
        comparison: the records. There is no command if they lack the user's command line.
    """
    difference, typed = comparison.difference, comparison.command
    finished, planned, texts = len(difference.seeds), comparison.planned_seeds, bool(comparison.encoders)
    if planned and finished < planned:
        return f"Wait for the other {counted(planned - finished, 'seed')} before you conclude anything.", ""
    match kind:
        case "better":
            advice = f"Use the model that was trained {trained_with(comparison)}."
            return advice, _export(typed, comparison, difference.arm)
        case "equal" if unlearned := _hardly_learned(comparison):
            return f"{unlearned}, so that they are equal means little. Train for more epochs.", ""
        case "worse" | "equal":
            if kind == "worse":
                why = "these descriptions do not suit it" if texts else "nothing else suits it"
            else:
                why = f"{'the descriptions' if texts else 'the rest'} are not worth the cost"
            advice = f"Use the model that was trained on labels alone; {why}."
            return advice, _export(typed, comparison, difference.reference)
        case "one seed":
            return f"To find out, train both arms with {FIRST_SEEDS} seeds.", _more_seeds(typed, FIRST_SEEDS)
        case "undecided":
            return _settle(comparison, margin_in_words(comparison), typed)


def _hardly_learned(comparison: Comparison) -> str:
    """Return, in words, that no run of the two arms has learned much; empty if some may have."""
    arms = (comparison.difference.arm, comparison.difference.reference)
    runs = [run for arm in comparison.arms if arm.name in arms for run in arm.runs]
    precisions = [run.mean_average_precision_50 for run in runs]
    if all(each is not None and each < LITTLE_PRECISION for each in precisions):
        return f"The models have hardly learned to find objects (mAP at 0.5 below {percent(LITTLE_PRECISION, 0)})"
    guessed = LITTLE_GAIN / len(comparison.classes)  # one class for all images has a balanced accuracy of 1 / classes
    accuracies = [run.balanced_accuracy for run in runs]
    if len(comparison.classes) > 1 and all(each is not None and each < guessed for each in accuracies):
        return "The models have hardly learned (their balanced accuracy is that of guessing)"
    return ""


def _settle(comparison: Comparison, margin: str, typed: CommandRecord | None) -> tuple[str, str]:
    """Advise what would settle an undecided comparison, if anything practical would."""
    difference = comparison.difference
    if difference.low == difference.high:
        if all(run.test_accuracy == 1 for arm in comparison.arms for run in arm.runs):
            return "Every model is right on all test images, so they cannot tell the arms apart. Add harder ones.", ""
        return (
            "Both arms were right on the same test images, which happens if models have hardly learned or the test "
            "set is tiny. Train for more epochs, or add test images.",
            "",
        )
    needed, (mean,) = difference.needed, points([difference.mean])
    if needed is None:
        return "More seeds and more test images narrow the interval. To learn how many, compare again.", ""
    if needed.seeds is None:
        low, high = difference.equivalence or (difference.low, difference.high)
        bound = decimal(100 * max(-low, high))
        return (
            f"To show a difference as small as {mean} points is not practical. Treat the two as equal to within "
            f"{bound} points, or change the descriptions or the recipe.",
            "",
        )
    none = f"that there is no difference of more than {margin}"
    if needed.times_images > 1:
        to_show = none if needed.shows == "no difference" else f"a difference of {mean} points"
        return (
            f"More seeds alone will not settle it: to show {to_show} takes about {needed.times_images} times as many "
            f"test images, and {counted(needed.seeds, 'seed')}.",
            "",
        )
    shown = none if needed.shows == "no difference" else "it"
    return (
        f"If the true difference is {mean} points, {needed.seeds} seeds in all would show {shown} in four comparisons "
        "of five.",
        _more_seeds(typed, needed.seeds),
    )


def trained_with(comparison: Comparison) -> str:
    """Return what distinguishes the candidate from the baseline: descriptions, or its title if it uses no text."""
    name = comparison.difference.arm
    titles = [arm.title for arm in comparison.arms if arm.name == name and not comparison.encoders]
    return titles[0] if titles else "with descriptions"


def margin_in_words(comparison: Comparison) -> str:
    """Return the largest negligible difference, such as `1 point`."""
    number = f"{100 * comparison.margin:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _more_seeds(typed: CommandRecord | None, seeds: int) -> str:
    """Return the command line of the comparison with another number of seeds."""
    return Invocation(typed.program, tuple(typed.arguments)).with_option("--seeds", seeds) if typed else ""


def _export(typed: CommandRecord | None, comparison: Comparison, arm: str) -> str:
    """Return the command line that exports the first model of an arm."""
    if typed is None:
        return ""
    run = WorkDir(Path(typed.work)).runs / comparison.run_folder(arm, comparison.difference.seeds[0])
    images = typed.images or [comparison.data.source]
    words = ["export", *images, "--run", run, "--out", "model", "--work", typed.work]
    return f"{typed.program} {shlex.join(map(str, words))}"
