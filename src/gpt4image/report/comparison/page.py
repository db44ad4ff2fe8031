"""The page of a comparison: check the records, and compute the values that the template shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.core.errors import StoreError
from gpt4image.images.thumbnails import is_thumbnail
from gpt4image.probing.verdicts import LEVEL, holm
from gpt4image.report.comparison.arm_figures import forest_figures, reliability_figure
from gpt4image.report.comparison.figures import (
    accuracy_figure,
    class_figures,
    class_score,
    curve_figures,
    difference_figure,
    main_arms,
    sort_classes,
    style_number,
    verdict_figure,
)
from gpt4image.report.comparison.verdict import accuracy_digits, control_arms, other_arms, verdict
from gpt4image.report.html.page import render_page

if TYPE_CHECKING:
    from pathlib import Path

    from gpt4image.compare.records import ArmRecord, Comparison, Gallery, GalleryItem, RunRecord

OUTCOMES = {
    "mended": "Fixed: wrong without descriptions, right with them",
    "broken": "Broken: right without descriptions, wrong with them",
    "both wrong": "Wrong with and without",
    "both right": "Right with and without",
}
MAX_MATRIX = 30  # most classes of a readable confusion matrix; with more, the most frequent confusions are listed
MAX_CONFUSIONS = 25
METRICS = {
    "mean_average_precision": "mAP",
    "mean_average_precision_50": "mAP at 0.5",
    "mean_iou": "mIoU",
    "pixel_accuracy": "Pixel accuracy",
    "top5_accuracy": "Top 5",
    "balanced_accuracy": "Balanced accuracy",
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "negative_log_likelihood": "Neg. log-likelihood",
    "brier_score": "Brier score",
    "calibration_error": "Calibration error",
}
FIRST_METRICS = ("balanced_accuracy", "negative_log_likelihood")  # recorded by version 0.1, and in the table of runs


def render(comparison: Comparison, gallery: Gallery) -> str:
    """Render the whole page as HTML."""
    digits, main = accuracy_digits(comparison), main_arms(comparison)
    show_matrices = len(comparison.classes) <= MAX_MATRIX
    metrics, beside, third = _metrics(comparison), _second_metric(comparison), _third_metric(comparison)
    return render_page(
        "comparison.html.j2",
        version=comparison.version,
        comparison=comparison,
        data=comparison.data,
        arms=comparison.arms,
        main_arms=main,
        looks={arm.name: style_number(arm) for arm in comparison.arms},
        titles=[arm.title for arm in main],
        score=comparison.score,
        heading=comparison.score[:1].upper() + comparison.score[1:],
        class_score=class_score(comparison),
        beside=(beside, METRICS[beside]),
        third=(third, METRICS[third]),
        has_confusion=any(arm.confusion for arm in comparison.arms),
        verdict=verdict(comparison),
        other_arms=other_arms(comparison),
        control_arms=control_arms(comparison),
        digits=digits,
        accuracy_figure=accuracy_figure(comparison, digits),
        verdict_figure=verdict_figure(comparison.difference, comparison.score),
        difference_figure=difference_figure(comparison.difference, comparison.score),
        runs=_runs_by_seed(comparison),
        means=[
            (arm, {name: mean_of(arm, name) for name in ("test_accuracy", "validation_accuracy", *METRICS)})
            for arm in comparison.arms
            if len(arm.runs) > 1
        ],
        forests=forest_figures(comparison),
        reliability=reliability_figure(comparison),
        metrics=metrics,
        metric_columns=[each for each in METRICS.items() if any(means[each[0]] is not None for _, means in metrics)],
        warnings=_warnings(comparison),
        curves=curve_figures(comparison),
        class_figures=class_figures(comparison),
        different_classes=_different_classes(comparison),
        class_rows=sort_classes(comparison.per_class),
        intervals=sum(record.low is not None for record in comparison.per_class),
        show_matrices=show_matrices,
        **_confusion_changes(comparison),
        command=_command_line(comparison),
        described=sum(item.description is not None for item in gallery.items),
        confusions=[] if show_matrices else _frequent_confusions(comparison),
        groups=_groups(gallery),
    )


def _runs_by_seed(comparison: Comparison) -> dict[int, list[tuple[ArmRecord, RunRecord]]]:
    """Return the runs of each seed with their arms, in the order of the arms."""
    runs: dict[int, list[tuple[ArmRecord, RunRecord]]] = {}
    for arm in comparison.arms:
        for run in arm.runs:
            runs.setdefault(run.seed, []).append((arm, run))
    return dict(sorted(runs.items()))


def _different_classes(comparison: Comparison) -> list[str] | None:
    """Return the classes whose exact paired test is significant after Holm's correction; None in older records."""
    tested = [record for record in comparison.per_class if record.p_value is not None]
    if not tested:
        return None
    adjusted = holm([record.p_value or 0.0 for record in tested])
    return [record.name for record, p_value in zip(tested, adjusted, strict=True) if p_value < LEVEL]


