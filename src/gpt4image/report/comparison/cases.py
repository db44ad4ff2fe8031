"""The page of a series of comparisons: one figure of all cases, and the findings of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt4image.core.format import percent, points, shorten
from gpt4image.core.workdir import WorkDir
from gpt4image.report.comparison.figures import ArmStyle, arm_style
from gpt4image.report.comparison.verdict import CLAIMS, find_arm, mean_accuracy, state_claim
from gpt4image.report.html.page import render_page, write_page
from gpt4image.report.html.svg import INK, MUTED, Panel, draw

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from gpt4image.compare.records import CaseRecord, Comparison, Difference
    from gpt4image.probing.verdicts import VerdictKind

WIDTH, HEAD, BAR_ROW, BAR, GAP = 440, 44, 38, 13, 18
IMAGES_ALONE = "images alone, "  # before the title of an arm that learns nothing from descriptions
ROOM = 2.0  # width of the axes divided by that of the longest bar, because numbers follow the bars


@dataclass(frozen=True)
class Bar:
    """A bar of the figure: an arm, its mean test accuracy, and its difference from the baseline."""

    title: str
    style: ArmStyle
    accuracy: float
    difference: Difference | None
    uses_descriptions: bool


@dataclass(frozen=True)
class BarGroup:
    """The bars of a case: the baseline, the best arm that uses only images (if any), and the arm with descriptions."""

    title: str
    about: str
    draws: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Case:
    """A case as it is shown.

    Attributes:
        record: its name and a description of its labels.
        comparison: its experiment.
        group: its bars in the figure.
        rival: the difference of the arm with descriptions from the best arm that uses only images.
    """

    record: CaseRecord
    comparison: Comparison
    group: BarGroup
    rival: Difference | None

    @classmethod
    def of(cls, record: CaseRecord, comparison: Comparison) -> Case:
        """Choose what to show of a comparison: of the arms that use only images, the most accurate."""
        difference = comparison.difference
        rival = min(comparison.rivals, key=lambda each: each.mean, default=None)
        to_baseline = {each.arm: each for each in (difference, *comparison.others)}
        names = [difference.reference, *([rival.reference] if rival else []), difference.arm]
        bars = (
            Bar(
                f"{IMAGES_ALONE if rival and name == rival.reference else ''}{find_arm(comparison, name).title}",
                arm_style(find_arm(comparison, name)),
                mean_accuracy(comparison, name),
                to_baseline.get(name),
                name == difference.arm,
            )
            for name in names
        )
        group = BarGroup(record.title, record.about, len(difference.seeds), tuple(bars))
        return cls(record, comparison, group, rival)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The bars of its group."""
        return self.group.bars

    @property
    def kind(self) -> VerdictKind:
        """The verdict on the case."""
        return self.comparison.difference.kind(self.comparison.margin)

    @property
    def claim(self) -> str:
        """What the case shows, a clause without a full stop."""
        claim = state_claim(self.kind, self.comparison)
        return f"{claim[0].upper()}{claim[1:]}"

    def lines(self) -> Iterator[str]:
        """Yield the numbers as plain sentences."""
        accuracies = ", ".join(f"{bar.title} {percent(bar.accuracy)}" for bar in self.bars)
        yield f"{self.record.title}: {accuracies}."
        yield f"{self.claim}. Against labels alone: {interval(self.comparison.difference)} points."
        if self.rival:
            yield f"Against the best of the images alone: {interval(self.rival)} points."


def interval(difference: Difference) -> str:
    """Return a difference in points with its 95% interval.

    >>> from gpt4image.compare.records import Difference
    >>> interval(Difference(arm="a", reference="b", seeds=[0], per_seed=[0.1], mean=0.1, low=0.05, high=0.15,
    ...                     covers="images only"))
    '+10.0 (+5.0 to +15.0)'
    """
    mean, low, high = points((difference.mean, difference.low, difference.high))
    return f"{mean} ({low} to {high})"


def open_cases(work: Path) -> list[Case]:
    """Read the cases of a work directory. StoreError names a record that is missing or damaged."""
    from gpt4image.compare.records import CasesRecord, Comparison

    workdir = WorkDir(work)
    return [
        Case.of(record, Comparison.load(workdir.experiment(record.experiment) / "comparison.json"))
        for record in CasesRecord.load(workdir.cases).cases
    ]


