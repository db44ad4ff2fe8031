"""What a person sees while long work goes on: progress bars, notes and tables on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from gpt4image.core.format import printable

console = Console(stderr=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")


"""Writes to standard error, so that standard output holds results alone; quiet in all processes but the first."""


class Position(MofNCompleteColumn):
    """How far it is, of how much where that is known."""

    def render(self, task: Task) -> Text:
        """The numbers."""
        return super().render(task) if task.total is not None else Text(f"{int(task.completed):,}")


class Meter:
    """Moves one progress line; a fake of three methods is enough to take its place."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="", visible=total != 0)

    def advance(self, steps: int = 1) -> None:
        """Go on by some steps."""
        self._progress.advance(self._task, steps)

    def set(self, done: int) -> None:
        """Go to a position."""
        self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Show a short remark beside the bar; it is shown literally."""
        self._progress.update(self._task, note=text)


def follow(title: str, total: int, steps: Iterator[int]) -> None:
    """Run through steps, each the number of units done so far, with a progress line; none where there is no step."""
    first = next(steps, None)
    if first is None:
        return
    with progress(title, total) as meter:
        meter.set(first)
        for done in steps:
            meter.set(done)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Meter]:
    """Show a progress line; where there is no terminal, one line at the end, and none where nothing is to be done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        Position(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as bars:
        yield Meter(bars, title, total)


def say(text: str, style: str = "") -> None:
    """Print a line for the person at the terminal; control characters in it are shown, not obeyed."""
    console.print(Text("\n".join(map(printable, text.split("\n"))), style=style))
