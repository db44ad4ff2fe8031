"""Per-class accuracy and its paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt4image.pages.svg import CHARACTER, INK, MUTED, Panel, draw, sign_ticks
from gpt4image.pages.wording import columns, points, shorten
from gpt4image.report.figures.style import TitledFigure, arm_style

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, ClassRecord, Comparison

ALL_AT_MOST, EACH_WAY = 40, 20
CLASS_WIDTH, ROW, NAME = 400, 21, 20


def class_figures(comparison: Comparison) -> list[TitledFigure]:
    """Two panels: accuracy and difference of every class, or the largest gains and losses where there are many."""
    measured = sort_classes([record for record in comparison.per_class if record.difference is not None])
    if not measured:
        return []
    if len(measured) <= ALL_AT_MOST:
        return [
            TitledFigure("Accuracy", _accuracies("class-accuracy", measured, comparison.arms)),
            TitledFigure("Difference, in points", _differences("class-difference", measured), shows_arms=False),
        ]
    gains = [record for record in measured if (record.difference or 0) > 0][:EACH_WAY]
    losses = [record for record in measured if (record.difference or 0) < 0][-EACH_WAY:]
    sides = [(f"Largest gains, in points ({len(gains)} classes)", "gains", gains)]
    sides += [(f"Largest losses, in points ({len(losses)} classes)", "losses", losses[::-1])]
    return [
        TitledFigure(title, _differences(f"class-{name}", records), shows_arms=False)
        for title, name, records in sides
        if records
    ]


def sort_classes(records: Sequence[ClassRecord]) -> list[ClassRecord]:
    """Largest gain first; classes without a difference last."""
    return sorted(records, key=lambda record: (record.difference is None, -(record.difference or 0)))


def _panel(records: Sequence[ClassRecord]) -> Panel:
    """A row a class, and room for the longest name shown."""
    names = max(columns(shorten(record.name, NAME)) for record in records)
    return Panel(CLASS_WIDTH, ROW * len(records) + 44, left=16 + CHARACTER * names, top=8, bottom=36)


def _rows(axes: Axes, records: Sequence[ClassRecord]) -> None:
    """Class names down the side, one row each."""
    axes.set_yticks(range(len(records)), [shorten(record.name, NAME) for record in records], color=INK)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _differences(name: str, records: Sequence[ClassRecord]) -> Markup:
    """Difference of every class with its interval."""

    def paint(axes: Axes) -> None:
        for y, record in enumerate(records):
            if record.low is not None and record.high is not None:
                axes.plot([100 * record.low, 100 * record.high], [y, y], color=MUTED, linewidth=1.6, zorder=2)
            axes.plot(100 * (record.difference or 0), y, "D", color=INK, markersize=6, zorder=3)
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.margins(x=0.06)
        _rows(axes, records)
        sign_ticks(axes)

    shown = "; ".join(f"{shorten(record.name, 40)} {points([record.difference or 0])[0]}" for record in records)
    return draw(name, f"Difference of test accuracy by class, in points: {shown}.", _panel(records), paint)


def _accuracies(name: str, records: Sequence[ClassRecord], arms: Sequence[ArmRecord]) -> Markup:
    """Accuracy of every class under every arm, the arms of one class joined."""

    def paint(axes: Axes) -> None:
        for y, record in enumerate(records):
            found = [100 * value for arm in arms if (value := record.accuracy.get(arm.name)) is not None]
            if found:
                axes.plot([min(found), max(found)], [y, y], color=MUTED, linewidth=1.6, alpha=0.7, zorder=2)
            for number, arm in enumerate(arms):
                if (share := record.accuracy.get(arm.name)) is not None:
                    style = arm_style(number)
                    axes.plot(100 * share, y, style.marker, color=style.colour, markersize=7, zorder=3)
        axes.margins(x=0.06)
        _rows(axes, records)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")

    label = "Test accuracy by class and arm, in the order of their difference; the numbers are in the table below."
    return draw(name, label, _panel(records), paint)
