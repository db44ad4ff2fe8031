"""What the texts know, as figures: accuracies of the probes, and their differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt4image.core.format import MINUS, decimal, percent, points
from gpt4image.report.html.svg import CHARACTER, COLOURS, INK, MUTED, Panel, draw, sign_ticks

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.quality.check_record import Knowledge, PairedGap, Probe


WIDTH, ROW = 400, 46


@dataclass(frozen=True)
class Bar:
    """One probe's bar."""

    name: str
    probe: Probe
    colour: str


def probe_bars(knowledge: Knowledge) -> list[Bar]:
    """The probes in the order in which they are drawn."""
    bars = [Bar("texts alone", knowledge.text, COLOURS[1])]
    if knowledge.masked is not None:
        bars.append(Bar("without class names", knowledge.masked, COLOURS[1]))
    return [*bars, Bar("image alone", knowledge.image, COLOURS[0]), Bar("both", knowledge.both, COLOURS[2])]


def probe_figure(knowledge: Knowledge) -> Markup:
    """Accuracy of every probe as a bar with its interval; a line where always answering the largest class gets."""
    bars = probe_bars(knowledge)

    def paint(axes: Axes) -> None:
        for y, bar in enumerate(bars):
            low, high = 100 * bar.probe.low, 100 * bar.probe.high
            axes.barh(y, 100 * bar.probe.accuracy, 0.56, color=bar.colour, zorder=2)
            axes.plot([low, high], [y, y], color=INK, linewidth=2.5, zorder=4)
            _write_beside(axes, y, decimal(100 * bar.probe.accuracy))
        _mark_chance(axes, knowledge.chance)
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 25), [f"{tick}%" for tick in range(0, 101, 25)])
        _rows(axes, [bar.name for bar in bars], top=-0.9)

    shown = "; ".join(f"{bar.name} {_with_interval(bar.probe)}" for bar in bars)
    label = f"Accuracy out of fold: {shown}. Always the largest class: {percent(knowledge.chance)}."
    return draw("knowledge", label, _panel([bar.name for bar in bars], right=56), paint)


def _write_beside(axes: Axes, y: float, text: str) -> None:
    """A number at the right of the axes, flush with those above and below."""
    place, move = ("axes fraction", "data"), "offset points"
    axes.annotate(text, (1, y), (48, 0), place, move, va="center", ha="right", color=INK, fontweight="bold")


def _mark_chance(axes: Axes, chance: float) -> None:
    """A line where always answering the largest class gets, with its name on the side that has room."""
    side, align = (1, "left") if chance < 0.5 else (-1, "right")
    axes.axvline(100 * chance, color=INK, linewidth=1.2, ls=(0, (2, 2)), zorder=3)
    axes.annotate(f"largest class {percent(chance)}", (100 * chance, -0.62), (4 * side, 0), ha=align, va="center",
                  textcoords="offset points", color=MUTED)  # fmt: skip


def gap_figure(knowledge: Knowledge) -> Markup:
    """How far the texts, and both together, are ahead of the image features, each with its interval."""
    gaps = {f"texts {MINUS} image": knowledge.text_over_image, f"both {MINUS} image": knowledge.both_over_image}

    def paint(axes: Axes) -> None:
        for y, gap in enumerate(gaps.values()):
            axes.plot([100 * gap.low, 100 * gap.high], [y, y], color=INK, linewidth=2.5, zorder=3)
            axes.plot(100 * gap.mean, y, "D", color=INK, markersize=9, zorder=4)
            axes.annotate(points([gap.mean])[0], (100 * gap.mean, y), (0, 11), textcoords="offset points", ha="center",
                          color=INK, fontweight="bold")  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
        axes.margins(x=0.12)
        _rows(axes, list(gaps), top=-0.9)
        sign_ticks(axes)

    shown = "; ".join(f"{name} {_gap_in_words(gap)}" for name, gap in gaps.items())
    return draw("gaps", f"Differences of accuracy in points: {shown}.", _panel(list(gaps), right=20), paint)


def _panel(names: list[str], right: float) -> Panel:
    """A row a name, and room for the longest one."""
    left = 14 + CHARACTER * max(map(len, names))
    return Panel(WIDTH, ROW * len(names) + 62, left=left, right=right, top=4, bottom=32)


def _rows(axes: Axes, names: list[str], top: float) -> None:
    """Names down the side, one row each, with room above the first."""
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.45, top)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _with_interval(probe: Probe) -> str:
    return f"{percent(probe.accuracy)} ({percent(probe.low)} to {percent(probe.high)})"


def _gap_in_words(gap: PairedGap) -> str:
    mean, low, high = points((gap.mean, gap.low, gap.high))
    return f"{mean} (95% interval {low} to {high})"
