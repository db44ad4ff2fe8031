"""Figures of a comparison: accuracies and differences by seed, learning curves, and results by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING
from zlib import crc32

from gpt4image.core.format import columns, counted, decimal, percent, points, shorten
from gpt4image.report.html.svg import CHARACTER, COLOURS, GRID, INK, MUTED, Panel, draw, sign_ticks

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, ClassRecord, Comparison, Difference, EpochRecord

Dashes = str | tuple[int, tuple[float, ...]]
MARKERS = ("o", "D", "s", "^")
DASHES: tuple[Dashes, ...] = ((0, (5, 2)), "-", (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
STYLES = {
    "baseline": 0, "described": 1, "text-labels": 2, "described+text-labels": 3,
    "image-labels": 4, "self-training": 5, "teacher": 6, "teacher+described": 7, "text+image-labels": 6,
}  # fmt: skip
"""Style numbers of known arms: an arm looks the same on every page, whatever it is compared with."""
CONTROL = 8  # the style number of all controls
MOST_CURVES = 4  # most arms whose curves can be distinguished in one figure

WIDTH, HEIGHT = 400, 280
MAX_SEED_ROWS = 12
MAX_CLASSES, MAX_EACH_WAY = 40, 20  # with more classes than the first, only this many gains and losses are shown
ROW, MAX_NAME = 21, 20
NAMED_ROW = 44  # a row with its name above


@dataclass(frozen=True)
class ArmStyle:
    """Style of an arm: its colour, and a shape for readers who cannot distinguish the colours."""

    colour: str
    marker: str
    dashes: Dashes


def style_number(arm: ArmRecord) -> int:
    """Return the style number of an arm; arms from outside this library share those of optional arms."""
    if arm.controls is not None:
        return CONTROL
    return STYLES.get(arm.name, 4 + crc32(arm.name.encode()) % 4)


def arm_style(arm: ArmRecord) -> ArmStyle:
    """Return the style of an arm."""
    number = style_number(arm)
    return ArmStyle(COLOURS[number], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])


def main_arms(comparison: Comparison) -> list[ArmRecord]:
    """Return the arms for figures with many lines: the two that the verdict compares, and others if there is room.

    Controls are left out, because the figures of differences show them.
    """
    compared = (comparison.difference.reference, comparison.difference.arm)
    first = [arm for name in compared for arm in comparison.arms if arm.name == name]
    others = [arm for arm in comparison.arms if arm.name not in compared and arm.controls is None]
    chosen = [*first, *others][:MOST_CURVES]
    return [arm for arm in comparison.arms if arm in chosen]


@dataclass(frozen=True)
class TitledFigure:
    """A figure with the title that the page shows above it."""

    title: str
    svg: Markup
    shows_arms: bool = True


def accuracy_figure(comparison: Comparison, digits: int = 1) -> Markup:
    """Draw the test accuracy of every run, joining the runs of a seed; `digits` are the decimals of the means."""
    arms = [arm for arm in comparison.arms if arm.runs]
    if len(arms) > 2:
        return _accuracy_rows(arms, digits, comparison.score)

    def paint(axes: Axes) -> None:
        for seed in sorted({run.seed for arm in arms for run in arm.runs}):
            pairs = [(x, 100 * run.test_accuracy) for x, arm in enumerate(arms) for run in arm.runs if run.seed == seed]
            axes.plot(*zip(*pairs, strict=True), color=MUTED, linewidth=1, alpha=0.6, zorder=2)
        for x, arm in enumerate(arms):
            _paint_arm(axes, x, arm, digits)
        room = 0.27 * max(len(arms), 2)  # for the means at both sides
        axes.set_xlim(-room, len(arms) - 1 + room)
        axes.set_xticks(range(len(arms)), [shorten(arm.title, 22) for arm in arms], color=INK)
        axes.tick_params(axis="x", length=0, pad=8)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)
        axes.set_ylim(possible_range(axes.get_ylim()))
        axes.yaxis.set_major_formatter(lambda value, _: percent_tick(value, "%"))

    means = [f"{arm.title}: mean {percent(fmean(run.test_accuracy for run in arm.runs))}" for arm in arms]
    label = f"Test {comparison.score} of every run by arm, runs of one seed joined. {'; '.join(means)}."
    return draw("accuracy", label, Panel(WIDTH, HEIGHT, left=56, bottom=34), paint)


def _accuracy_rows(arms: Sequence[ArmRecord], digits: int, score: str) -> Markup:
    """Draw the test accuracy of every run, in a row for each arm with the mean as a line."""

    def paint(axes: Axes) -> None:
        for y, arm in enumerate(arms):
            style, values = arm_style(arm), [100 * run.test_accuracy for run in arm.runs]
            mean = fmean(values)
            axes.plot(values, [y] * len(values), style.marker, color=style.colour, markersize=7, zorder=3)
            axes.plot([mean, mean], [y - 0.22, y + 0.22], color=INK, linewidth=2, zorder=4)
        axes.margins(x=0.06)
        axes.set_xlim(possible_range(axes.get_xlim()))
        name_rows(axes, [(arm.title, percent(fmean(run.test_accuracy for run in arm.runs), digits)) for arm in arms])
        axes.xaxis.set_major_formatter(lambda value, _: percent_tick(value, "%"))

    means = [f"{arm.title}: mean {percent(fmean(run.test_accuracy for run in arm.runs))}" for arm in arms]
    label = f"Test {score} of every run by arm. {'; '.join(means)}."
    return draw("accuracy", label, Panel(WIDTH, NAMED_ROW * len(arms) + 52, left=14, bottom=34, top=18), paint)


def possible_range(limits: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of an axis in per cent without what lies far below 0 or above 100; marks need some room.

    >>> possible_range((40, 90)), possible_range((94, 106))
    ((40, 90), (94, 100.6))
    """
    low, high = limits
    room = 0.1 * (min(high, 100) - max(low, 0))
    return max(low, -room), min(high, 100 + room)


