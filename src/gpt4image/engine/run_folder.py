"""The folder of one run on an engine: what its workers say of themselves, their locks and their logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gpt4image.describe.workers import worker_lock
from gpt4image.files import read_json, write_json


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
