"""The folder of a run with workers: their order, reports, locks and logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt4image.core.console import say
from gpt4image.core.errors import BusyError
from gpt4image.core.files import exclusive
from gpt4image.core.options import DataOptions
from gpt4image.core.record import Record
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.tally import Tally
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.records import DescriptionRecord


@dataclass(frozen=True)
class Order:
    """The launcher's instructions to every worker: settings without keys, because they may end up in logs and pickles.

    Attributes:
        data: the images.
        options: the user's settings, with one worker's share of the concurrency.
        work: the work directory, absolute, on a file system that all workers share.
        run: folder of the run in it.
        home: directory that relative paths start from.
        dollars: budget of one worker; None for no limit.
        launcher: id of the process whose end stops the workers; None for each worker's parent.
        alone: whether the workers lock the store themselves, as with Slurm, where no launcher waits for them.
        confused: labels of the classes that each class is confused with, by label. The launcher looks them up once.
    """

    data: DataOptions
    options: DescribeOptions
    work: Path
    run: Path
    home: Path
    dollars: float | None = None
    launcher: int | None = None
    alone: bool = False
    confused: Mapping[int, tuple[int, ...]] | None = None


class WorkerState(Record):
    """What a worker reports.

    Attributes:
        state: whether it is working, has finished its shard, was asked to stop, or cannot continue.
        pid: its process.
        host: its machine.
        parts: record files written by this worker and by killed predecessors in its place.
        tried_again: retries.
        uncounted: requests whose tokens the server did not count.
        kept: US dollars paid before the run for conversations that it resumes.
        stopped: why it ended before its shard was finished; empty if it finished.
        message: why it cannot continue.
    """

    state: Literal["working", "done", "stopped", "failed"] = "working"
    pid: int = 0
    host: str = ""
    parts: tuple[str, ...] = ()
    tried_again: int = 0
    uncounted: int = 0
    kept: float = 0.0
    stopped: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
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
        """Messages of datatrove in the launcher."""
        return self.folder / "datatrove.log"

    def datatrove(self, rank: int | None = None) -> Path:
        """Return the folder of datatrove's logs and statistics, of one worker or of all."""
        return self.folder / "datatrove" / ("all" if rank is None else str(rank))

    def lock(self, rank: int) -> Path:
        """Return the lock that a worker holds while it runs."""
        return self.folder / f"{rank}.lock"

    def log(self, rank: int) -> Path:
        """Return the log of a worker: its output, and the traceback of a crash."""
        return self.folder / f"{rank}.log"

    def _state(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"

    def read(self, rank: int) -> WorkerState:
        """Return a worker's last report. A worker without one counts as working."""
        path = self._state(rank)
        return WorkerState.load(path) if path.exists() else WorkerState()

    def update(self, rank: int, **changes: Any) -> WorkerState:  # noqa: ANN401 - fields of the state
        """Change a worker's report; only for the process that holds the worker's lock."""
        state = self.read(rank).model_copy(update=changes)
        state.save(self._state(rank))
        return state

    def ask_to_stop(self) -> None:
        """Ask all workers to end after their open requests."""
        (self.folder / "stop").touch()

    @property
    def asked_to_stop(self) -> bool:
        """Whether the workers should end."""
        return (self.folder / "stop").exists()


def workers_folder(store: DescriptionStore) -> Path:
    """Return the folder that holds every run's folder."""
    return store.folder / "workers"


def wait_for_workers(store: DescriptionStore, but: Path | None = None) -> None:
    """Wait until no worker writes to a store.

    Args:
        store: the store.
        but: folder of a run whose workers are not waited for.
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


class Tail:
    """Reads new records from a growing file, each once.

    Args:
        path: the file; it may not exist yet, or no longer.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read_new(self) -> Iterator[DescriptionRecord]:
        """Yield the records added since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._offset += len(line)
                try:
                    record = DescriptionRecord(**json.loads(line))
                except (ValueError, TypeError):  # damaged; the store skips it too
                    continue
                yield record


class RunMonitor:
    """Adds up the counts of all workers.

    Args:
        run: the run's folder.
        workers: number of workers.
        total: tasks of all workers.

    Attributes:
        tally: counts over all workers.
        failure: why a worker cannot continue; empty if all can.
    """

    def __init__(self, run: RunFolder, workers: int, total: int) -> None:
        self.tally, self.failure = Tally(total), ""
        self._run, self._ranks = run, range(workers)
        self._tails: dict[str, Tail] = {}
        self._kept = 0.0  # US dollars in the records that were paid before the run
        self._start = time.monotonic()

    def update(self) -> None:
        """Read what is new."""
        states = [self._run.read(rank) for rank in self._ranks]
        for path in (path for state in states for path in state.parts):
            for record in self._tails.setdefault(path, Tail(Path(path))).read_new():
                self.tally.add(record)
        kept = sum(state.kept for state in states if state.state == "done" and not state.stopped)
        self.tally.cost, self._kept = self.tally.cost + self._kept - kept, kept
        self.tally.seconds = time.monotonic() - self._start
        self.tally.tried_again = sum(state.tried_again for state in states)
        self.tally.uncounted = sum(state.uncounted for state in states)
        self.tally.stopped = next((state.stopped for state in states if state.stopped), "")
        self.failure = next((state.message for state in states if state.state == "failed"), "")

    def unfinished(self) -> list[int]:
        """Return the workers that have not reported an end."""
        return [rank for rank in self._ranks if not self._run.read(rank).ended]

    def working(self) -> str:
        """Return the number of running workers, as the end of a progress note."""
        running = sum(bool(self._run.read(rank).pid) for rank in self.unfinished())
        return f", {running} working" if running else ""