def percent_tick(value: float, unit: str) -> str:
    """Return a tick's text, empty if no percentage has this value."""
    return f"{value:g}{unit}" if 0 <= value <= 100 else ""


def name_rows(axes: Axes, names: Sequence[tuple[str, str]]) -> None:
    """Write a name above each row, and a value at its right end; row i is at y = i."""
    low, high = axes.get_xlim()
    for y, (name, value) in enumerate(names):
        axes.text(low, y - 0.28, shorten(name, 44), color=INK, ha="left", va="bottom")
        axes.text(high, y - 0.28, value, color=INK, ha="right", va="bottom", fontweight="bold")
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _paint_arm(axes: Axes, x: int, arm: ArmRecord, digits: int) -> None:
    style = arm_style(arm)
    values = [100 * run.test_accuracy for run in arm.runs]
    axes.plot([x] * len(values), values, style.marker, color=style.colour, markersize=7, zorder=3)
    mean = fmean(values)
    side, align = (-1, "right") if x == 0 else (1, "left")  # the outer side, which no line of a seed crosses
    axes.plot([x + 0.1 * side, x + 0.2 * side], [mean, mean], color=style.colour, linewidth=3, zorder=3)
    axes.annotate(decimal(mean, digits), (x + 0.23 * side, mean), color=INK, va="center", ha=align, fontweight="bold")


def verdict_figure(difference: Difference, score: str) -> Markup:
    """Draw the mean difference with its interval, and the seeds as small dots, between worse and better."""
    low, mean, high = (100 * value for value in (difference.low, difference.mean, difference.high))
    seeds = [100 * value for value in difference.per_seed]

    def paint(axes: Axes) -> None:
        axes.plot(seeds, [0.55] * len(seeds), "o", color=MUTED, markersize=6, alpha=0.8, zorder=3)
        axes.plot([low, high], [0, 0], color=INK, linewidth=4, zorder=3)
        axes.plot(mean, 0, "D", color=INK, markersize=10, zorder=4)
        axes.annotate(points([difference.mean])[0], (mean, 0), (0, -20), textcoords="offset points", ha="center",
                      color=INK, fontweight="bold")  # fmt: skip
        reach = 1.2 * max(*map(abs, (low, high, *seeds)), 0.1)
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-0.9, 1.35)
        axes.grid(visible=False, axis="y")
        axes.set_yticks([])
        axes.text(-reach, 1.1, "descriptions hurt", color=MUTED, ha="left")
        axes.text(reach, 1.1, "descriptions help", color=MUTED, ha="right")
        axes.spines["left"].set_visible(False)
        sign_ticks(axes)

    shown = points((difference.mean, difference.low, difference.high))
    label = f"Difference of test {score} in points: {shown[0]}, 95% interval {shown[1]} to {shown[2]}."
    return draw("verdict", label, Panel(WIDTH, 130, left=14, bottom=28), paint)