def write_cases(work: Path) -> list[Case]:
    """Write `cases.html` and its figure, `cases.svg`, in a work directory from its `cases.json`; return the cases."""
    cases, workdir = open_cases(work), WorkDir(work)
    figure = cases_figure([case.group for case in cases])
    pages = [f"{workdir.experiments.name}/{case.record.experiment}/report.html" for case in cases]
    first = cases[0].comparison
    shown = {kind: [case for case in cases if case.kind == kind] for kind in CLAIMS}
    page = render_page(
        "cases.html.j2",
        version=first.version,
        cases=list(zip(cases, pages, strict=True)),
        claims=[(found[0].claim, found) for found in shown.values() if found],
        first=first,
        figure=figure,
        interval=interval,
    )
    write_figure(workdir.cases_figure, [case.group for case in cases])
    write_page(workdir.cases_page, page)
    return cases


def write_figure(path: Path, groups: Sequence[BarGroup]) -> None:
    """Write the figure by itself, as an SVG with colours of its own."""
    figure, height = cases_figure(groups), _height(groups)
    write_page(path, render_page("figure.svg.j2", figure=figure, width=WIDTH, height=height))


def _height(groups: Sequence[BarGroup]) -> float:
    return sum(HEAD + BAR_ROW * len(group.bars) + GAP for group in groups) + 40


def cases_figure(groups: Sequence[BarGroup]) -> Markup:
    """Draw a group of bars for each case: mean test accuracy, and the interval of the difference from the baseline."""
    height = _height(groups)
    longest = max(_end(bar, group.bars[0]) for group in groups for bar in group.bars)
    draws = sorted({group.draws for group in groups})
    told = str(draws[0]) if len(draws) == 1 else f"{draws[0]} to {draws[-1]}"

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_xlim(0, ROOM * longest)
        axes.set_ylim(height, 0)  # in pixels from the top
        y = 0.0
        for group in groups:
            axes.text(0, y + 16, shorten(group.title, 44), color=INK, fontsize=16, fontweight="bold")
            axes.text(0, y + 33, shorten(group.about, 70), color=MUTED)
            y += HEAD
            _paint_bars(axes, y, group.bars)
            y += BAR_ROW * len(group.bars) + GAP
        notes = (
            f"Bars: test accuracy, mean of {told} draws of labels and seed.",
            "Behind them: the difference to labels alone in points, 95% interval.",
        )
        for number, line in enumerate(notes):
            axes.text(0, y + 12 + 16 * number, line, color=MUTED)

    label = "; ".join(
        f"{shorten(group.title, 60)}: "
        + ", ".join(
            f"{shorten(bar.title, 60)} {percent(bar.accuracy)}"
            + (f", difference to labels alone {interval(bar.difference)} points" if bar.difference else "")
            for bar in group.bars
        )
        for group in groups
    )
    return draw("cases", f"Test accuracy. {label}.", Panel(WIDTH, height, 12, 12, 10, 0), paint)


def _paint_bars(axes: Axes, top: float, bars: Sequence[Bar]) -> None:
    """Draw the bars of a case below each other, each with its name above it and its numbers to the right."""
    start = 100 * bars[0].accuracy
    for number, bar in enumerate(bars):
        y = top + BAR_ROW * number
        middle, weight = y + 22, "bold" if bar.uses_descriptions else "normal"
        axes.text(0, y + 11, shorten(bar.title, 60), color=INK, fontweight=weight)
        axes.barh(middle, 100 * bar.accuracy, height=BAR, color=bar.style.colour, zorder=2)
        behind = (_end(bar, bars[0]), middle)
        place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": INK}
        axes.annotate(percent(bar.accuracy), behind, (7, 0), fontweight="bold", **place)
        axes.plot(
            [start, start],
            [middle - 0.7 * BAR, middle + 0.7 * BAR],
            color=MUTED,
            linewidth=1.4,
            ls=(0, (2, 2)),
            zorder=3,
        )
        if bar.difference:
            ends = [start + 100 * value for value in (bar.difference.low, bar.difference.high)]
            axes.plot(ends, [middle, middle], color=INK, linewidth=1.6, marker="|", markersize=9, zorder=4)
            axes.annotate(interval(bar.difference), behind, (52, 0), fontweight=weight, **place)


def _end(bar: Bar, baseline: Bar) -> float:
    """Return the right end of a bar and its interval line, in per cent."""
    return 100 * max(bar.accuracy, baseline.accuracy + bar.difference.high if bar.difference else 0.0)
