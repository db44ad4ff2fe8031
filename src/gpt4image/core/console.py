"""Progress lines and notes on standard error, and results on standard output.

Only the first of several training processes writes to standard error.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from gpt4image.core.format import printable
from gpt4image.core.invocation import in_users_words

LOG_SECONDS = 60

# in a notebook rich would need widgets; plain lines need nothing
console = Console(stderr=True, highlight=False, force_jupyter=False, quiet=os.environ.get("RANK", "0") != "0")


QUIET_SECONDS = 0.5
"""Time after which a command without a terminal that has said nothing says what it is doing."""

_waiting: list[Callable[[], None]] = []  # takes back what steps say, or would say after a while


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show what a step does until it ends or something else is said.

    Without a terminal, say so only if it takes longer than half a second.
    """
    _hush()
    with ExitStack() as stack:
        if console.is_terminal:
            meter = Meter(stack.enter_context(_open_lines(transient=True)), what, None)
            stack.callback(meter.close, keep=False)
        else:
            notice = threading.Timer(QUIET_SECONDS, say, (f"{what} ...",))
            notice.daemon = True  # it must not keep a process that ends
            stack.callback(notice.cancel)
            notice.start()
        _waiting.append(stack.close)
        stack.callback(lambda: _waiting.remove(stack.close) if stack.close in _waiting else None)
        yield


def _hush() -> None:
    """Take back what steps say: something else is said."""
    while _waiting:
        _waiting.pop()()


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


def write(text: str) -> None:
    """Print text on standard output as it is: rows of a table, or a command to copy."""
    _hush()
    print(text)


def wrap(line: str, width: int) -> list[str]:
    """Wrap a line that is too long between words, with the indentation of its start.

    >>> wrap("  one two three", 10)
    ['  one two', '  three']
    """
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


OpenProgress = Callable[[int], AbstractContextManager["Meter"]]
"""Opens a progress line, given the number of units."""


@contextmanager
def progress(title: str, total: int | None = None, *, done: int = 0, part_of: Meter | None = None) -> Iterator[Meter]:
    """Show a progress line, below those that are open; without a terminal, one a minute and one at the end.

    Args:
        title: what is going on.
        total: number of units; no line is shown if nothing is to be done.
        done: units done before.
        part_of: line that moves on by one unit while this one moves from start to end.
    """
    if total != done:
        _hush()
    with _open_lines() as lines:
        meter = Meter(lines, title, total, done, part_of)
        try:
            yield meter
        finally:
            if len(_OPEN) > 1:
                meter.close(keep=True)


_OPEN: list[Progress] = []  # the block of lines on the screen, once for each nested use


@contextmanager
def _open_lines(transient: bool = False) -> Iterator[Progress]:
    """Open the block of progress lines, or join the open one: a terminal has room for one."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        Position(),
        Clock(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with ExitStack() as stack:
        if _OPEN:
            lines = _OPEN[-1]
        else:
            # standard output is not redirected, as results may go into a file; the period spans slow steps
            lines = Progress(
                *columns, console=console, transient=transient, redirect_stdout=False, speed_estimate_period=600
            )
            stack.enter_context(lines)
        _OPEN.append(lines)
        try:
            yield lines
        finally:
            _OPEN.pop()


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
    """Moves one progress line. Any object with the methods `advance`, `start`, `set` and `note` can replace it."""

    def __init__(
        self, lines: Progress, title: str, total: int | None, done: float = 0, part_of: Meter | None = None
    ) -> None:
        self._lines, self._title, self._total, self._done, self._part_of = lines, title, total, done, part_of
        self._before = part_of._done if part_of is not None else 0.0
        self._visible = total is None or total != done
        self._task = lines.add_task(title, total=total, completed=int(done), note="", visible=self._visible)
        self._logged = time.monotonic()

    def advance(self, units: float = 1) -> None:
        """Move on by some units."""
        self.set(self._done + units)

    def set(self, done: float) -> None:
        """Move to a position."""
        self._done = done
        self._lines.update(self._task, completed=done)
        if self._part_of is not None and self._total:
            self._part_of.set(self._before + done / self._total)
        self._log()

    def start(self, done: float) -> None:
        """Begin at a position that earlier work reached, which says nothing about the time that is left."""
        if done == self._done:
            return
        self._done = done
        self._lines.reset(self._task, completed=cast(int, done))  # any number will do
        if self._part_of is not None and self._total:
            self._part_of.start(self._before + done / self._total)

    def note(self, text: str) -> None:
        """Show a short remark, literally, beside the bar."""
        self._lines.update(self._task, note=text)

    def close(self, *, keep: bool) -> None:
        """Take the line out of the block; print it above if it is to be kept."""
        if keep and self._visible:
            console.print(self._lines.make_tasks_table([each for each in self._lines.tasks if each.id == self._task]))
        self._lines.remove_task(self._task)

    def _log(self) -> None:
        """Without a terminal, print the position once a minute."""
        if not console.is_terminal and time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            say(f"{self._title}: {self._done:,.0f}" + (f" of {self._total:,}" if self._total else ""))


class Position(MofNCompleteColumn):
    """Units done, and their total where it is known."""

    def render(self, task: Task) -> Text:
        """Return the numbers; nothing for a step that counts none."""
        if task.total is None:
            return Text(f"{int(task.completed):,}" if task.completed else "")
        return super().render(task)


class Clock(TimeRemainingColumn):
    """Time that is left; the time so far, where the total is not known."""

    def render(self, task: Task) -> Text:
        """Return the time."""
        if task.total is not None:
            return super().render(task)
        return Text(str(timedelta(seconds=int(task.elapsed or 0))), style="progress.elapsed")
