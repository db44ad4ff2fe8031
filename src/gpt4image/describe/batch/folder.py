"""The folder of batches on disk, and its state after a kill at any moment.

    lock                       held by the process at work
    jobs/NAME/state.json       the batch and its phase (`SubmittedBatch`)
    jobs/NAME/tasks.jsonl      its tasks (`BatchTask`), in the order of its requests
    jobs/NAME/requests.jsonl   its input file; deleted once the server has the batch
    waiting/NAME.jsonl         tasks of that batch which need another batch: the next question, or a retry

Every step is saved before it is taken. These are the steps in order, and what the next process does if this one is
killed right after each:

    1. write tasks.jsonl and requests.jsonl    delete both: without state.json there is no batch
    2. save the phase `made`                   upload the input file
    3. save `uploading`, then upload           look for the file at the server by name and size, else upload it
    4. save `uploaded` with the file's id      create the batch
    5. save `creating` with a new ticket,      look for a batch with the ticket; after a while without finding one,
       then create the batch                   delete the input file, so that a late request cannot succeed, and go to 2
    6. save `created` with the batch's id,     wait for the results
       delete requests.jsonl
    7. write a record for each finished task   collect again from the start; skip tasks with a record since `begun`
    8. write waiting/NAME.jsonl, all at once   the same; the file is replaced
    9. save `collected`                        delete the files at the server
    10. delete state.json, then the folder     delete the rest of the folder

Invariants: a paid answer is always in the description store, in waiting/, in tasks.jsonl (of an earlier batch), or at
the server in a batch that a state.json names. Before step 9 a task may be in tasks.jsonl and in waiting/ or the store;
tasks.jsonl counts until `collected`, and the store always counts.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write, read_json, write_json
from gpt4image.describe.tasks import RequestMaker, join_answers
from gpt4image.descriptions.prompts.choices import Choices
from gpt4image.descriptions.store.conversations import Turn
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import DescriptionRecord, plain_values, record_from
from gpt4image.descriptions.store.shards import now
from gpt4image.llm.base import Counted, add_counts

Phase = Literal["made", "uploading", "uploaded", "creating", "created", "collected"]


@dataclass(frozen=True)
class SubmittedBatch:
    """A batch, from its input file to the last answer.

    Attributes:
        name: name of its folder.
        place: address of the server.
        model: requested model.
        requests: number of requests.
        size: bytes of the input file.
        old_limit: whether answers are limited by `max_tokens` instead of `max_completion_tokens`.
        begun: when it was made, ISO 8601 in UTC; later records of its tasks may come from it.
        phase: see the module.
        file: the server's id of the input file.
        ticket: metadata by which the batch is found at the server.
        asked_at: when its creation was requested, seconds since 1970.
        batch: the server's id of the batch.
        results: ids of the result files that have not been deleted yet.
    """

    name: str
    place: str
    model: str
    requests: int
    size: int
    old_limit: bool
    begun: str = field(default_factory=now)
    phase: Phase = "made"
    file: str = ""
    ticket: str = ""
    asked_at: float = 0.0
    batch: str = ""
    results: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether outcomes are still expected."""
        return self.phase != "collected"


