"""Stopping a training between two steps, so that nothing of what was done is done again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpt4image import console


@contextmanager
def stop_between_steps() -> Iterator[threading.Event]:
    """Have the first SIGINT or SIGTERM set an event in place of breaking in; the second one does what it always does.

    Outside the main thread, which alone gets signals, they are left alone.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        give_back()
        console.say("Stopping after this step. Once more to stop at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield asked
    finally:
        give_back()
