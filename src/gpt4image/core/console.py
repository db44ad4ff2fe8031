"""Progress lines and notes on standard error, and results on standard output.

Only the first of several training processes writes to standard error.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from gpt4image.core.format import printable
from gpt4image.core.invocation import in_users_words

# in a notebook rich would need widgets; plain lines need nothing
console = Console(stderr=True, highlight=False, force_jupyter=False, quiet=os.environ.get("RANK", "0") != "0")


QUIET_SECONDS = 0.5
"""Time after which a command that has said nothing says what it is doing."""

_waiting: list[threading.Timer] = []


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what a step does if it takes longer than half a second and nothing else is printed."""
    _hush()
    notice = threading.Timer(QUIET_SECONDS, say, (f"{what} ...",))
    notice.daemon = True  # it must not keep a process that ends
    _waiting.append(notice)
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def _hush() -> None:
    """Drop the notices that wait to be printed: something else is said."""
    while _waiting:
        _waiting.pop().cancel()


def say(text: str, style: str = "") -> None:
    """Print a note on standard error, in the user's words; control characters are escaped."""
    _hush()
    console.print(Text("\n".join(map(printable, in_users_words(text).split("\n"))), style=style))


def show(text: str) -> None:
    """Print a result on standard output, in the user's words and wrapped at a terminal's width.

    Control characters are escaped.
    """
    _hush()
    lines = list(map(printable, in_users_words(text).split("\n")))
    if sys.stdout.isatty():  # a pipe gets whole lines
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in wrap(line, width)]
    print("\n".join(lines))


def wrap(line: str, width: int) -> list[str]:
    """Wrap a line that is too long between words, with the indentation of its start.

    >>> wrap("  one two three", 10)
    ['  one two', '  three']
    """
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Meter]:
    """Show a progress line; without a terminal, one line at the end, and none if there is nothing to do."""
    if total != 0:
        _hush()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        Position(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as bars:
        yield Meter(bars, title, total)


def follow(title: str, total: int, steps: Iterator[int]) -> None:
    """Run through steps, each the number of units done so far, with a progress line unless there is no step."""
    first = next(steps, None)
    if first is None:
        return
    with progress(title, total) as meter:
        meter.set(first)
        for done in steps:
            meter.set(done)


class Meter:
    """Moves one progress line. Any object with its three methods can replace it."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="", visible=total != 0)

    def advance(self, steps: int = 1) -> None:
        """Move on by some steps."""
        self._progress.advance(self._task, steps)

    def set(self, done: int) -> None:
        """Move to a position."""
        self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Show a short remark, literally, beside the bar."""
        self._progress.update(self._task, note=text)


class Position(MofNCompleteColumn):
    """Units done, and their total where it is known."""

    def render(self, task: Task) -> Text:
        """Return the numbers."""
        return super().render(task) if task.total is not None else Text(f"{int(task.completed):,}")
