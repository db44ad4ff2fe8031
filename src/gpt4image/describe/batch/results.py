"""Answers of a batch: read line by line, each a record, or a task that waits for its next question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pyarrow.compute as pc

from gpt4image.core.errors import DescribeError
from gpt4image.describe.batch.jobs import Asked, BatchFolder, Job, read_asked
from gpt4image.describe.tally import Tally
from gpt4image.descriptions.store.conversations import Conversations
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.descriptions.store.shards import RecordWriter, list_shards, now, read_shard
from gpt4image.llm.base import ChatAnswer, RateLimitedError, RequestFailedError
from gpt4image.llm.batch_api import BatchServer, Found, Result, duration_of, read_result, result_files
from gpt4image.llm.budget import Budget
from gpt4image.llm.chat import read_answer

COLUMNS = ("key", "error", "created")


@dataclass
class Collected:
    """What a batch has brought.

    Attributes:
        answered: questions that were answered.
        failures: reasons of those that failed.
        put_back: keys of tasks that are to be asked from the start.
        refused_limit: whether the server wanted the length of answers limited in the newer way.
        hopeless: why no request can go well, where one has said so.
    """

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    put_back: list[str] = field(default_factory=list)
    refused_limit: bool = False
    hopeless: DescribeError | None = None


class Recorder:
    """Makes records of outcomes, pays for them and counts them.

    Args:
        writer: takes the records.
        budget: what may be spent.
        tally: the account.
        conversations: what was answered elsewhere before, and paid for there.
    """

    def __init__(self, writer: RecordWriter, budget: Budget, tally: Tally, conversations: Conversations) -> None:
        self.writer, self.budget, self.tally, self._conversations = writer, budget, tally, conversations

    def fail(self, asked: Asked, error: RequestFailedError) -> None:
        """Write down a failure; its tokens are in the task already."""
        self.write(replace(asked.record, error=error.reason, detail=error.detail))

    def write(self, record: DescriptionRecord) -> None:
        """Write a record down, with what was paid before its task came into a batch."""
        created = now()
        for turn in self._conversations.take(record.key):
            cost = self.budget.worst_cost(turn.tokens_in, turn.tokens_out) if turn.cost is None else turn.cost
            told = Asked(record, "", 1).paid(turn.tokens_in, turn.tokens_out, cost)
            record, created = told.record, max(created, turn.created)
        finished = replace(record, created=created)
        self.writer.write(finished)
        self.tally.add(finished)


class Collection:
    """One batch that is over, on its way into the store.

    Args:
        job: the batch.
        server: where it is.
        recorder: takes the outcomes.
        attempts: times that a question may fail because of its request.
        written: what was written about its tasks since it was made: by key, whether it is an answer.
    """

    def __init__(
        self, job: Job, server: BatchServer, recorder: Recorder, attempts: int, written: Mapping[str, bool]
    ) -> None:
        self._job, self._server, self._recorder = job, server, recorder
        self._attempts, self._written = attempts, written
        self._owed: list[tuple[int | None, int | None]] = []
        self.found = Collected()

    def run(self, batch: Found, tasks: dict[str, bytes], waiting: IO[bytes]) -> None:
        """Take every answer in.

        Args:
            batch: what the server says of it.
            tasks: lines of its tasks by key; they are taken out of it.
            waiting: gets the tasks that have another question, or are asked it again.

        Raises:
            MissingError: the server has no such file any more.
            TryLaterError: not all answers came. Those that did are in the store.
        """
        self._seconds, self._waiting = duration_of(batch), waiting
        for file in result_files(batch):
            for line in self._server.lines(file):
                result = read_result(line, self._server.key)
                task = None if result is None else tasks.pop(result.key, None)
                if result is not None and task is not None and not self._written.get(result.key, False):
                    self._take(Asked.from_line(task), result)
        for task in tasks.values():
            self._take_missing(Asked.from_line(task), completed=batch.get("status") == "completed")

    def pay(self) -> None:
        """Book the answers that are in no record yet, once the file of waiting tasks is whole."""
        for tokens in self._owed:
            self._recorder.budget.pay(*tokens)

    def _take(self, asked: Asked, result: Result) -> None:
        if self._is_to_be_asked_anew(result):
            self._put_back(asked)
            return
        try:
            answer = self._read(result)
        except DescribeError as error:
            self.found.hopeless = error
            self._put_back(asked)
        except RateLimitedError as error:
            self._fail(asked, RequestFailedError(error.reason, retryable=True))
        except RequestFailedError as error:
            self._fail(asked, error)
        else:
            self._answer(asked, answer)

    def _is_to_be_asked_anew(self, result: Result) -> bool:
        """Whether the server never got to the request, or did not like how it limits the answer's length."""
        if result.trouble is not None and result.trouble.is_unsupported_limit and self._job.old_limit:
            self.found.refused_limit = True
            return True
        return not result.done

    def _read(self, result: Result) -> ChatAnswer:
        """The answer, or what its absence means."""
        if result.trouble is not None:
            raise self._server.classifier.classify(result.trouble, self._job.model)
        return read_answer(self._server.key.scrub_all(result.body))

    def _take_missing(self, asked: Asked, *, completed: bool) -> None:
        """A task that no file speaks of. Where the batch was completed it may be paid for, so it is not asked again."""
        if not completed:
            self._put_back(asked)
        elif not self._written.get(asked.record.key, False):
            error = RequestFailedError("missing from the batch", "no file has its answer", retryable=False)
            self._fail(asked, error.uncounted())

    def _put_back(self, asked: Asked) -> None:
        if asked.begun:
            self._waiting.write(asked.line())
        else:
            self.found.put_back.append(asked.record.key)

    def _answer(self, asked: Asked, answer: ChatAnswer) -> None:
        self._server.classifier.answered = True
        self.found.answered += 1
        told = self._price(asked, answer.tokens_in, answer.tokens_out).answered(answer.text)
        if not told.finished:
            self._wait(told, answer.tokens_in, answer.tokens_out)
            return
        self._recorder.budget.pay(answer.tokens_in, answer.tokens_out)
        record = replace(told.record, text=told.text, finish_reason=answer.finish_reason, seconds=self._seconds)
        self._recorder.write(replace(record, served_model=answer.model or self._job.model))

    def _fail(self, asked: Asked, error: RequestFailedError) -> None:
        self.found.failures[error.reason] += 1
        told = self._price(asked, error.tokens_in, error.tokens_out).failed()
        if error.retryable and told.tries < self._attempts:
            self._recorder.tally.tried_again += 1
            self._wait(told, error.tokens_in, error.tokens_out)
        elif asked.record.key not in self._written:
            self._recorder.budget.pay(error.tokens_in, error.tokens_out)
            self._recorder.fail(replace(told, record=replace(told.record, seconds=self._seconds)), error)

    def _price(self, asked: Asked, tokens_in: int | None, tokens_out: int | None) -> Asked:
        return asked.paid(tokens_in, tokens_out, self._recorder.budget.worst_cost(tokens_in, tokens_out))

    def _wait(self, asked: Asked, tokens_in: int | None, tokens_out: int | None) -> None:
        self._owed.append((tokens_in, tokens_out))
        self._waiting.write(asked.line())