def difference_figure(difference: Difference, score: str) -> Markup:
    """Draw the paired difference of every seed, and their mean with its interval."""
    pairs = list(zip(difference.seeds, difference.per_seed, strict=True))
    rows = [f"seed {seed}" for seed, _ in pairs] if len(pairs) <= MAX_SEED_ROWS else ["each seed"]
    names = [*rows, "mean"] if len(pairs) > 1 else ["", *rows]

    def paint(axes: Axes) -> None:
        for number, (_, value) in enumerate(pairs if len(pairs) > 1 else []):
            axes.plot(100 * value, min(number, len(rows) - 1), "o", color=MUTED, markersize=6, alpha=0.8, zorder=3)
        last, mean = len(rows) + 0.3, 100 * difference.mean
        if len(pairs) > 1:
            axes.axhline(len(rows) - 0.35, color=GRID, linewidth=0.8)
        axes.plot([100 * difference.low, 100 * difference.high], [last, last], color=INK, linewidth=2.5, zorder=3)
        axes.plot(mean, last, "D", color=INK, markersize=9, zorder=4)
        axes.annotate(points([difference.mean])[0], (mean, last), (0, 11), textcoords="offset points", ha="center",
                      color=INK, fontweight="bold")  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.set_ylim(last + 0.6, -0.7 if len(pairs) > 1 else last - 0.6)
        axes.set_yticks([*range(len(rows)), last], names, color=INK)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.15 * (high - low)), max(high, 0.15 * (high - low)))  # keeps zero visible
        sign_ticks(axes)

    mean, low, high = points((difference.mean, difference.low, difference.high))
    label = f"Paired difference of test {score}: mean {mean} points, 95% interval {low} to {high}. By seed: "
    label += ", ".join(f"{seed}: {points([value])[0]}" for seed, value in pairs) + "."
    return draw("difference", label, Panel(WIDTH, HEIGHT, left=64, bottom=34), paint)


Value = Callable[["EpochRecord"], float | None]


def curve_figures(comparison: Comparison) -> list[TitledFigure]:
    """Draw classification loss, alignment loss if any arm has one, and validation accuracy by epoch."""
    of_labels = {"detection": "Loss of the detector", "segmentation": "Cross-entropy of the pixels"}.get(
        comparison.task, "Classification loss"
    )
    quantities: list[tuple[str, str, Value]] = [
        ("loss", f"{of_labels}, training", lambda epoch: epoch.classification_loss),
        ("alignment", "Alignment loss, training", lambda epoch: epoch.alignment_loss),
        ("self-supervised", "Self-supervised loss, training", lambda epoch: epoch.self_supervised_loss),
        ("validation", f"Validation {comparison.score}", lambda epoch: 100 * epoch.validation_accuracy),
    ]
    drawn = [
        (name, title, value)
        for name, title, value in quantities
        if any(value(epoch) is not None for arm in comparison.arms for run in arm.runs for epoch in run.history)
    ]
    width = 320 if len(drawn) > 2 else 400
    return [TitledFigure(title, _draw_curve(comparison, name, title, value, width)) for name, title, value in drawn]


def _draw_curve(comparison: Comparison, name: str, title: str, value: Value, width: int) -> Markup:
    unit, digits, arms = *((" %", 1) if name == "validation" else ("", 3)), main_arms(comparison)
    curves = [_curves(arm, value) for arm in arms]
    means = [_mean_curve(of_arm) for of_arm in curves]

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for arm, of_arm, mean in zip(arms, curves, means, strict=True):
            style = arm_style(arm)
            for curve in of_arm if len(of_arm) > 1 else []:
                axes.plot(list(curve), list(curve.values()), color=style.colour, linewidth=0.9, alpha=0.4, zorder=2)
            marker = "o" if len(mean) == 1 else None
            x, y = list(mean), list(mean.values())
            axes.plot(x, y, marker=marker, color=style.colour, linewidth=2.4, ls=style.dashes)
            if name == "validation":
                _mark_kept(axes, arm, style)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.02)
        if all(epoch == 1 for mean in means for epoch in mean):  # a single epoch needs only its own tick
            axes.set_xticks([1])
            axes.set_xlim(0.5, 1.5)
        if unit:
            axes.set_ylim(possible_range(axes.get_ylim()))
            axes.yaxis.set_major_formatter(lambda tick, _: percent_tick(tick, unit))

    last = "; ".join(
        f"{arm.title} {list(mean.values())[-1]:.{digits}f}{unit}" if mean else f"{arm.title} has none"
        for arm, mean in zip(arms, means, strict=True)
    )
    return draw(name, f"{title} by epoch. Last epoch, mean of the seeds: {last}.", Panel(width, 260, left=52), paint)


