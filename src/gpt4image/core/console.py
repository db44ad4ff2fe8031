"""Notes, progress lines and results.

A note is a record of the standard `logging`, under `gpt4image`. A Python program can handle it like any other record;
the command line prints it on standard error (`command_output`), where progress lines are drawn too. Results go to
standard output, as text or as one JSON object. Only the first of several training processes writes anything.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from gpt4image.core.format import duration, printable, wrap, wrap_command
from gpt4image.core.invocation import NAME, in_users_words

LOG_SECONDS = 60
WIDE = 100  # columns of a terminal that has room for bars
LEVELS = {"": logging.INFO, "yellow": logging.WARNING, "red": logging.ERROR}

# In a notebook rich draws with ipywidgets and warns if they are missing; plain text needs none.
_has_widgets = "ipykernel" in sys.modules and find_spec("ipywidgets") is not None
console = Console(stderr=True, highlight=False, force_jupyter=_has_widgets, quiet=os.environ.get("RANK", "0") != "0")


@dataclass
class Output:
    """What is shown besides `logging` records.

    Attributes:
        progress: whether progress lines are drawn in a terminal or notebook.
        json: whether the result is a JSON object in place of text.
        results: where results go, if not to standard output.
    """

    progress: bool = True
    json: bool = False
    results: TextIO | None = None


_output = Output()


def show_progress(on: bool) -> None:
    """Turn progress lines on or off for all later calls. Notes are `logging` records either way."""
    _output.progress = on


def is_drawn() -> bool:
    """Whether progress is drawn; otherwise it is logged."""
    return _output.progress and (console.is_terminal or console.is_jupyter)


@contextmanager
def command_output(*, json: bool = False, quiet: bool = False) -> Iterator[None]:
    """Print notes on standard error, as the command line does.

    Args:
        json: print the result as one JSON object (`result`) in place of text.
        quiet: print warnings and errors only, and no progress.
    """
    global _output  # noqa: PLW0603 - the process has one standard output
    logger, before = logging.getLogger(NAME), _output
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_ConsoleHandler()], False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    _output = Output(progress=not quiet, json=json)
    try:
        yield
    finally:
        _hush()
        _output = before
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@contextmanager
def only_results() -> Iterator[None]:
    """Keep standard output for results: what libraries print goes to standard error, or nowhere without progress."""
    with ExitStack() as stack:
        elsewhere = sys.stderr if _output.progress else stack.enter_context(Path(os.devnull).open("w"))
        _output.results = sys.stdout
        stack.callback(setattr, _output, "results", None)
        stack.enter_context(redirect_stdout(elsewhere))
        yield


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return (_output.results or sys.stdout).isatty()


class _ConsoleHandler(logging.Handler):
    """Prints records on standard error; progress lines stay below them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record in the colour of its level."""
        style = next((style for style, level in reversed(LEVELS.items()) if record.levelno >= level), "dim")
        console.print(Text(self.format(record), style=style))


QUIET_SECONDS = 0.5
"""Seconds of silence after which a command without a terminal says what it is doing."""

_waiting: list[Callable[[], None]] = []  # removes what steps show, or would show after a while


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show what a step does until it ends or another note is printed.

    Without a terminal, say so only if it takes longer than half a second.
    """
    _hush()
    with ExitStack() as stack:
        if is_drawn():
            meter = Meter(stack.enter_context(_open_lines(transient=True)), what, None)
            stack.callback(meter.close, keep=False)
        else:
            notice = threading.Timer(QUIET_SECONDS, say, (f"{what} ...",))
            notice.daemon = True  # it must not keep the process alive
            stack.callback(notice.cancel)
            notice.start()
        _waiting.append(stack.close)
        stack.callback(lambda: _waiting.remove(stack.close) if stack.close in _waiting else None)
        yield


def _hush() -> None:
    """Remove what steps show, because another note is about to be printed."""
    while _waiting:
        _waiting.pop()()


def say(text: str, style: str = "") -> None:
    """Log a note under the calling module's name, in the user's words and with control characters escaped.

    Args:
        text: the note.
        style: "" for information, "yellow" for a warning, "red" for an error.
    """
    _hush()
    caller = str(sys._getframe(1).f_globals.get("__name__"))
    logger = logging.getLogger(caller if caller.startswith(f"{NAME}.") else NAME)
    logger.log(LEVELS[style], "\n".join(_escaped_lines(text)), stacklevel=2)


def show(text: str) -> None:
    """Print a result on standard output, in the user's words and wrapped at the terminal's width, or 80 columns.

    Control characters are escaped.
    """
    width = shutil.get_terminal_size().columns  # of the variable COLUMNS, if it is set
    write("\n".join(part for line in _escaped_lines(text) for part in wrap(line, width)))


def write(text: str) -> None:
    """Print text on standard output as it is: rows of a table, or a command to copy."""
    _hush()
    if not _output.json and not console.quiet:
        print(text, file=_output.results)


def write_command(command: str) -> None:
    """Print a command to copy, indented; long ones continue on further lines, as shells read them."""
    write(wrap_command(command, shutil.get_terminal_size().columns))


def result(**fields: object) -> None:
    """Print a command's result as one JSON object on a line, if the user wants that in place of text (`--json`).

    Records, dataclasses and paths become objects and strings, non-finite numbers become null.
    """
    _hush()
    if _output.json and not console.quiet:
        from pydantic_core import to_jsonable_python

        found = to_jsonable_python(fields, inf_nan_mode="null", fallback=lambda array: array.tolist())
        print(json.dumps(found), file=_output.results)


def ask(question: str) -> str:
    """Ask the user, on standard error, and return the answer."""
    _hush()
    console.print(Text("\n".join(_escaped_lines(question))), end="")
    return input().strip()


