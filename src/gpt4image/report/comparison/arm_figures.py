"""Figures over all arms: their differences from the baseline, and how well calibrated they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt4image.core.format import points, shorten
from gpt4image.report.comparison.figures import NAMED_ROW, WIDTH, arm_style, main_arms, name_rows
from gpt4image.report.html.svg import INK, MUTED, Panel, draw, sign_ticks

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, Comparison, Difference

MAX_MARK = 16.0  # diameter of the mark of a bin with all predictions


def forest_figures(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Draw the difference of every arm from the baseline with its interval, controls in a figure of their own.

    Returns:
        Title and figure of each; empty if there is no arm besides the two that the verdict compares.
    """
    arms = {arm.name: arm for arm in comparison.arms}
    shown = [(arms[each.arm], each) for each in (comparison.difference, *comparison.others) if each.arm in arms]
    if len(shown) < 2:
        return []
    judged = [pair for pair in shown if pair[0].controls is None]
    controls = [pair for pair in shown if pair[0].controls is not None]
    reach = 1.12 * max(100 * abs(value) for _, each in shown for value in (each.low, each.high, 0.001))
    reference = arms[comparison.difference.reference].title
    return [
        (
            f"{title}, in points of {comparison.score} against {shorten(reference, 30)}",
            _forest(name, pairs, reach, comparison.score),
        )
        for name, title, pairs in (("forest", "Arms", judged), ("controls", "Controls", controls))
        if pairs
    ]


def _forest(name: str, shown: Sequence[tuple[ArmRecord, Difference]], reach: float, score: str) -> Markup:
    def paint(axes: Axes) -> None:
        for y, (arm, each) in enumerate(shown):
            style = arm_style(arm)
            axes.plot([100 * each.low, 100 * each.high], [y, y], color=style.colour, linewidth=2.6, zorder=3)
            axes.plot(100 * each.mean, y, style.marker, color=style.colour, markersize=9, zorder=4)
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.set_xlim(-reach, reach)
        name_rows(axes, [(arm.title, _interval(each)) for arm, each in shown])
        sign_ticks(axes)

    label = "; ".join(f"{shorten(arm.title, 60)} {_interval(each)}" for arm, each in shown)
    height = NAMED_ROW * len(shown) + 46
    return draw(name, f"Difference of test {score} in points: {label}.", Panel(WIDTH, height, 14, 14, 16, 30), paint)


def _interval(each: Difference) -> str:
    mean, low, high = points((each.mean, each.low, each.high))
    return f"{mean} ({low} to {high})"


def reliability_figure(comparison: Comparison) -> Markup | None:
    """Draw accuracy over confidence, with a mark for each bin whose area is its share; None without such records."""
    arms = [arm for arm in main_arms(comparison) if arm.reliability]
    if not arms:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1.2, zorder=1)
        for arm in arms:
            style, total = arm_style(arm), sum(each.predictions for each in arm.reliability)
            pairs = [(100 * each.confidence, 100 * each.accuracy) for each in arm.reliability]
            axes.plot(*zip(*pairs, strict=True), color=style.colour, linewidth=1.6, ls=style.dashes, zorder=2)
            for (x, y), each in zip(pairs, arm.reliability, strict=True):
                size = max(MAX_MARK * (each.predictions / total) ** 0.5, 3)
                axes.plot(x, y, style.marker, color=style.colour, markersize=size, zorder=3)
        axes.text(97, 3, "too confident", color=MUTED, ha="right")
        axes.text(3, 94, "too cautious", color=MUTED, ha="left")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("confidence")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}%")

    label = "Accuracy of the test predictions by confidence. " + "; ".join(
        f"{shorten(arm.title, 40)}: "
        + ", ".join(f"{each.confidence:.0%} confident {each.accuracy:.0%} right" for each in arm.reliability)
        for arm in arms
    )
    return draw("reliability", f"{label}.", Panel(WIDTH, 340, left=52), paint)
