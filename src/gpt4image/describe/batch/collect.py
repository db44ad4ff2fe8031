"""Collect the results of a batch: each becomes a record, or a task that waits for its next question.

Collecting may be interrupted anywhere and starts again from the first line: `written_since` says which tasks have a
record already, and the file of waiting tasks is replaced as a whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow.compute as pc

from gpt4image.core.errors import DescribeError
from gpt4image.describe.batch.folder import BatchFolder, BatchTask, SubmittedBatch, read_lines
from gpt4image.describe.runner.patience import out_of_quota
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import read_pick
from gpt4image.descriptions.store.conversations import Conversations
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.descriptions.store.shards import RecordWriter, list_shards, now, read_shard
from gpt4image.llm.base import ChatAnswer, Counted, RateLimitedError, RequestFailedError, Sampling
from gpt4image.llm.batch_api import BatchReport, BatchServer, Result, read_result
from gpt4image.llm.budget import Budget
from gpt4image.llm.chat import read_answer


class Recorder:
    """Writes outcomes, charges the budget and counts.

    Args:
        writer: writes the records.
        budget: the budget.
        tally: the counts.
        conversations: answers from outside the batch interface, paid for there.
    """

    def __init__(self, writer: RecordWriter, budget: Budget, tally: Tally, conversations: Conversations) -> None:
        self.writer, self.budget, self.tally, self._conversations = writer, budget, tally, conversations

    def fail(self, task: BatchTask, error: RequestFailedError) -> None:
        """Write a failure; the task already includes its tokens."""
        self.write(replace(task.record, error=error.reason, detail=error.detail))

    def write(self, record: DescriptionRecord) -> None:
        """Write a record, including the cost of answers from before the task was put into a batch."""
        task, created = BatchTask(record, "", 1), now()
        for turn in self._conversations.take(record.key):
            cost = self.budget.worst_cost(turn.tokens_in, turn.tokens_out) if turn.cost is None else turn.cost
            task, created = task.charge(turn, cost), max(created, turn.created)
            self.tally.count_paid(turn.tokens_in, turn.tokens_out, None, sign=-1)
        finished = replace(task.record, created=created)
        self.writer.write(finished)
        self.tally.add(finished)


class Collection:
    """Collects the results of one batch into the store.

    Args:
        batch: the batch.
        server: its server.
        folder: contains its tasks, and receives the unfinished ones.
        recorder: records the outcomes.
        attempts: failures of a question after which its task has failed.

    Attributes:
        answered: questions answered.
        failures: failures by reason.
        put_back: keys of tasks to restart.
        refused_limit: whether the server insists on `max_completion_tokens`.
        fatal: the error if no request can succeed.
    """

    def __init__(
        self, batch: SubmittedBatch, server: BatchServer, folder: BatchFolder, recorder: Recorder, attempts: int
    ) -> None:
        self._batch, self._server, self._folder = batch, server, folder
        self._recorder, self._attempts = recorder, attempts
        self._charged: list[Counted] = []  # calls of waiting tasks; charged when the file of waiting tasks is written
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.put_back: list[str] = []
        self.refused_limit = False
        self.fatal: DescribeError | None = None
        self._written: Mapping[str, bool]  # these three are set by `run`
        self._seconds: float
        self._waiting: IO[bytes]

    def run(self, report: BatchReport) -> None:
        """Collect all results. Repeating this from the start writes nothing twice.

        Raises:
            MissingError: the server no longer has a result file.
            TryLaterError: not all results arrived; those that did are in the store.
        """
        tasks = dict(read_lines(self._folder.tasks(self._batch.name)))
        shards = self._recorder.writer.path.parent
        self._written = written_since(shards, self._batch.begun, tasks)
        self._seconds = report.seconds
        with self._folder.write_waiting(self._batch.name) as self._waiting:
            for file in report.files:
                for line in self._server.lines(file):
                    result = read_result(line, self._server.key)
                    task = None if result is None else tasks.pop(result.key, None)
                    if result is not None and task is not None and not self._written.get(result.key, False):
                        self._take(BatchTask.from_line(task), result)
            for task in tasks.values():
                self._take_missing(BatchTask.from_line(task), completed=report.status == "completed")
        for call in self._charged:
            self._recorder.budget.pay(call.tokens_in, call.tokens_out)
        self._recorder.writer.sync()

    def _take(self, task: BatchTask, result: Result) -> None:
        try:
            if result.failure is None:
                self._answer(task, read_answer(self._server.key.scrub_all(result.body)))
            elif not result.processed:
                self._put_back(task)
            elif result.failure.is_unsupported_limit and self._batch.old_limit:
                self.refused_limit = True
                self._put_back(task)
            else:
                raise self._server.classifier.classify(result.failure, self._batch.model)
        except DescribeError as error:
            self.fatal = error
            self._put_back(task)
        except RateLimitedError as error:
            if not error.long:
                self._fail(task, RequestFailedError(error.reason, retryable=True))
                return
            words = out_of_quota(self._server.place, error)
            self.fatal = DescribeError(f"{words}. Answers so far are kept; run the same command again then.")
            self._put_back(task)
        except RequestFailedError as error:
            self._fail(task, error)

    def _take_missing(self, task: BatchTask, *, completed: bool) -> None:
        """Handle a task without a result. If the batch completed, it may be paid for, so it is not asked again."""
        if not completed:
            self._put_back(task)
        elif not self._written.get(task.record.key, False):
            error = RequestFailedError("missing from the batch", "no result file names the request", retryable=False)
            self._fail(task, error.uncounted())

    def _put_back(self, task: BatchTask) -> None:
        if task.begun:
            self._waiting.write(task.line())
        else:
            self.put_back.append(task.record.key)

    def _answer(self, task: BatchTask, answer: ChatAnswer) -> None:
        self._server.classifier.answered = True
        pick = self._read_pick(task, answer)
        self.answered += 1
        task = self._charge(task, answer).answer(answer.text)
        if not task.finished:
            self._wait(task, answer)
            return
        self._recorder.budget.pay(answer.tokens_in, answer.tokens_out)
        record = replace(task.record, text=task.text, pick=pick, finish_reason=answer.finish_reason)
        model = answer.model or self._batch.model
        self._recorder.write(replace(record, served_model=model, seconds=self._seconds))

    def _read_pick(self, task: BatchTask, answer: ChatAnswer) -> str | None:
        """Return the picked class in an answer; None for a description, or if another question follows."""
        if task.choices is None or len(task.answers) + 1 < task.turns:
            return None
        sampling = Sampling(temperature=json.loads(task.record.settings).get("temperature"))
        try:
            return read_pick(task.choices, answer.text, sampling)
        except RequestFailedError as error:
            raise error.with_tokens([answer]) from None

    def _fail(self, task: BatchTask, error: RequestFailedError) -> None:
        self.failures[error.reason] += 1
        task = self._charge(task, error).fail()
        if error.retryable and task.tries < self._attempts:
            self._recorder.tally.tried_again += 1
            self._wait(task, error)
        elif task.record.key not in self._written:
            self._recorder.budget.pay(error.tokens_in, error.tokens_out)
            self._recorder.fail(replace(task, record=replace(task.record, seconds=self._seconds)), error)

    def _charge(self, task: BatchTask, call: Counted) -> BatchTask:
        return task.charge(call, self._recorder.budget.worst_cost(call.tokens_in, call.tokens_out))

    def _wait(self, task: BatchTask, call: Counted) -> None:
        self._charged.append(call)
        self._waiting.write(task.line())


def written_since(shards: Path, time: str, keys: Container[str]) -> Mapping[str, bool]:
    """Return the keys with a record since a time, and whether any of these records is an answer."""
    found: dict[str, bool] = {}
    for shard in list_shards(shards):
        for rows in read_shard(shard, ("key", "error", "created")):
            late = rows.filter(pc.greater_equal(rows["created"], time))
            for key, error in zip(late["key"].to_pylist(), late["error"].to_pylist(), strict=True):
                if key in keys:
                    found[key] = found.get(key, False) or error is None
    return found
