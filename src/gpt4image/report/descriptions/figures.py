"""Figures of how well the texts predict the class: accuracies of the classifiers, and their differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt4image.core.format import MINUS, decimal, percent, points
from gpt4image.report.html.svg import CHARACTER, COLOURS, INK, MUTED, Panel, draw, sign_ticks

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.quality.check_record import Knowledge, Probe

WIDTH, ROW = 400, 46


def probe_figure(knowledge: Knowledge) -> Markup:
    """Draw each classifier's accuracy as a bar with its interval, and a line at that of the most frequent class."""
    image, both, text = COLOURS[:3]  # as in a comparison: blue without descriptions, orange with them
    bars: list[tuple[str, Probe, str]] = [("texts alone", knowledge.text, text)]
    if knowledge.masked is not None:
        bars.append(("without class names", knowledge.masked, text))
    bars += [("image alone", knowledge.image, image), ("both", knowledge.both, both)]

    def paint(axes: Axes) -> None:
        for y, (_, probe, colour) in enumerate(bars):
            axes.barh(y, 100 * probe.accuracy, 0.56, color=colour, zorder=2)
            axes.plot([100 * probe.low, 100 * probe.high], [y, y], color=INK, linewidth=2.5, zorder=4)
            # the numbers are right-aligned beside the axes
            axes.annotate(decimal(100 * probe.accuracy), (1, y), (48, 0), ("axes fraction", "data"), "offset points",
                          va="center", ha="right", color=INK, fontweight="bold")  # fmt: skip
        _mark_chance(axes, knowledge.chance)
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 25), [f"{tick}%" for tick in range(0, 101, 25)])
        _name_rows(axes, [name for name, _, _ in bars])

    shown = "; ".join(
        f"{name} {percent(probe.accuracy)} ({percent(probe.low)} to {percent(probe.high)})" for name, probe, _ in bars
    )
    label = f"Out-of-fold accuracy: {shown}. Always the largest class: {percent(knowledge.chance)}."
    return draw("knowledge", label, _panel([name for name, _, _ in bars], right=56), paint)


def _mark_chance(axes: Axes, chance: float) -> None:
    """Draw a line at the accuracy of always predicting the largest class, labelled on the side that has room."""
    side, align = (1, "left") if chance < 0.5 else (-1, "right")
    axes.axvline(100 * chance, color=INK, linewidth=1.2, ls=(0, (2, 2)), zorder=3)
    axes.annotate(f"largest class {percent(chance)}", (100 * chance, -0.62), (4 * side, 0), ha=align, va="center",
                  textcoords="offset points", color=MUTED)  # fmt: skip


def gap_figure(knowledge: Knowledge) -> Markup:
    """Draw by how much the texts, and both together, beat the image features, with intervals."""
    gaps = {f"texts {MINUS} image": knowledge.text_over_image, f"both {MINUS} image": knowledge.both_over_image}

    def paint(axes: Axes) -> None:
        for y, gap in enumerate(gaps.values()):
            axes.plot([100 * gap.low, 100 * gap.high], [y, y], color=INK, linewidth=2.5, zorder=3)
            axes.plot(100 * gap.mean, y, "D", color=INK, markersize=9, zorder=4)
            axes.annotate(points([gap.mean])[0], (100 * gap.mean, y), (0, 11), textcoords="offset points", ha="center",
                          color=INK, fontweight="bold")  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.margins(x=0.12)
        _name_rows(axes, list(gaps))
        sign_ticks(axes)

    shown = []
    for name, gap in gaps.items():
        mean, low, high = points((gap.mean, gap.low, gap.high))
        shown.append(f"{name} {mean} (95% interval {low} to {high})")
    label = f"Differences of accuracy in points: {'; '.join(shown)}."
    return draw("gaps", label, _panel(list(gaps), right=20), paint)


def _panel(names: list[str], right: float) -> Panel:
    """Return a panel with a row for each name, and room for the longest one."""
    left = 14 + CHARACTER * max(map(len, names))
    return Panel(WIDTH, ROW * len(names) + 62, left=left, right=right, top=4, bottom=32)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.45, -0.9)  # leaves room above the first row
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
