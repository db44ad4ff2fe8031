"""Steps of a batch at the server. Each is on the disk before it is taken, so that none is taken twice."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np

from gpt4image.core.errors import DescribeError, StoreError
from gpt4image.core.files import atomic_write, read_json, write_json
from gpt4image.describe.tasks import RequestMaker, join_answers
from gpt4image.descriptions.store.conversations import Turn
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import DescriptionRecord, plain_values, record_from
from gpt4image.descriptions.store.shards import now
from gpt4image.llm.base import add_counts
from gpt4image.llm.batch_api import MARK, BatchServer, Found, MissingError, TryLaterError

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


T = TypeVar("T")


class Jobs:
    """The batches of one model at one server.

    Args:
        server: the server.
        folder: where they are kept.
        create_seconds: how long a batch, the answer to whose making was lost, may take to show up in the list.

    Attributes:
        all: the batches by name, the oldest first.
        others: number of batches of other models or servers.
    """

    def __init__(self, server: BatchServer, folder: BatchFolder, create_seconds: float) -> None:
        self._server, self._folder, self._create_seconds = server, folder, create_seconds
        found = folder.jobs()
        ours = [job for job in found if (job.place, job.model) == (server.place, server.model)]
        self.all = {job.name: job for job in ours}
        self.others = len(found) - len(ours)

    @property
    def requests(self) -> int:
        """Requests that are under way."""
        return sum(job.requests for job in self.all.values() if job.phase != "collected")

    def at_server(self) -> int:
        """Number of batches that the server is at work on."""
        return sum(job.phase == "created" for job in self.all.values())

    def save(self, job: Job) -> Job:
        """Bring a batch's state to the disk."""
        self.all[job.name] = self._folder.save(job)
        return job

    def forget(self, job: Job) -> None:
        """Drop a batch."""
        self._folder.remove(job.name)
        del self.all[job.name]

    def upload(self, job: Job) -> Job:
        """Upload the input file, unless a process that was killed has done so.

        Raises:
            TooLargeError: the server takes no file of that size.
        """
        name = f"{MARK}-{job.name}.jsonl"
        file = self._there(lambda: self._server.find_upload(name, job.size)) if job.phase == "uploading" else None
        if file is None:
            self.save(replace(job, phase="uploading"))
            file = self._there(lambda: self._server.upload(self._folder.requests(job.name), name))
        return self.save(replace(job, phase="uploaded", file=file))

    def create(self, job: Job) -> Job:
        """Have the server make the batch. Where its answer is lost the batch stays in the phase `creating`.

        Raises:
            QueueFullError: the server takes no batch of that size for now.
        """
        asked = self.save(replace(job, phase="creating", ticket=uuid.uuid4().hex, asked_at=time.time()))
        try:
            return self._created(asked, self._server.create(job.file, asked.ticket))
        except MissingError as error:
            self.save(replace(job, phase="made", file=""))
            raise DescribeError(
                f"{self._server.place} made no batch of a file that it took before: {error}. Give the same command "
                "again."
            ) from None
        except TryLaterError as error:
            if not error.undecided:
                self.save(job)
            raise
        except Exception:  # a clear refusal
            self.save(job)
            raise

    def recover(self, job: Job) -> Job:
        """Find out whether the server has the batch that it was asked for.

        The request may still be on its way, and carried out after we have looked in vain. So the input file is
        deleted before another one takes its place: nothing can come of the old request then, or it has come already.
        """
        found = self._find(job)
        if found is None and not 0 <= time.time() - job.asked_at < self._create_seconds:
            self._server.delete(job.file)
            found = self._find(job)
            if found is None:
                return self.save(replace(job, phase="made", file=""))
        return job if found is None else self._created(job, found)

    def _find(self, job: Job) -> str | None:
        return self._there(lambda: self._server.find(job.file, job.ticket))

    def _created(self, job: Job, batch: str) -> Job:
        created = self.save(replace(job, phase="created", batch=batch))
        self._folder.requests(job.name).unlink(missing_ok=True)
        return created

    def look(self, job: Job) -> Found:
        """What the server says of the batch. DescribeError where it knows none."""
        try:
            return self._server.look(job.batch)
        except MissingError:
            raise self.gone(job, f"knows no batch {job.batch}") from None

    def gone(self, job: Job, what: str) -> DescribeError:
        """What to raise when the server has lost something of a batch."""
        return DescribeError(
            f"{self._server.place} {what}. Batches are known to the key and project that made them: use those. Or "
            f"delete {self._folder.tasks(job.name).parent} to have its {job.requests:,} descriptions asked, and paid "
            "for, once more."
        )

    def clean(self, job: Job) -> None:
        """Delete the files of a batch, at the server and here."""
        left = [job.file, *job.results] if job.file else list(job.results)
        while left:
            self._server.delete(left.pop())
            job = self.save(replace(job, file="", results=tuple(left)))
        self.forget(job)

    def _there(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except MissingError:
            raise self._server.no_batches() from None


NAME = "batch"


"""Name in the table of describers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A task in a batch, or between two: enough to put its next question and to make a record of its outcome.

    Attributes:
        record: what is known of it, with the tokens and the cost of all that was paid for so far.
        between: what stands between the answers of its conversation.
        turns: number of its questions.
        answers: answers so far.
        tries: how often the next question has failed.
    """

    record: DescriptionRecord
    between: str
    turns: int
    answers: tuple[str, ...] = ()
    tries: int = 0

    @classmethod
    def first(cls, maker: RequestMaker, number: int, begun: Sequence[Turn] = ()) -> Asked:
        """A task that no batch has asked.

        Args:
            maker: the tasks.
            number: the task.
            begun: what was answered elsewhere; it is paid for, and whoever records the outcome adds that.
        """
        record = replace(maker.record(number), describer=NAME, tokens_in=0, tokens_out=0, cost=0.0)
        strategy = maker.prompt(number)
        answers = tuple(turn.text for turn in begun)[: len(strategy.turns) - 1]
        return cls(record, strategy.join, len(strategy.turns), answers)

    @property
    def begun(self) -> bool:
        """Whether something was asked already, which must not be lost."""
        return bool(self.answers or self.tries)

    @property
    def finished(self) -> bool:
        """Whether all questions are answered."""
        return len(self.answers) == self.turns

    @property
    def text(self) -> str:
        """The answers as one text."""
        return join_answers(self.answers, self.between)

    def paid(self, tokens_in: int | None, tokens_out: int | None, cost: float | None) -> Asked:
        """With what a call has taken."""
        old = self.record
        total = None if cost is None or old.cost is None else old.cost + cost
        counts = add_counts([old.tokens_in, tokens_in]), add_counts([old.tokens_out, tokens_out])
        return replace(self, record=replace(old, tokens_in=counts[0], tokens_out=counts[1], cost=total))

    def answered(self, text: str) -> Asked:
        """With the answer to its next question. Half characters, which no request may hold, are replaced."""
        whole = text.encode("utf-8", "replace").decode()
        return replace(self, answers=(*self.answers, whole), tries=0)

    def failed(self) -> Asked:
        """With one more failure of its next question."""
        return replace(self, tries=self.tries + 1)

    def line(self) -> bytes:
        """The task as a line of JSON."""
        values = {"record": plain_values(self.record), "between": self.between, "turns": self.turns}
        return json.dumps({**values, "answers": self.answers, "tries": self.tries}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Asked:
        """The task that a line holds."""
        values: dict[str, Any] = json.loads(line)
        record, answers = record_from(values.pop("record")), tuple(values.pop("answers"))
        return cls(record=record, answers=answers, **values)


def read_asked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Keys and lines of a file of tasks."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)["record"]["key"], line
