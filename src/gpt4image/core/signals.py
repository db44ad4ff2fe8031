"""SIGINT and SIGTERM as requests to stop, which a run obeys at the next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Number of requests to stop; true once there is one."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0


@contextmanager
def catch_stop_signals(
    on_signal: Callable[[], object] = lambda: None, *, first_only: bool = False
) -> Iterator[StopRequests]:
    """Count SIGINT and SIGTERM instead of letting them end the process; restore the old handlers at the end.

    Only the main thread receives signals; in other threads nothing is caught, and the count stays 0.

    Args:
        on_signal: called at each signal, between two bytecodes of the main thread. An asyncio program passes
            `partial(loop.call_soon_threadsafe, callback)`, which also wakes a waiting loop.
        first_only: restore the old handlers at the first signal, so that a second one takes effect at once.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def handle(number: int, frame: FrameType | None) -> None:
        requests.count += 1
        if first_only:
            restore()
        on_signal()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield requests
    finally:
        restore()
