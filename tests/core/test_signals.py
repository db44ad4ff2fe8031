"""Requests to stop: counted, obeyed later, and the old handlers restored."""

import asyncio
import os
import signal
import threading
from functools import partial

import pytest

from gpt4image.core.signals import STOP_SIGNALS, catch_stop_signals


@pytest.fixture(autouse=True)
def interrupts_are_not_ignored():
    """A shell starts background jobs with SIGINT ignored, also the one that runs these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


def test_signals_are_counted_and_the_old_handlers_restored():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with catch_stop_signals() as stop:
        assert not stop
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop and stop.count == 2
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_first_only_lets_the_second_signal_act():
    seen = []
    with pytest.raises(KeyboardInterrupt), catch_stop_signals(partial(seen.append, 1), first_only=True) as stop:
        send(signal.SIGINT)
        assert stop and seen == [1]
        send(signal.SIGINT)
        raise AssertionError("the second signal must break in")
    assert seen == [1]


def test_signal_wakes_a_waiting_event_loop():
    async def wait() -> int:
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        with catch_stop_signals(partial(loop.call_soon_threadsafe, asked.set)) as stop:
            threading.Timer(0.2, send, [signal.SIGTERM]).start()
            await asyncio.wait_for(asked.wait(), timeout=20)
            return stop.count

    assert asyncio.run(wait()) == 1


def test_other_threads_leave_signals_alone():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    found = []

    def look():
        with catch_stop_signals() as stop:
            found.append((bool(stop), [signal.getsignal(number) for number in STOP_SIGNALS]))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, before)]
