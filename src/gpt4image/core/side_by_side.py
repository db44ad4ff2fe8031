"""Run calls in other processes, several at a time; results, progress lines and warnings come back to this process."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, Gpt4ImageError, TrainingError
from gpt4image.core.invocation import NAME
from gpt4image.core.memory import keep_freed_memory
from gpt4image.core.signals import catch_stop_signals

PATIENCE = 10.0  # seconds to wait for an idle process to end
STOPPING = "Stopping after this step. Press Ctrl-C again to stop at once."


@dataclass(frozen=True)
class Task:
    """A call in another process.

    Attributes:
        key: identifies the task to the caller.
        title: description for messages, such as `training described, seed 0`.
        function: a module-level function; it is sent by name, with arguments and result pickled.
        arguments: its arguments.
        progress: opens its progress line on request; the function then gets a `console.OpenProgress` as a further
            argument.
    """

    key: Any
    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    progress: Callable[[], console.OpenProgress] | None = None


class SideBySide:
    """A pool of processes that make one call each at a time.

    They start with the first task and end with this object, or at once if this process is killed. Requests to stop
    (Ctrl-C, SIGTERM) are passed on to them.

    Args:
        count: number of processes.
        threads: threads per process.
        preload: modules that are imported once and shared, where the operating system can fork.

    Attributes:
        count: see above.
        threads: likewise.
    """

    def __init__(self, count: int, threads: int, preload: Sequence[str] = ()) -> None:
        self.count, self.threads = count, threads
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(list(preload))
        self._tasks: deque[Task] = deque()
        self._workers: list[_Worker] = []

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end(at_once=error is not None)

    @property
    def waiting(self) -> int:
        """Number of tasks that have not started."""
        return len(self._tasks)

    def submit(self, task: Task) -> None:
        """Put a task at the end of the queue."""
        self._tasks.append(task)

    def finished(self) -> Iterator[tuple[Task, Any]]:
        """Run the tasks and yield each with its result as it ends; tasks submitted meanwhile are run as well.

        Raises:
            KeyboardInterrupt: the user wants to stop, and all calls have ended.
            TrainingError: a process was killed, or a call failed with an error that cannot be pickled. Other errors of
                a call are raised here after the remaining calls have ended.
        """
        failure: BaseException | None = None
        with catch_stop_signals(self._pass_on, first_only=True) as stop:
            while True:
                while self._tasks and not (stop or failure) and (worker := self._free_worker()):
                    worker.begin(self._tasks.popleft())
                if stop or failure:  # a process may have got its task while the request came
                    self._ask_to_stop()
                busy = {worker.connection: worker for worker in self._workers if worker.task}
                if not busy:
                    break
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]
                    task = worker.task
                    try:
                        ended = worker.receive()
                    except Exception as error:
                        if failure is None and not stop:
                            failure = error
                            self._ask_to_stop()
                        continue
                    if ended and task and failure is None and not stop:
                        yield task, worker.result
            if failure is not None:
                raise failure
            if stop:
                raise KeyboardInterrupt

    def _free_worker(self) -> _Worker | None:
        """Return an idle process; start one if all are busy and the pool is not full."""
        self._workers = [worker for worker in self._workers if not worker.is_gone]
        free = next((worker for worker in self._workers if worker.task is None), None)
        if free is None and len(self._workers) < self.count:
            free = _Worker(self._context, self.threads)
            self._workers.append(free)
        return free

    def _pass_on(self) -> None:
        console.say(STOPPING)
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        for worker in self._workers:
            worker.ask_to_stop()


@dataclass
class _Worker:
    """This side of a process.

    Attributes:
        context: starts it.
        threads: its threads.
        task: what it does; None while it waits.
        result: the last result.
        is_gone: whether the process has ended.
        is_asked: whether it was asked to stop.
    """

    context: Any
    threads: int
    task: Task | None = None
    result: Any = None
    is_gone: bool = False
    is_asked: bool = False
    connection: Connection = field(init=False)
    _lines: ExitStack = field(default_factory=ExitStack)
    _meter: console.Meter | None = None

    def __post_init__(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(theirs, self.threads))
        self.process.start()
        theirs.close()  # so that this process notices when that one ends

    def begin(self, task: Task) -> None:
        """Send a task."""
        call = (task.function, task.arguments, task.progress is not None)
        try:
            message = pickle.dumps(call)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(f"{task.title} cannot be pickled for another process: {error}.") from error
        try:
            self.connection.send_bytes(message)
        except ConnectionError:
            raise self._killed(task.title) from None
        self.task = task

    def receive(self) -> bool:
        """Handle a message; return whether the task has ended with a result.

        Raises:
            Exception: that of the call; TrainingError if the process was killed.
        """
        assert self.task is not None
        try:
            kind, value = pickle.loads(self.connection.recv_bytes())  # noqa: S301 - from a process of our own
        except (EOFError, ConnectionError):
            title = self.task.title
            self._close()
            raise self._killed(title) from None
        match kind:
            case "log":
                console.say(*value)
            case "open":
                assert self.task.progress is not None
                self._meter = self._lines.enter_context(self.task.progress()(value))
            case "set" | "start" | "note":
                getattr(self._meter, kind)(value)
            case _:
                self._close()
                if kind == "error":
                    raise value
                self.result = value
                return True
        return False

    def ask_to_stop(self) -> None:
        """Ask the task, if there is one, to stop. Ask once: on a second request it would stop without a checkpoint."""
        if self.task is not None and not self.is_asked:
            self.is_asked = True
            self.process.terminate()

    def _close(self) -> None:
        self.task, self._meter = None, None
        self._lines.close()

    def _killed(self, title: str) -> TrainingError:
        """Return the error for a process that has died."""
        self.is_gone = True
        self.process.join(PATIENCE)
        status = self.process.exitcode or 0
        how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        advice = "If it ran out of memory, lower runs_at_once (--runs-at-once). The same command resumes."
        return TrainingError(f"The process for {title} {how}. {advice}")

    def end(self, *, at_once: bool) -> None:
        """End the process."""
        self._close()
        self.connection.close()  # an idle process ends by itself
        if not at_once:
            self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _serve(connection: Connection, threads: int) -> None:
    """Make calls until the other side is closed."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the main process only, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_threads(threads)
    keep_freed_memory()
    console.show_progress(False)
    logger = logging.getLogger(NAME)
    logger.handlers, logger.propagate = [_Forward(connection)], False
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        connection.send_bytes(_call(message, connection))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _limit_threads(threads: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(threads)  # for libraries that are loaded later
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def _call(message: bytes, connection: Connection) -> bytes:
    """Make the call of a message and return the answer."""
    try:
        function, arguments, has_progress = pickle.loads(message)  # noqa: S301 - from the process that started this one
        result = function(*arguments, *([_Lines(connection)] if has_progress else []))
        return pickle.dumps(("result", result))
    except KeyboardInterrupt:
        return _pickled_error(TrainingError("A process was asked to stop. The same command resumes."))
    except BaseException as error:
        if not isinstance(error, Gpt4ImageError):
            error.add_note(f"In another process:\n{traceback.format_exc()}")
        return _pickled_error(error)


def _pickled_error(error: BaseException) -> bytes:
    """Pickle an error, or only its message if the error cannot be restored from the pickle."""
    try:
        message = pickle.dumps(("error", error))
        pickle.loads(message)  # noqa: S301 - just written
    except Exception:
        return pickle.dumps(("error", TrainingError(str(error))))
    return message


@dataclass
class _Lines:
    """Opens progress lines on the other side; stands for `console.OpenProgress`."""

    connection: Connection

    def __call__(self, total: int) -> AbstractContextManager[Any]:
        return self._open(total)

    @contextmanager
    def _open(self, total: int) -> Iterator[_Line]:
        self.connection.send_bytes(pickle.dumps(("open", total)))
        yield _Line(self.connection)


@dataclass
class _Line:
    """Moves a progress line on the other side; stands for `console.Meter`."""

    connection: Connection
    _done: float = 0.0

    def advance(self, units: float = 1) -> None:
        self.set(self._done + units)

    def set(self, done: float) -> None:
        self._done = done
        self._send("set", done)

    def start(self, done: float) -> None:
        self._done = done
        self._send("start", done)

    def note(self, text: str) -> None:
        self._send("note", text)

    def _send(self, kind: str, value: float | str) -> None:
        self.connection.send_bytes(pickle.dumps((kind, value)))


class _Forward(logging.Handler):
    """Sends warnings and errors to the other side."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else "yellow"
        self._connection.send_bytes(pickle.dumps(("log", (self.format(record), style))))