def _warnings(comparison: Comparison) -> tuple[list[str], list[str]]:
    """Return the warnings about the two arms that the verdict compares, and those about others."""
    names = (comparison.difference.reference, comparison.difference.arm)
    others = [arm.name for arm in comparison.arms if arm.name not in names]
    foreign = [line for line in comparison.warnings if any(line.startswith(f"{name}:") for name in others)]
    return [line for line in comparison.warnings if line not in foreign], foreign


def _metrics(comparison: Comparison) -> list[tuple[ArmRecord, dict[str, float | None]]]:
    """Return the mean of each metric over the seeds of each arm; nothing for records that lack them."""
    rows = [(arm, {name: mean_of(arm, name) for name in METRICS}) for arm in comparison.arms]
    newer = [name for name in METRICS if name not in FIRST_METRICS]
    return rows if any(means[name] is not None for _, means in rows for name in newer) else []


def mean_of(arm: ArmRecord, name: str) -> float | None:
    """Return the mean of a metric over the runs of an arm; None if a run lacks it."""
    values = [getattr(run, name) for run in arm.runs]
    return fmean(values) if values and None not in values else None


def _second_metric(comparison: Comparison) -> str:
    """Return the name of the metric that the table of the runs shows beside the score."""
    return _first_known(comparison, ("mean_iou", "mean_average_precision"), "balanced_accuracy")


def _third_metric(comparison: Comparison) -> str:
    """Return the name of the metric that the table of the runs shows after the second."""
    return _first_known(comparison, ("pixel_accuracy", "mean_average_precision_50"), "negative_log_likelihood")


def _first_known(comparison: Comparison, names: Sequence[str], default: str) -> str:
    """Return the first of the metrics that a run has, else the default."""
    runs = [run for arm in comparison.arms for run in arm.runs]
    return next((name for name in names if any(getattr(run, name) is not None for run in runs)), default)


def _confusion_changes(comparison: Comparison) -> dict[str, Any]:
    """Return the candidate's confusion matrix minus the reference's, its largest entry, and both arms with numbers."""
    names = [arm.name for arm in comparison.arms]
    compared = [names.index(name) for name in (comparison.difference.arm, comparison.difference.reference)]
    matrices = [np.array(comparison.arms[number].confusion, dtype=np.int64) for number in compared]
    changes = matrices[0] - matrices[1]  # [C, C], or empty
    return {
        "changes": changes.tolist(),
        "most_changed": max(int(np.abs(changes).max(initial=0)), 1),
        "compared": [comparison.arms[number] for number in compared],
    }


def _command_line(comparison: Comparison) -> str:
    """Return the command of the comparison as it was typed; empty if there was none."""
    typed = comparison.command
    return f"{typed.program} {shlex.join(typed.arguments)}" if typed else ""


def _frequent_confusions(comparison: Comparison) -> list[tuple[str, str, list[tuple[int, int]]]]:
    """Return the most frequent confusions over all arms: true class, predicted class, each arm's count and total."""
    counts = np.array([arm.confusion for arm in main_arms(comparison)], dtype=np.int64)  # [arms, true, predicted]
    if not counts.size:
        return []
    classes, totals, wrong = comparison.classes, counts.sum(axis=2), counts.sum(axis=0)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = zip(*(axis.tolist() for axis in np.unravel_index(order, wrong.shape)), strict=True)
    return [
        (
            classes[truth],
            classes[answer],
            list(zip(counts[:, truth, answer].tolist(), totals[:, truth].tolist(), strict=True)),
        )
        for truth, answer in pairs
        if wrong[truth, answer]
    ]


def _groups(gallery: Gallery) -> list[tuple[str, list[GalleryItem]]]:
    """Return the title and the images of each outcome; outcomes without images are left out."""
    groups = [(title, [item for item in gallery.items if item.group == name]) for name, title in OUTCOMES.items()]
    return [(title, items) for title, items in groups if items]


def check_comparison(comparison: Comparison, path: Path) -> None:
    """Raise StoreError if the comparison contradicts itself; the message names the file and the contradiction."""
    for contradiction in _contradictions(comparison):
        raise StoreError(f"{path}: {contradiction}. Run the comparison again.")


def _contradictions(comparison: Comparison) -> Iterator[str]:
    names, size = [arm.name for arm in comparison.arms], len(comparison.classes)
    if len(set(names)) < len(names):
        yield f"two arms have the same name (arms {names})"
    for arm in comparison.arms:
        if arm.confusion and (len(arm.confusion) != size or any(len(row) != size for row in arm.confusion)):
            yield f"the confusion matrix of arm {arm.name!r} is not {size} x {size}, a row and a column for each class"
        if len({run.seed for run in arm.runs}) < len(arm.runs):
            yield f"arm {arm.name!r} has two runs of the same seed"
    difference = comparison.difference
    if len(difference.per_seed) != len(difference.seeds):
        yield f"{len(difference.per_seed)} differences for {len(difference.seeds)} seeds"


def check_gallery(gallery: Gallery, path: Path) -> None:
    """Raise StoreError for a thumbnail that is not a JPEG or PNG contained in the record itself."""
    for item in gallery.items:
        if not is_thumbnail(item.thumbnail):
            raise StoreError(
                f"{path}: the thumbnail of {item.path!r} is not a base64 data URL of a JPEG or PNG "
                f"({item.thumbnail[:60]!r}). Run the comparison again."
            )