def _escaped_lines(text: str) -> list[str]:
    """Return the lines of a text in the user's words, with control characters escaped."""
    return list(map(printable, in_users_words(text).split("\n")))


OpenProgress = Callable[[int], AbstractContextManager["Meter"]]
"""Opens a progress line for a number of units."""


@contextmanager
def progress(
    title: str, total: int | None = None, *, done: int = 0, part_of: Meter | None = None, remark: str = ""
) -> Iterator[Meter]:
    """Show a progress line below the open ones. Where none is drawn, log the position once a minute and at the end.

    Args:
        title: what is being done.
        total: number of units; no line is shown if there is nothing to do.
        done: units that were already done.
        part_of: line of which this one is a single unit; several lines may run in parallel.
        remark: shown after the title until the line ends.
    """
    if total != done:
        _hush()
    with _open_lines() as lines:
        meter = Meter(lines, title, total, done, part_of, remark)
        try:
            yield meter
        finally:
            meter.settle()
            if len(_OPEN) > 1 or not is_drawn():
                meter.close(keep=True)


_OPEN: list[Progress] = []  # the block of lines on the screen, once for each nested use


@contextmanager
def _open_lines(transient: bool = False) -> Iterator[Progress]:
    """Open the block of progress lines, or join the open one: a terminal has room for one.

    On a narrow terminal there is no bar, and titles and notes wrap; numbers are never cut.
    """
    parts = (
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        *([BarColumn(bar_width=12)] if console.width >= WIDE else []),
        Position(table_column=Column(no_wrap=True)),
        Clock(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(overflow="fold")),
    )
    with ExitStack() as stack:
        if _OPEN:
            lines = _OPEN[-1]
        else:
            # standard output is not redirected, because results may go to a file; the period spans slow steps
            lines = Progress(
                *parts,
                console=console,
                transient=transient,
                redirect_stdout=False,
                speed_estimate_period=600,
                disable=not is_drawn(),
            )
            if is_drawn():  # older versions of rich print a blank line even if disabled
                stack.enter_context(lines)
        _OPEN.append(lines)
        try:
            yield lines
        finally:
            _OPEN.pop()


def follow(title: str, total: int, steps: Iterator[int]) -> None:
    """Consume `steps`, each the number of units done so far, with a progress line if there are any."""
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
        self,
        lines: Progress,
        title: str,
        total: int | None,
        done: float = 0,
        part_of: Meter | None = None,
        remark: str = "",
    ) -> None:
        self._lines, self._title, self._total, self._done, self._part_of = lines, title, total, done, part_of
        self._note = ""
        self._parts: dict[Meter, float] = {}  # the share of a unit that each open part has done
        self._visible = total is None or total != done
        self._task = lines.add_task(title + remark, total=total, completed=int(done), note="", visible=self._visible)
        self._began = self._logged = time.monotonic()

    def advance(self, units: float = 1) -> None:
        """Advance by some units."""
        self.set(self._done + units)

    def set(self, done: float) -> None:
        """Move to a position."""
        self._done = done
        self._lines.update(self._task, completed=self._place)
        if whole := self._tell_whole():
            whole.advance(0)
        self._log()

    def start(self, done: float) -> None:
        """Begin at a position that earlier work reached; it does not count towards the remaining time."""
        if done != self._done:
            self._done = done
            self._restart()

    def skip(self, units: float = 1) -> None:
        """Skip units that are already done."""
        self.start(self._done + units)

    def _restart(self) -> None:
        self._lines.reset(self._task, completed=cast(int, self._place))  # any number will do
        if whole := self._tell_whole():
            whole._restart()

    @property
    def _place(self) -> float:
        return self._done + sum(self._parts.values())

    def _tell_whole(self) -> Meter | None:
        """Pass the position on to the parent line, and return that line."""
        if self._part_of is not None and self._total:
            self._part_of._parts[self] = self._done / self._total
            return self._part_of
        return None

    def note(self, text: str) -> None:
        """Show a short remark, literally, beside the bar."""
        self._note = text
        self._lines.update(self._task, note=text)

    def settle(self) -> None:
        """Remove the remark after the title, because the line is finished."""
        self._lines.update(self._task, description=self._title)

    def close(self, *, keep: bool) -> None:
        """Take the line out of the block; print it above if it is to be kept."""
        if keep and self._visible and is_drawn():
            console.print(self._lines.make_tasks_table([each for each in self._lines.tasks if each.id == self._task]))
        elif keep and self._visible:
            note = f", {self._note}" if self._note else ""
            say(f"{self._position()}{note} ({duration(time.monotonic() - self._began)})")
        self._lines.remove_task(self._task)
        if self._part_of is not None:
            self._part_of._done += self._part_of._parts.pop(self, 0.0)

    def _log(self) -> None:
        """Log the position once a minute if nothing is drawn."""
        if not is_drawn() and time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            say(self._position())

    def _position(self) -> str:
        place = self._place
        done = f"{place:,.0f} of {self._total:,}" if self._total else f"{place:,.0f}" if place else ""
        return f"{self._title}: {done}" if done else self._title


class Position(MofNCompleteColumn):
    """Units done, and their total where it is known."""

    def render(self, task: Task) -> Text:
        """Return the numbers, or nothing for a step without a count."""
        if task.total is None:
            return Text(f"{int(task.completed):,}" if task.completed else "")
        return super().render(task)


class Clock(TimeRemainingColumn):
    """Remaining time, or the elapsed time if the total is unknown."""

    def render(self, task: Task) -> Text:
        """Return the time."""
        if task.total is not None:
            return super().render(task)
        return Text(str(timedelta(seconds=int(task.elapsed or 0))), style="progress.elapsed")