def collect(
    job: Job, batch: Found, folder: BatchFolder, server: BatchServer, recorder: Recorder, attempts: int
) -> Collected:
    """Bring the outcomes of a batch into the store. Done again from the start, it writes nothing twice.

    Args:
        job: the batch.
        batch: what the server says of it.
        folder: where its tasks are, and where those that are not finished go.
        server: where it is.
        recorder: takes the outcomes.
        attempts: times that a question may fail because of its request.

    Raises:
        MissingError: the server has no such file any more.
        TryLaterError: not all answers came. Those that did are in the store.
    """
    tasks = dict(read_asked(folder.tasks(job.name)))
    written = written_since(recorder.writer.path.parent, job.begun, tasks)
    collection = Collection(job, server, recorder, attempts, written)
    with folder.wait_file(job.name) as waiting:
        collection.run(batch, tasks, waiting)
    collection.pay()
    recorder.writer.sync()
    return collection.found


def written_since(parts: Path, time: str, keys: Mapping[str, bytes]) -> dict[str, bool]:
    """Of some keys, those that a record was written about since a time, and whether it is an answer."""
    found: dict[str, bool] = {}
    for part in list_shards(parts):
        for batch in read_shard(part, COLUMNS):
            late = batch.filter(pc.greater_equal(batch["created"], time))
            for key, error in zip(late["key"].to_pylist(), late["error"].to_pylist(), strict=True):
                if key in keys:
                    found[key] = found.get(key, False) or error is None
    return found