def _mark_kept(axes: Axes, arm: ArmRecord, style: ArmStyle) -> None:
    """Mark the epoch of each run whose weights were kept."""
    for run in arm.runs:
        for epoch in run.history:
            if epoch.epoch == run.best_epoch:
                accuracy = 100 * epoch.validation_accuracy
                axes.plot(epoch.epoch + 1, accuracy, style.marker, color=style.colour, markersize=6, zorder=4)


def _curves(arm: ArmRecord, value: Value) -> list[dict[int, float]]:
    """Return, for every run that has values, a mapping from epoch to value."""
    curves = [
        {epoch.epoch + 1: found for epoch in run.history if (found := value(epoch)) is not None} for run in arm.runs
    ]
    return [curve for curve in curves if curve]


def _mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Return the mean by epoch, for epochs that all runs reached: otherwise it would jump where a run ends."""
    common = set(curves[0]).intersection(*curves[1:]) if curves else set()
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in sorted(common)}


def class_figures(comparison: Comparison) -> list[TitledFigure]:
    """Draw accuracy and difference of every class or, if there are many, the largest gains and losses."""
    measured = sort_classes([record for record in comparison.per_class if record.difference is not None])
    if not measured:
        return []
    title = class_score(comparison)
    if len(measured) <= MAX_CLASSES:
        return [
            TitledFigure(title, _accuracies("class-accuracy", title, measured, main_arms(comparison))),
            TitledFigure("Difference, in points", _differences("class-difference", title, measured), shows_arms=False),
        ]
    gains = [record for record in measured if (record.difference or 0) > 0][:MAX_EACH_WAY]
    losses = [record for record in measured if (record.difference or 0) < 0][-MAX_EACH_WAY:][::-1]
    return [
        TitledFigure(
            f"Largest {name}, in points ({counted(len(records), 'class')})",
            _differences(f"class-{name}", title, records),
            shows_arms=False,
        )
        for name, records in (("gains", gains), ("losses", losses))
        if records
    ]


def class_score(comparison: Comparison) -> str:
    """Return the name of the metric of a class, such as average precision, with a capital letter."""
    return comparison.class_score[:1].upper() + comparison.class_score[1:]


def sort_classes(records: Sequence[ClassRecord]) -> list[ClassRecord]:
    """Sort by difference, the largest gain first and classes without a difference last."""
    return sorted(records, key=lambda record: (record.difference is None, -(record.difference or 0)))


def _panel(records: Sequence[ClassRecord]) -> Panel:
    """Return a panel with a row for each class, and room for the longest name."""
    names = max(columns(shorten(record.name, MAX_NAME)) for record in records)
    return Panel(WIDTH, ROW * len(records) + 44, left=16 + CHARACTER * names, top=8, bottom=36)


def _name_rows(axes: Axes, records: Sequence[ClassRecord]) -> None:
    axes.set_yticks(range(len(records)), [shorten(record.name, MAX_NAME) for record in records], color=INK)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _differences(name: str, score: str, records: Sequence[ClassRecord]) -> Markup:
    """Draw the difference of every class with its interval."""

    def paint(axes: Axes) -> None:
        for y, record in enumerate(records):
            if record.low is not None and record.high is not None:
                axes.plot([100 * record.low, 100 * record.high], [y, y], color=MUTED, linewidth=1.6, zorder=2)
            axes.plot(100 * (record.difference or 0), y, "D", color=INK, markersize=6, zorder=3)
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.margins(x=0.06)
        _name_rows(axes, records)
        sign_ticks(axes)

    shown = "; ".join(f"{shorten(record.name, 40)} {points([record.difference or 0])[0]}" for record in records)
    return draw(name, f"Difference of test {score.lower()} by class, in points: {shown}.", _panel(records), paint)


def _accuracies(name: str, score: str, records: Sequence[ClassRecord], arms: Sequence[ArmRecord]) -> Markup:
    """Draw the accuracy of every class under every arm, joining the arms of a class."""

    def paint(axes: Axes) -> None:
        for y, record in enumerate(records):
            found = [100 * value for arm in arms if (value := record.accuracy.get(arm.name)) is not None]
            if found:
                axes.plot([min(found), max(found)], [y, y], color=MUTED, linewidth=1.6, alpha=0.7, zorder=2)
            for arm in arms:
                if (share := record.accuracy.get(arm.name)) is not None:
                    style = arm_style(arm)
                    axes.plot(100 * share, y, style.marker, color=style.colour, markersize=7, zorder=3)
        axes.margins(x=0.06)
        _name_rows(axes, records)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")

    label = (
        f"Test {score.lower()} by class and arm, in the order of their difference; the numbers are in the table below."
    )
    return draw(name, label, _panel(records), paint)
