"""The comparison at a glance: accuracy by arm and seed, and the paired differences."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.pages.svg import GRID, INK, MUTED, Panel, draw, sign_ticks
from gpt4image.pages.wording import decimal, percent, points, shorten
from gpt4image.report.figures.style import arm_style

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, Comparison, Difference

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
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")

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
    label = f"Paired difference of test accuracy: mean {mean} points, 95 % interval {low} to {high}. By seed: "
    label += ", ".join(f"{seed}: {points([value])[0]}" for seed, value in pairs) + "."
    return draw("difference", label, Panel(WIDTH, HEIGHT, left=64, bottom=34), paint)


def _mark_sides(axes: Axes) -> None:
    """Keep zero in sight with signed ticks, in points."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.15 * (high - low)), max(high, 0.15 * (high - low)))
    sign_ticks(axes)
