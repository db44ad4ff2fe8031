"""Learning curves: every seed thin, the mean thick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.core.format import columns, decimal, percent, points, shorten
from gpt4image.report.html.svg import CHARACTER, COLOURS, GRID, INK, MUTED, Panel, draw, sign_ticks

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, ClassRecord, Comparison, Difference, EpochRecord


Dashes = str | tuple[int, tuple[float, ...]]


_MARKERS = ("o", "D", "s", "^")


_DASHES: tuple[Dashes, ...] = ((0, (5, 2)), "-", (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))


@dataclass(frozen=True)
class ArmStyle:
    """How an arm looks: by colour, and by shape for who sees no colour."""

    colour: str
    marker: str
    dashes: Dashes


def arm_style(number: int) -> ArmStyle:
    """Look of the arm at that place in the comparison; it starts again after the fourth."""
    place = number % len(COLOURS)
    return ArmStyle(COLOURS[place], _MARKERS[place], _DASHES[place])


@dataclass(frozen=True)
class TitledFigure:
    """A figure and what the page writes above it."""

    title: str
    svg: Markup
    shows_arms: bool = True


Value = Callable[["EpochRecord"], float | None]


def curve_figures(comparison: Comparison) -> list[TitledFigure]:
    """Classification loss, alignment loss where an arm has one, and validation accuracy."""
    quantities: list[tuple[str, str, Value]] = [
        ("loss", "Classification loss, training", lambda epoch: epoch.classification_loss),
        ("alignment", "Alignment loss, training", lambda epoch: epoch.alignment_loss),
        ("validation", "Validation accuracy", lambda epoch: 100 * epoch.validation_accuracy),
    ]
    drawn = [
        (name, title, value)
        for name, title, value in quantities
        if any(value(epoch) is not None for arm in comparison.arms for run in arm.runs for epoch in run.history)
    ]
    width = 320 if len(drawn) > 2 else 400
    return [TitledFigure(title, _draw(comparison, name, title, value, width)) for name, title, value in drawn]


def _draw(comparison: Comparison, name: str, title: str, value: Value, width: int) -> Markup:
    """One quantity by epoch for all arms."""
    percent = name == "validation"

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for number, arm in enumerate(comparison.arms):
            _paint_curve(axes, arm, arm_style(number), value)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.02)
        if percent:
            axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}%")

    last = "; ".join(_last(arm, value, percent) for arm in comparison.arms)
    return draw(name, f"{title} by epoch. Last epoch, mean of the seeds: {last}.", Panel(width, 260, left=52), paint)


def _paint_curve(axes: Axes, arm: ArmRecord, style: ArmStyle, value: Value) -> None:
    """One arm: its runs, and their mean over the epochs that all of them reached."""
    curves = _curves(arm, value)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=style.colour, linewidth=0.9, alpha=0.4, zorder=2)
    mean = _mean_curve(curves)
    marker = "o" if len(mean) == 1 else None
    axes.plot(list(mean), list(mean.values()), marker=marker, color=style.colour, linewidth=2.4, ls=style.dashes)


def _curves(arm: ArmRecord, value: Value) -> list[dict[int, float]]:
    """Epoch to value, for every run that has any."""
    curves = [{epoch.epoch: found for epoch in run.history if (found := value(epoch)) is not None} for run in arm.runs]
    return [curve for curve in curves if curve]


def _mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Mean by epoch, as far as every curve goes: a mean over ever fewer runs would jump where one ends."""
    common = set(curves[0]).intersection(*curves[1:]) if curves else set()
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in sorted(common)}


def _last(arm: ArmRecord, value: Value, percent: bool) -> str:
    """The end of an arm's mean curve, in words."""
    mean = _mean_curve(_curves(arm, value))
    if not mean:
        return f"{arm.title} has none"
    return f"{arm.title} {list(mean.values())[-1]:.{1 if percent else 3}f}{' %' if percent else ''}"


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
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")

    label = "Test accuracy by class and arm, in the order of their difference; the numbers are in the table below."
    return draw(name, label, _panel(records), paint)


WIDTH, HEIGHT = 400, 280


ROWS_AT_MOST = 12


def accuracy_figure(comparison: Comparison) -> Markup:
    """Test accuracy of every run; a line joins the runs of one seed."""
    arms = [arm for arm in comparison.arms if arm.runs]

    def paint(axes: Axes) -> None:
        for seed in sorted({run.seed for arm in arms for run in arm.runs}):
            pairs = [(x, 100 * run.test_accuracy) for x, arm in enumerate(arms) for run in arm.runs if run.seed == seed]
            axes.plot(*zip(*pairs, strict=True), color=MUTED, linewidth=1, alpha=0.6, zorder=2)
        for x, arm in enumerate(arms):
            _paint_arm(axes, x, arm)
        room = 0.27 * max(len(arms), 2)  # for the numbers at either side
        axes.set_xlim(-room, len(arms) - 1 + room)
        limit = 22 if len(arms) < 3 else max(36 // len(arms), 4)
        axes.set_xticks(range(len(arms)), [shorten(arm.title, limit) for arm in arms], color=INK)
        axes.tick_params(axis="x", length=0, pad=8)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")

    means = [f"{arm.title}: mean {percent(_mean(arm))}" for arm in arms]
    label = f"Test accuracy of every run by arm, runs of one seed joined. {'; '.join(means)}."
    return draw("accuracy", label, Panel(WIDTH, HEIGHT, left=56, bottom=34), paint)


def _paint_arm(axes: Axes, x: int, arm: ArmRecord) -> None:
    """One arm's runs and its mean."""
    style = arm_style(x)
    values = [100 * run.test_accuracy for run in arm.runs]
    axes.plot([x] * len(values), values, style.marker, color=style.colour, markersize=7, zorder=3)
    mean = fmean(values)
    side, align = (-1, "right") if x == 0 else (1, "left")  # outside, where no line of a seed runs
    axes.plot([x + 0.1 * side, x + 0.2 * side], [mean, mean], color=style.colour, linewidth=3, zorder=3)
    axes.annotate(decimal(mean), (x + 0.23 * side, mean), color=INK, va="center", ha=align, fontweight="bold")


def _mean(arm: ArmRecord) -> float:
    return fmean(run.test_accuracy for run in arm.runs)


def difference_figure(difference: Difference) -> Markup:
    """Paired difference of every seed, and their mean with its interval."""
    pairs = list(zip(difference.seeds, difference.per_seed, strict=True))
    rows = [f"seed {seed}" for seed, _ in pairs] if len(pairs) <= ROWS_AT_MOST else ["each seed"]
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
        _mark_sides(axes)

    mean, low, high = points((difference.mean, difference.low, difference.high))
    label = f"Paired difference of test accuracy: mean {mean} points, 95% interval {low} to {high}. By seed: "
    label += ", ".join(f"{seed}: {points([value])[0]}" for seed, value in pairs) + "."
    return draw("difference", label, Panel(WIDTH, HEIGHT, left=64, bottom=34), paint)


def _mark_sides(axes: Axes) -> None:
    """Keep zero in sight with signed ticks, in points."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.15 * (high - low)), max(high, 0.15 * (high - low)))
    sign_ticks(axes)
