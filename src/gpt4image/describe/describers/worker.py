"""One thread for work that would hold up an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
Tasks = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class Worker:
    """Does what it is told in a thread of its own, in order.

    The thread starts with the first task and ends with `stop`. It holds up no process that wants to end.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: Tasks = SimpleQueue()
        self._thread: Thread | None = None

    async def do(self, task: Callable[[], T]) -> T:
        """Run `task` in the thread; returns and raises what it does. Cancelled, it runs on once it has begun."""
        if self._thread is None:
            self._tasks = SimpleQueue()
            self._thread = Thread(target=run_tasks, args=(self._tasks,), name=self._name, daemon=True)
            self._thread.start()
        result: Future[T] = Future()
        self._tasks.put((result, task))
        return await asyncio.wrap_future(result)

    async def stop(self, last: Callable[[], None], seconds: float) -> None:
        """Have the thread do a last task and end; when that takes longer than some seconds it is left to itself."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._tasks.put((Future(), last))
        self._tasks.put(None)
        await asyncio.to_thread(thread.join, seconds)


def run_tasks(tasks: Tasks) -> None:
    """Do one task after the other until None comes."""
    while (given := tasks.get()) is not None:
        result, task = given
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(task())
            except BaseException as error:  # it belongs to whoever waits for the task
                result.set_exception(error)
        del given, result, task  # what they hold is let go before the next task comes
