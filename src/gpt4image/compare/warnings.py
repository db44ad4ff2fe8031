"""Warnings about runs, such as a model worse than its frozen features, or training that ended too early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from gpt4image.core.format import percent, points
from gpt4image.train.run import TrainedRun

STILL_FALLING = 0.05  # relative fall of the training loss between two tenths of the epochs, above which it is not noise
FEW_EPOCHS = 3  # with so few, the best one is often the first or last by chance
WILD_SPREAD = 2.0  # times the standard error of an accuracy on the validation images
LEAST_SPREAD = 0.02  # smallest spread that is worth a warning
SEEDS_FOR_SPREAD = 3


def find_warnings(
    arms: Mapping[str, Sequence[TrainedRun]],
    validation_images: int,
    frozen_accuracy: float | None,
    score: str = "accuracy",
) -> tuple[str, ...]:
    """Return warnings about the runs of the compared arms, a sentence each; controls are left out.

    Args:
        arms: runs of each arm.
        validation_images: number of labelled validation images.
        frozen_accuracy: validation accuracy of a classifier on the frozen features of the backbone that training
            started from, from 0 to 1; None if training started from scratch.
        score: name of the metric on the validation images.
    """
    found: list[str] = []
    for arm, runs in arms.items():
        if runs[0].arm.controls is not None:
            continue
        mean = fmean(run.best_accuracy for run in runs)
        if frozen_accuracy is not None and mean < frozen_accuracy:
            found.append(
                f"{arm}: validation accuracy {percent(mean)} is below the {percent(frozen_accuracy)} of a linear "
                "classifier on the frozen features of the same backbone. Train longer, or with another learning rate "
                "(gpt4image compare --tune 20)."
            )
        found += _warn_of_epochs(arm, runs)
        found += _warn_of_spread(arm, runs, validation_images, score)
    return tuple(found)


def _warn_of_epochs(arm: str, runs: Sequence[TrainedRun]) -> list[str]:
    found = []
    long = [run for run in runs if len(run.history) >= FEW_EPOCHS and run.recipe.keep == "best"]
    last = sum(run.best_epoch == len(run.history) - 1 for run in long)
    first = sum(run.best_epoch == 0 and run.best_accuracy < 1 for run in long)
    if 2 * first > len(long):
        found.append(
            f"{arm}: the first epoch was the best in {first} of {len(long)} runs. Later epochs did not improve the "
            "model: lower the learning rate."
        )
    if 2 * last > len(long):
        found.append(f"{arm}: the last epoch was the best in {last} of {len(long)} runs. More epochs may help.")
    falling = sum(map(_still_falling, runs))
    if 2 * falling > len(runs):
        found.append(
            f"{arm}: training has not converged in {falling} of {len(runs)} runs: its loss was still falling at the "
            "end. Train for more epochs."
        )
    return found


def _still_falling(run: TrainedRun) -> bool:
    """Whether the training loss fell noticeably from the tenth of the epochs before the last one to the last."""
    losses = [epoch["classification_loss"] for epoch in run.history]
    width = max(1, len(losses) // 10)
    if len(losses) < 2 * width or len(losses) < FEW_EPOCHS:
        return False
    before, after = fmean(losses[-2 * width : -width]), fmean(losses[-width:])
    return before - after > STILL_FALLING * abs(before)


def _warn_of_spread(arm: str, runs: Sequence[TrainedRun], images: int, score: str) -> list[str]:
    """Warn of seeds that differ by more than sampling error, although all are judged on the same validation images."""
    if len(runs) < SEEDS_FOR_SPREAD or not images:
        return []
    accuracies = [run.best_accuracy for run in runs]
    mean, spread = fmean(accuracies), stdev(accuracies)
    standard_error = math.sqrt(mean * (1 - mean) / images)
    if spread < max(LEAST_SPREAD, WILD_SPREAD * standard_error):
        return []
    low, high = percent(min(accuracies)), percent(max(accuracies))
    (shown,) = points([spread])
    values = "accuracies" if score == "accuracy" else f"values of the {score}"
    return [
        f"{arm}: seeds disagree, with validation {values} from {low} to {high} (standard deviation "
        f"{shown.lstrip('+')} points). Add seeds (--seeds), a warm-up, or a lower learning rate."
    ]
