"""Functions that tests call in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gpt4image.core.console import OpenProgress, say
from gpt4image.core.side_by_side import SideBySide, Task


def count_up(total: int, progress: OpenProgress) -> int:
    """Count with a progress line and a warning."""
    with progress(total) as meter:
        meter.start(1)
        for _ in range(total - 1):
            meter.advance()
        meter.note("counted")
    say(f"Counted to {total}.", "yellow")
    say("This is no warning.")
    return total


def hold_a_call(path: Path) -> None:
    """Start a call that never ends."""
    with SideBySide(1, 1) as processes:
        processes.submit(Task(None, "waiting", write_pid_and_wait, (path,)))
        list(processes.finished())


def write_pid_and_wait(path: Path) -> None:
    path.write_text(str(os.getpid()))
    signal.pause()
