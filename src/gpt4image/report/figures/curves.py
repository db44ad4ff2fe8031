"""Learning curves: every seed thin, the mean thick."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.pages.svg import Panel, draw
from gpt4image.report.figures.style import ArmStyle, TitledFigure, arm_style

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import ArmRecord, Comparison, EpochRecord

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
            axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g} %")

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
