"""What to do after a comparison: one rule gives the advice and its command, so that they cannot disagree."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt4image.core.format import counted, decimal, points
from gpt4image.core.invocation import Invocation
from gpt4image.core.workdir import WorkDir

if TYPE_CHECKING:
    from gpt4image.compare.records import CommandRecord, Comparison, Difference

FIRST_SEEDS = 5  # to advise after a run with one seed
Kind = Literal["better", "worse", "undecided", "one seed"]


def next_step(kind: Kind, comparison: Comparison) -> tuple[str, str]:
    """Return what to do now in a sentence or two, and the command for it, empty if there is none.

    Args:
        kind: what the comparison shows.
        comparison: the records. Without the user's command line there is no command.
    """
    difference, typed = comparison.difference, comparison.command
    finished, planned = len(difference.seeds), comparison.planned_seeds
    if planned and finished < planned:
        return f"Wait for the other {counted(planned - finished, 'seed')} before you conclude anything.", ""
    match kind:
        case "better":
            return "Use the model that was trained with descriptions.", _export(typed, comparison, difference.arm)
        case "worse":
            advice = "Use the model that was trained on labels alone; these descriptions do not suit it."
            return advice, _export(typed, comparison, difference.reference)
        case "one seed":
            return f"To find out, train both arms with {FIRST_SEEDS} seeds.", _more_seeds(typed, FIRST_SEEDS)
        case "undecided":
            return _settle(difference, typed)


def _settle(difference: Difference, typed: CommandRecord | None) -> tuple[str, str]:
    """Advise what would settle an interval that includes zero, if anything practical does."""
    if difference.low == difference.high:
        return (
            "Both arms were right on the same test images, as models are that have hardly learned, or on a tiny test "
            "set. Train for more epochs, or add test images.",
            "",
        )
    needed, (mean,) = difference.needed, points([difference.mean])
    if needed is None:
        return "More seeds and more test images narrow the interval. To learn how many, compare again.", ""
    if needed.seeds is None:
        bound = decimal(100 * max(-difference.low, difference.high))
        return (
            f"To show a difference as small as {mean} points is not practical. Take the two as equal to within {bound} "
            "points, or change what is compared: the descriptions or the recipe.",
            "",
        )
    if needed.times_images > 1:
        return (
            f"More seeds alone will not settle it: to show a difference of {mean} points takes about "
            f"{needed.times_images} times as many test images, and {counted(needed.seeds, 'seed')}.",
            "",
        )
    return (
        f"If the true difference is {mean} points, {needed.seeds} seeds in all would show it in four comparisons "
        "of five.",
        _more_seeds(typed, needed.seeds),
    )


def _more_seeds(typed: CommandRecord | None, seeds: int) -> str:
    """Return the command line of the comparison with another number of seeds."""
    return Invocation(typed.program, tuple(typed.arguments)).with_option("--seeds", seeds) if typed else ""


def _export(typed: CommandRecord | None, comparison: Comparison, arm: str) -> str:
    """Return the command line that exports the first model of an arm."""
    if typed is None:
        return ""
    run = WorkDir(Path(typed.work)).run(arm, comparison.difference.seeds[0])
    words = ["export", comparison.data.source, "--run", run, "--out", "model", "--work", typed.work]
    return f"{typed.program} {shlex.join(map(str, words))}"
