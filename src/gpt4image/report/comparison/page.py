"""The page: the records, put into the words and figures that the template lays out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.core.errors import StoreError
from gpt4image.images.thumbnails import is_thumbnail
from gpt4image.report.comparison.confusion import frequent_confusions, matrices
from gpt4image.report.comparison.figures import (
    accuracy_figure,
    class_figures,
    curve_figures,
    difference_figure,
    sort_classes,
)
from gpt4image.report.comparison.verdict import verdict
from gpt4image.report.html.page import render_page

if TYPE_CHECKING:
    from pathlib import Path

    from gpt4image.compare.records import ArmRecord, Comparison, Gallery, GalleryItem, RunRecord


GROUPS = {
    "mended": "Mended: wrong without descriptions, right with them",
    "broken": "Broken: right without descriptions, wrong with them",
    "both wrong": "Wrong either way",
    "both right": "Right either way",
}


@dataclass(frozen=True)
class SeedRow:
    """One run in the table of seeds."""

    number: int
    title: str
    run: RunRecord


@dataclass(frozen=True)
class MeanRow:
    """An arm's means over its seeds, for the foot of that table."""

    number: int
    title: str
    accuracy: float
    balanced: float
    likelihood: float
    validation: float


@dataclass(frozen=True)
class Group:
    """Test images with the same outcome."""

    title: str
    items: list[GalleryItem]


def render(comparison: Comparison, gallery: Gallery) -> str:
    """The whole page as HTML."""
    return render_page(
        "comparison.html.j2",
        version=comparison.version,
        comparison=comparison,
        data=comparison.data,
        arms=comparison.arms,
        verdict=verdict(comparison),
        accuracy_figure=accuracy_figure(comparison),
        difference_figure=difference_figure(comparison.difference),
        seeds=_seeds(comparison),
        means=[_mean(number, arm) for number, arm in enumerate(comparison.arms) if len(arm.runs) > 1],
        curves=curve_figures(comparison),
        class_figures=class_figures(comparison),
        class_rows=sort_classes(comparison.per_class),
        intervals=sum(record.low is not None for record in comparison.per_class),
        matrices=matrices(comparison),
        confusions=frequent_confusions(comparison),
        groups=_groups(gallery),
    )


def _seeds(comparison: Comparison) -> dict[int, list[SeedRow]]:
    """Runs by seed, in the order of the arms."""
    rows: dict[int, list[SeedRow]] = {}
    for number, arm in enumerate(comparison.arms):
        for run in arm.runs:
            rows.setdefault(run.seed, []).append(SeedRow(number, arm.title, run))
    return dict(sorted(rows.items()))


def _mean(number: int, arm: ArmRecord) -> MeanRow:
    """Means of an arm that has runs."""
    return MeanRow(
        number,
        arm.title,
        fmean(run.test_accuracy for run in arm.runs),
        fmean(run.balanced_accuracy for run in arm.runs),
        fmean(run.negative_log_likelihood for run in arm.runs),
        fmean(run.validation_accuracy for run in arm.runs),
    )


def _groups(gallery: Gallery) -> list[Group]:
    """The gallery by outcome; groups without an image are left out."""
    groups = [Group(title, [item for item in gallery.items if item.group == name]) for name, title in GROUPS.items()]
    return [group for group in groups if group.items]


def check_comparison(comparison: Comparison, path: Path) -> None:
    """StoreError when the comparison contradicts itself; the message names the file and what does not fit."""
    for fault in _faults(comparison):
        raise StoreError(f"{path}: {fault}. Run the comparison again.")


def _faults(comparison: Comparison) -> Iterator[str]:
    """What contradicts itself in a comparison."""
    names = [arm.name for arm in comparison.arms]
    difference = comparison.difference
    if len(set(names)) < len(names):
        yield f"two arms have the same name (arms {names})"
    for arm in comparison.arms:
        size = len(comparison.classes)
        if len(arm.confusion) != size or any(len(row) != size for row in arm.confusion):
            yield f"the confusion matrix of arm {arm.name!r} is not {size} x {size}, one row and column a class"
        if len({run.seed for run in arm.runs}) < len(arm.runs):
            yield f"arm {arm.name!r} has two runs of the same seed"
    if len(difference.per_seed) != len(difference.seeds):
        yield f"{len(difference.per_seed)} differences for {len(difference.seeds)} seeds"


def check_gallery(gallery: Gallery, path: Path) -> None:
    """StoreError for a thumbnail that is anything but a JPEG or PNG inside the record itself."""
    for item in gallery.items:
        if not is_thumbnail(item.thumbnail):
            shown = item.thumbnail[:60]
            raise StoreError(
                f"{path}: the thumbnail of {item.path!r} is no JPEG or PNG as a base64 data address ({shown!r}). "
                "Run the comparison again."
            )
