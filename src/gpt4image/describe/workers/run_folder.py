"""The folder of one run on an engine: what its workers say of themselves, their locks and their logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gpt4image.core.console import say
from gpt4image.core.errors import BusyError
from gpt4image.core.files import exclusive, read_json, write_json
from gpt4image.core.options import DataOptions, DescribeOptions
from gpt4image.describe.tally import Tally
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.records import DescriptionRecord


def workers_folder(store: DescriptionStore) -> Path:
    """Where every run on an engine has a folder of its own."""
    return store.folder / "workers"


def worker_lock(run: Path, rank: int) -> Path:
    """Lock that a worker of a run holds while it is at work."""
    return run / f"{rank}.lock"


def wait_for_workers(store: DescriptionStore, but: Path | None = None) -> None:
    """Wait until no worker is at work.

    Args:
        store: what they write to.
        but: folder of a run whose workers may go on.
    """
    for lock in sorted(workers_folder(store).glob("*/*.lock")):
        if lock.parent == but:
            continue
        try:
            with exclusive(lock, "descriptions"):
                pass
        except BusyError:
            say(f"Waiting for a worker of an earlier run to end ({lock} is locked).")
            with exclusive(lock, "descriptions", wait=True):
                pass


@dataclass(frozen=True)
class WorkerState:
    """What a worker says of itself.

    Attributes:
        state: it is at work, has done its share, was asked to stop, or cannot go on.
        pid: its process.
        host: its machine.
        parts: paths of the parts that it and those before it in its place have written.
        tried_again: calls that were made again.
        uncounted: calls whose tokens the server did not count.
        kept: US dollars paid before the run for conversations of its share that go on in it.
        stopped: why its share is not done although it has ended; empty when it is.
        message: why it cannot go on.
    """

    state: Literal["working", "done", "stopped", "failed"] = "working"
    pid: int = 0
    host: str = ""
    parts: Sequence[str] = ()
    tried_again: int = 0
    uncounted: int = 0
    kept: float = 0.0
    stopped: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will do no more."""
        return self.state != "working"


@dataclass(frozen=True)
class RunFolder:
    """Layout of a run's folder.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @property
    def datatrove_log(self) -> Path:
        """What datatrove says in the process that started the run."""
        return self.folder / "datatrove.log"

    def datatrove(self, rank: int | None = None) -> Path:
        """Where datatrove keeps logs and statistics, of a single worker or of all."""
        return self.folder / "datatrove" / ("all" if rank is None else str(rank))

    def lock(self, rank: int) -> Path:
        """What a worker holds while it is at work."""
        return worker_lock(self.folder, rank)

    def log(self, rank: int) -> Path:
        """What a worker prints, and what has gone wrong in it."""
        return self.folder / f"{rank}.log"

    def _state(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"

    def read(self, rank: int) -> WorkerState:
        """What a worker has said last; it counts as working until it says something else."""
        path = self._state(rank)
        return WorkerState(**read_json(path)) if path.exists() else WorkerState()

    def update(self, rank: int, **changes: Any) -> WorkerState:  # noqa: ANN401 - fields of the state
        """Have a worker, which holds its lock, say something new."""
        state = replace(self.read(rank), **changes)
        write_json(self._state(rank), asdict(state))
        return state

    @property
    def _stop(self) -> Path:
        return self.folder / "stop"

    def ask_to_stop(self) -> None:
        """Have all workers end as soon as the requests under way have."""
        self._stop.touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether the workers are to end."""
        return self._stop.exists()


@dataclass(frozen=True)
class Order:
    """What every worker is told: plain settings, which may end in logs and pickles. No key is among them.

    Attributes:
        data: the images.
        options: who describes them; what may be under way at once is one worker's share.
        work: the work directory, absolute, on a file system that all workers share.
        run: folder of the run in it.
        home: the directory that other paths are relative to.
        dollars: what a worker may spend; None for no limit.
        launcher: process that started the workers and that they end with; None for whatever process starts them.
        alone: whether nobody holds the store for the workers while they are at work.
    """

    data: DataOptions
    options: DescribeOptions
    work: Path
    run: Path
    home: Path
    dollars: float | None = None
    launcher: int | None = None
    alone: bool = False


class Tail:
    """Reads the records that are added to a part, each once.

    Args:
        part: a part that grows by lines; it need not be there yet, or any more.
    """

    def __init__(self, part: Path) -> None:
        self._part, self._place = part, 0

    def new(self) -> Iterator[DescriptionRecord]:
        """Records that were added since the last time."""
        if not self._part.exists():
            return
        with self._part.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):  # in the making
                    return
                self._place += len(line)
                try:
                    record = DescriptionRecord(**json.loads(line))
                except (ValueError, TypeError):  # damaged: the store leaves it out too
                    continue
                yield record


class Watch:
    """Adds up what the workers of a run write.

    Args:
        run: the run's folder.
        workers: how many there are.
        total: tasks of all of them.

    Attributes:
        tally: what they have done.
        failure: why the first of them that cannot go on cannot; empty while all can.
    """

    def __init__(self, run: RunFolder, workers: int, total: int) -> None:
        self.tally, self.failure = Tally(total), ""
        self._run, self._workers = run, workers
        self._tails: dict[str, Tail] = {}
        self._start = time.monotonic()

    def look(self) -> None:
        """Read what is new."""
        states = [self._run.read(rank) for rank in range(self._workers)]
        for part in (part for state in states for part in state.parts):
            for record in self._tails.setdefault(part, Tail(Path(part))).new():
                self.tally.add(record)
        self.tally.seconds = time.monotonic() - self._start
        self.tally.tried_again = sum(state.tried_again for state in states)
        self.tally.uncounted = sum(state.uncounted for state in states)
        self.tally.stopped = next((state.stopped for state in states if state.stopped), "")
        self.failure = next((state.message for state in states if state.state == "failed"), "")

    def unfinished(self) -> list[int]:
        """Workers that have not said that they have ended."""
        return [rank for rank in range(self._workers) if not self._run.read(rank).ended]

    def note(self) -> str:
        """What stands beside the progress line."""
        at_work = sum(bool(self._run.read(rank).pid) for rank in self.unfinished())
        return self.tally.note() + (f", {at_work} at work" if at_work else "")
