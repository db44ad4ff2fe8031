"""What is known of batches under way, on disk before every step that cannot be taken back."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

import numpy as np

from gpt4image.describe.batch.asked import Asked, read_asked
from gpt4image.describe.store.latest import KEY_TYPE
from gpt4image.describe.store.parts import now
from gpt4image.describe.store.store import contains
from gpt4image.errors import StoreError
from gpt4image.files import atomic_write, read_json, write_json

Phase = Literal["made", "uploading", "uploaded", "creating", "created", "collected"]


@dataclass(frozen=True)
class Job:
    """A batch of ours, from its input file to the last answer.

    Attributes:
        name: name of its folder.
        place: address of the server.
        model: the model that is asked.
        requests: number of requests.
        size: bytes of the input file.
        old_limit: whether answers are limited by `max_tokens` in place of `max_completion_tokens`.
        begun: when it was made, ISO 8601 in UTC; what is written about its tasks later may come from it.
        phase: `made`: the input file is whole; `uploading`: it may be at the server; `uploaded`: it is, as `file`;
            `creating`: the server may have the batch; `created`: it has, as `batch`; `collected`: all outcomes are
            in the store, only files are left to be deleted.
        file: the server's name of the input file.
        ticket: the mark by which the batch is found again at the server.
        asked_at: when the server was asked for the batch, seconds since 1970.
        batch: the server's name of the batch.
        results: the server's names of the files with its answers.
    """

    name: str
    place: str
    model: str
    requests: int
    size: int
    old_limit: bool
    begun: str
    phase: Phase = "made"
    file: str = ""
    ticket: str = ""
    asked_at: float = 0.0
    batch: str = ""
    results: tuple[str, ...] = ()


class BatchFolder:
    """A folder of jobs, and of tasks that wait for a batch with something already paid for.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs, self._waiting = folder / "jobs", folder / "waiting"

    def new_name(self) -> str:
        """A job's name that nobody else has, and a folder for its files. Until `save` they do not count."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        (self._jobs / name).mkdir(parents=True)
        return name

    def tasks(self, name: str) -> Path:
        """The tasks of a job, in the order of its requests."""
        return self._jobs / name / "tasks.jsonl"

    def requests(self, name: str) -> Path:
        """The input file of a job; gone once the server has the batch."""
        return self._jobs / name / "requests.jsonl"

    def _state(self, name: str) -> Path:
        return self._jobs / name / "state.json"

    def save(self, job: Job) -> Job:
        """Bring a job to the disk."""
        write_json(self._state(job.name), asdict(job))
        return job

    def remove(self, name: str) -> None:
        """Forget a job. Its state goes first, so that half of it is no job."""
        self._state(name).unlink(missing_ok=True)
        shutil.rmtree(self._jobs / name, ignore_errors=True)

    def tidy(self) -> None:
        """Delete what killed processes have left of files and jobs that were never whole."""
        for path in self._waiting.glob(".*.tmp"):
            path.unlink()
        for path in self.waiting():
            if not path.stat().st_size:
                path.unlink()
        for folder in self._jobs.glob("*"):
            if not self._state(folder.name).exists():
                self.remove(folder.name)

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first. StoreError when the state of one cannot be read."""
        return [read_job(path) for path in sorted(self._jobs.glob("*/state.json"))]

    def held_keys(self) -> np.ndarray:
        """Keys of all tasks that are inside a batch, S32, sorted."""
        under_way = (self.tasks(job.name) for job in self.jobs() if job.phase != "collected")
        return sorted_keys(key for path in under_way for key, _ in read_asked(path))

    def waiting(self) -> list[Path]:
        """Files of tasks that wait, the oldest first."""
        return sorted(self._waiting.glob("*.jsonl"))

    def waiting_of(self, name: str) -> list[Path]:
        """The file of the tasks of a job that wait, as a list; it may not be there."""
        return [self._waiting / f"{name}.jsonl"]

    def waiting_keys(self) -> np.ndarray:
        """Keys of all tasks that wait, S32, sorted."""
        return sorted_keys(key for path in self.waiting() for key, _ in read_asked(path))

    @contextmanager
    def wait_file(self, name: str) -> Iterator[IO[bytes]]:
        """A file for tasks of a job that are to wait; it is there as a whole when the block ends well."""
        path = self._waiting / f"{name}.jsonl"
        with atomic_write(path) as file:
            yield file
            empty = not file.tell()
        if empty:
            path.unlink()

    def prune(self, paths: Iterable[Path], keys: np.ndarray) -> None:
        """Take tasks (S32, sorted) out of files of those that wait."""
        for path in paths:
            rows = list(read_asked(path))
            gone = contains(keys, np.asarray([key for key, _ in rows], dtype=KEY_TYPE))
            if gone.any():
                with self.wait_file(path.stem) as file:
                    file.writelines(line for (_, line), out in zip(rows, gone.tolist(), strict=True) if not out)

    def spent(self, model: str) -> float:
        """What answers have cost that are in no record yet, US dollars."""
        paths = [*self.waiting(), *(self.tasks(job.name) for job in self.jobs() if job.phase != "collected")]
        records = (Asked.from_line(line).record for path in paths for _, line in read_asked(path))
        return sum(record.cost or 0.0 for record in records if record.model == model)


def read_job(path: Path) -> Job:
    """A job's state. StoreError when it cannot be read."""
    values = read_json(path)
    try:
        return Job(**{**values, "results": tuple(values["results"])})
    except (TypeError, KeyError):
        raise StoreError(
            f"{path} was written by another version. Collect the batch with that version, or delete {path.parent} to "
            "give its answers up."
        ) from None


def new_job(name: str, place: str, model: str, *, requests: int, size: int, old_limit: bool) -> Job:
    """A job whose input file is whole."""
    return Job(name, place, model, requests, size, old_limit, begun=now())


def sorted_keys(keys: Iterable[str]) -> np.ndarray:
    """Keys as S32, sorted, each once."""
    return np.unique(np.asarray(list(keys), dtype=KEY_TYPE))


def keys_under_way(folder: Path) -> np.ndarray:
    """Keys of tasks that are in a batch, or between two with something already paid for, S32, sorted."""
    batches = BatchFolder(folder)
    return np.union1d(batches.held_keys(), batches.waiting_keys())