@dataclass(frozen=True, slots=True)
class BatchTask:
    """A task in a batch or between two batches, with all that its next question and its record need.

    Attributes:
        record: its record, with the tokens and the cost of all calls so far.
        between: separator of the answers in the text.
        choices: the classes to pick from in the last answer; None for a description.
        turns: number of its questions.
        answers: answers so far.
        tries: failures of the next question so far.
    """

    record: DescriptionRecord
    between: str
    turns: int
    answers: tuple[str, ...] = ()
    tries: int = 0
    choices: Choices | None = None

    @classmethod
    def first(cls, maker: RequestMaker, number: int, begun: Sequence[Turn] = ()) -> BatchTask:
        """Return a task that has not been in a batch.

        Args:
            maker: the tasks.
            number: index of the task.
            begun: answers from outside the batch interface. They are paid for; `Recorder` adds their cost to the
            outcome.
        """
        record = replace(maker.record(number), describer="batch", tokens_in=0, tokens_out=0, cost=0.0)
        prompt = maker.prompt(number)
        answers = tuple(turn.text for turn in begun)[: len(prompt.turns) - 1]
        return cls(record, prompt.join, len(prompt.turns), answers, choices=maker.choices(number))

    @property
    def begun(self) -> bool:
        """Whether a question was already asked, so that the task must not be lost."""
        return bool(self.answers or self.tries)

    @property
    def finished(self) -> bool:
        """Whether all questions are answered."""
        return len(self.answers) == self.turns

    @property
    def text(self) -> str:
        """The answers as one text."""
        return join_answers(self.answers, self.between)

    def charge(self, call: Counted | Turn, cost: float | None) -> BatchTask:
        """Add the tokens and the cost of a call."""
        old = self.record
        record = replace(
            old,
            tokens_in=add_counts([old.tokens_in, call.tokens_in]),
            tokens_out=add_counts([old.tokens_out, call.tokens_out]),
            cost=None if cost is None or old.cost is None else old.cost + cost,
        )
        return replace(self, record=record)

    def answer(self, text: str) -> BatchTask:
        """Add the answer to the next question."""
        return replace(self, answers=(*self.answers, text), tries=0)

    def fail(self) -> BatchTask:
        """Count a failure of the next question."""
        return replace(self, tries=self.tries + 1)

    def line(self) -> bytes:
        """Return the task as a line of JSON."""
        values = {"record": plain_values(self.record), "between": self.between, "turns": self.turns}
        if self.choices is not None:  # the next process may have another list of tasks
            values["choices"] = self.choices.to_json()
        return json.dumps({**values, "answers": self.answers, "tries": self.tries}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> BatchTask:
        """Return the task of a line of JSON."""
        values: dict[str, Any] = json.loads(line)
        record, answers = record_from(values.pop("record")), tuple(values.pop("answers"))
        choices = Choices.from_json(values.pop("choices")) if "choices" in values else None
        return cls(record=record, answers=answers, choices=choices, **values)


class BatchFolder:
    """The folder; see the module.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self._jobs, self._waiting = folder / "jobs", folder / "waiting"

    def new_name(self) -> str:
        """Create the folder of a new batch and return its name."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        (self._jobs / name).mkdir(parents=True)
        return name

    def tasks(self, name: str) -> Path:
        """Return the path of a batch's tasks."""
        return self._jobs / name / "tasks.jsonl"

    def requests(self, name: str) -> Path:
        """Return the path of a batch's input file."""
        return self._jobs / name / "requests.jsonl"

    def waiting(self, name: str) -> Path:
        """Return the path of a batch's waiting tasks; the file need not exist."""
        return self._waiting / f"{name}.jsonl"

    def _state(self, name: str) -> Path:
        return self._jobs / name / "state.json"

    def save(self, batch: SubmittedBatch) -> SubmittedBatch:
        """Write the state of a batch."""
        write_json(self._state(batch.name), asdict(batch))
        return batch

    def remove(self, name: str) -> None:
        """Delete a batch, starting with its state: without it, leftovers after a kill do not count as a batch."""
        self._state(name).unlink(missing_ok=True)
        shutil.rmtree(self._jobs / name, ignore_errors=True)

    def tidy(self) -> None:
        """Delete unfinished files and batches of killed processes."""
        for path in self._waiting.glob(".*.tmp"):
            path.unlink()
        for path in self.all_waiting():
            if not path.stat().st_size:
                path.unlink()
        for folder in self._jobs.glob("*"):
            if not self._state(folder.name).exists():
                self.remove(folder.name)

    def batches(self) -> list[SubmittedBatch]:
        """Return all batches, the oldest first. Raise StoreError if a state cannot be read."""
        return [read_batch(path) for path in sorted(self._jobs.glob("*/state.json"))]

    def all_waiting(self) -> list[Path]:
        """Return the files of waiting tasks, the oldest first."""
        return sorted(self._waiting.glob("*.jsonl"))

    def _held(self) -> list[Path]:
        return [self.tasks(batch.name) for batch in self.batches() if batch.open]

    def held_keys(self) -> np.ndarray:
        """Return the keys of all tasks in open batches, S32, sorted."""
        return keys_in(self._held())

    def waiting_keys(self) -> np.ndarray:
        """Return the keys of all waiting tasks, S32, sorted."""
        return keys_in(self.all_waiting())

    @contextmanager
    def write_waiting(self, name: str) -> Iterator[IO[bytes]]:
        """Write a batch's waiting tasks, atomically; leave no empty file."""
        with atomic_write(self.waiting(name)) as file:
            yield file
            empty = not file.tell()
        if empty:
            self.waiting(name).unlink()

    def prune(self, paths: Iterable[Path], keys: np.ndarray) -> None:
        """Remove tasks (S32, sorted) from files of waiting tasks."""
        for path in paths:
            rows = list(read_lines(path))
            gone = contains(keys, np.asarray([key for key, _ in rows], dtype=KEY_TYPE))
            if gone.any():
                with self.write_waiting(path.stem) as file:
                    file.writelines(line for (_, line), out in zip(rows, gone.tolist(), strict=True) if not out)

    def spent(self, model: str) -> float:
        """Return the cost of answers that are not in a record yet, US dollars."""
        paths = [*self.all_waiting(), *self._held()]
        records = (BatchTask.from_line(line).record for path in paths for _, line in read_lines(path))
        return sum(record.cost or 0.0 for record in records if record.model == model)


def read_batch(path: Path) -> SubmittedBatch:
    """Read the state of a batch. Raise StoreError if that fails."""
    values = read_json(path)
    try:
        return SubmittedBatch(**{**values, "results": tuple(values["results"])})
    except (TypeError, KeyError):
        raise StoreError(
            f"{path} was written by another version. Collect the batch with that version, or discard its answers by "
            f"deleting {path.parent}."
        ) from None


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield key and line of every task in a file."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)["record"]["key"], line


def keys_in(paths: Iterable[Path]) -> np.ndarray:
    """Return the keys of the tasks in some files, S32, sorted."""
    return sorted_keys(key for path in paths for key, _ in read_lines(path))


def sorted_keys(keys: Iterable[str]) -> np.ndarray:
    """Return keys as S32, sorted, without duplicates."""
    return np.unique(np.asarray(list(keys), dtype=KEY_TYPE))


def keys_under_way(folder: Path) -> np.ndarray:
    """Return the keys of all tasks in batches or waiting for one, S32, sorted."""
    batches = BatchFolder(folder)
    return np.union1d(batches.held_keys(), batches.waiting_keys())
