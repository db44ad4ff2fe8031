"""Ending a job early: by a signal, by taking its calls back, or because it leads nowhere."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpt4image.describe.runner.tally import Tally
from gpt4image.errors import DescribeError


async def cancel(tasks: set[asyncio.Task[None]]) -> None:
    """End tasks, and wait until they have."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM in place of dying; outside the main thread signals are left alone."""
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def hopeless(in_a_row: int, tally: Tally, last: Exception) -> DescribeError:
    """Why a job ends in which everything fails."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.failures.most_common(3))
    return DescribeError(
        f"{in_a_row:,} descriptions in a row have failed ({reasons}), the last one with: {last}. Mend that, and try "
        "them again: --retry-failed."
    )


def standstill(seconds: float) -> DescribeError:
    """Why a job ends in which nothing moves any more."""
    return DescribeError(
        f"The servers have pushed everything back for {seconds:.0f} s. What was answered is kept: give the same "
        "command again later."
    )
