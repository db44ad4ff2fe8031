"""Describe tasks through the batch interface: make batches, wait for them, collect their results.

    Pending --take--> InputFile --BatchSteps: upload, create--> server --Collection--> records, or waiting tasks
    (Pending)

The run loops: advance every batch as far as the server permits, start new ones, pause.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from gpt4image.core import console
from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.core.files import exclusive
from gpt4image.core.format import counted, duration
from gpt4image.core.validation import check_fields
from gpt4image.describe.batch.collect import Collection, Recorder
from gpt4image.describe.batch.folder import BatchFolder, BatchTask, SubmittedBatch, read_lines
from gpt4image.describe.batch.input_file import InputFile
from gpt4image.describe.batch.pending import Pending
from gpt4image.describe.batch.steps import BatchSteps
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.description_store import DescriptionStore
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.llm.base import TOO_LARGE, RequestFailedError
from gpt4image.llm.batch_api import (
    OVER,
    BatchReport,
    BatchServer,
    MissingError,
    QueueFullError,
    TooLargeError,
    TryLaterError,
)
from gpt4image.llm.budget import OVER_BUDGET, Budget
from gpt4image.llm.credentials import is_openai
from gpt4image.llm.errors import bounded

PAUSE_GROWTH = 1.5
LINE_SECONDS = 600.0
MEGA = 10**6
PROBING_BATCHES = 10
"""Successful batches between two attempts at a size for which the server's queue had no room."""


@dataclass(frozen=True)
class BatchSettings:
    """Sizes and time limits. None of them changes what is asked.

    Attributes:
        most_requests: maximum requests per batch; OpenAI accepts no more than the default.
        most_bytes: maximum size of a batch's input file; likewise.
        most_batches: maximum batches at the server.
        attempts: failures of a question after which its task has failed.
        first_pause: initial seconds between two rounds.
        longest_pause: maximum of that pause, which grows while nothing happens.
        create_seconds: how long a batch whose creation went unanswered may take to appear in the server's list.
        down_seconds: how long the server may be unreachable before the job stops.
        max_failures: failures in a batch without any answer after which the job stops.
    """

    most_requests: Annotated[int, Gt(0)] = 50_000
    most_bytes: Annotated[int, Gt(0)] = 200_000_000
    most_batches: Annotated[int, Gt(0)] = 8
    attempts: Annotated[int, Gt(0)] = 2
    first_pause: Annotated[float, Gt(0)] = 2.0
    longest_pause: float = 60.0
    create_seconds: float = 120.0
    down_seconds: float = 3600.0
    max_failures: int = 20

    def __post_init__(self) -> None:
        check_fields(self)


def run_batches(
    maker: RequestMaker,
    server: BatchServer,
    store: DescriptionStore,
    writer: RecordWriter,
    folder: Path,
    budget: Budget,
    settings: BatchSettings | None = None,
) -> Tally:
    """Describe tasks through a vendor's batch interface; also collect batches that are already under way.

    Args:
        maker: the tasks, as requests.
        server: the server; closed at the end.
        store: the descriptions so far.
        writer: writes the records; a shard of that store.
        folder: state of the batches under way. A new process resumes where the last one was killed.
        budget: the budget, at the price of the batch interface; the tally records if it ends the job.
        settings: sizes and time limits.

    Raises:
        BusyError: another process is using the same batches.
        DescribeError: no request can succeed, or the server is gone. Batches under way continue at the server.
        KeyboardInterrupt: the user stopped the job. Batches under way continue at the server.
        StoreError: records cannot be written, or the state of a batch cannot be read.
    """
    with (
        exclusive(folder / "lock", f"the batches in {folder}"),
        console.progress("Describe in batches", len(maker)) as meter,
    ):
        run = BatchRun(maker, server, store, writer, BatchFolder(folder), budget, settings or BatchSettings(), meter)
        try:
            return run.run()
        finally:
            run.say_what_continues()
            server.close()


class BatchRun:
    """One call of `run_batches`, with the same arguments."""

    def __init__(
        self,
        maker: RequestMaker,
        server: BatchServer,
        store: DescriptionStore,
        writer: RecordWriter,
        folder: BatchFolder,
        budget: Budget,
        settings: BatchSettings,
        meter: console.Meter,
    ) -> None:
        self._maker, self._server, self._budget, self._settings = maker, server, budget, settings
        self._meter, self._folder = meter, folder
        folder.tidy()
        self._steps = BatchSteps(server, folder, settings.create_seconds)
        conversations = store.conversations()
        self._pending = Pending(maker, folder, store.keys().answered, conversations)
        budget.spent += folder.spent(server.model)
        self._spent_before = budget.spent
        self.tally = Tally(len(self._pending) + self._steps.requests)
        self._recorder = Recorder(writer, budget, self.tally, conversations)
        # Limits found so far: fewer requests, smaller files, fewer batches at a time.
        self._max_requests, self._max_bytes = settings.most_requests, settings.most_bytes
        self._max_batches, self._old_limit = settings.most_batches, not is_openai(server.place)
        self._refused = self._good_batches = (
            0  # requests of the last batch that was too large for the queue; successful batches since
        )
        self._reports: dict[str, BatchReport] = {}
        self._trouble: TryLaterError | None = None  # of the current round
        self._fatal: DescribeError | None = None  # raised at the end of the round, after all batches were handled
        self._wait = settings.first_pause
        self._start = self._in_touch = self._line_at = time.monotonic()

    def run(self) -> Tally:
        """Loop until nothing is under way and nothing more can be sent."""
        if self._steps.others:
            say(
                f"{counted(self._steps.others, 'batch')} of other models or servers; run their commands to collect them"
            )
        if self._steps.all or len(self._pending):
            self._server.check()
            self._go_round()
        while self._steps.all:
            self._pause()
            self._go_round()
        self.tally.total = self.tally.done + len(self._pending)
        return self.tally

    def say_what_continues(self) -> None:
        """Tell the user what continues at the server when the run ends early."""
        if self._steps.at_server:
            say(
                f"{counted(self._steps.at_server, 'batch')} under way at {self._server.place}, which continues on its "
                "own. Run the same command to collect the answers."
            )

    # A round.

    def _go_round(self) -> None:
        """Advance every batch, and start new ones."""
        before, self._trouble = dict(self._steps.all), None
        for name in before:
            self._try(name)
        while self._may_start() and self._start_batch():
            pass
        if self._fatal is not None:
            raise self._fatal
        self._check_contact()
        if self._steps.all != before:
            self._wait = self._settings.first_pause
        self._show()

    def _may_start(self) -> bool:
        well = self._fatal is None and self._trouble is None and not self.tally.stopped
        return well and len(self._steps.all) < self._max_batches

    def _check_contact(self) -> None:
        """Raise DescribeError if the server has been unreachable for too long."""
        now = time.monotonic()
        if self._trouble is None:
            self._in_touch = now
            return
        silent, asked = now - self._in_touch, self._trouble.wait or 0.0
        if max(silent, asked) > self._settings.down_seconds:
            span = f"for {duration(silent)}" if silent > asked else f"and to wait {duration(asked)}"
            raise DescribeError(
                f"{self._server.place}: {self._trouble}, {span}. Nothing is lost; run the same command again later."
            )

    def _pause(self) -> None:
        asked, longest = self._trouble.wait if self._trouble is not None else None, self._settings.longest_pause
        time.sleep(max(self._wait, min(asked or 0.0, longest)))
        self._wait = min(self._wait * PAUSE_GROWTH, longest)

    # One batch.

    def _try(self, name: str) -> None:
        """Advance a batch as far as the server permits."""
        try:
            self._advance(self._steps.all[name])
        except DescribeError as error:
            self._fatal = self._fatal or error
        except MissingError:
            self._fatal = self._fatal or self._server.no_batches()
        except TryLaterError as error:
            self._trouble = error
        except TooLargeError as error:
            self._make_smaller(self._steps.all[name], str(error))
        except QueueFullError as error:
            self._stand_back(self._steps.all[name], str(error))

    def _advance(self, batch: SubmittedBatch) -> None:
        if self.tally.stopped and batch.phase in ("made", "uploading", "uploaded"):
            self._take_apart(batch)
            return
        if batch.phase in ("made", "uploading"):
            batch = self._steps.upload(batch)
        if batch.phase == "uploaded" and self._steps.at_server < self._max_batches:
            self._steps.create(batch)
            size = f"{batch.size / MEGA:,.1f} MB"
            say(f"A batch of {counted(batch.requests, 'request')} ({size}) is at {self._server.place}.")
        elif batch.phase == "creating":
            self._steps.recover(batch)
        elif batch.phase == "created":
            report = self._reports[batch.name] = self._steps.retrieve(batch)
            if report.status in OVER:
                if report.queue_full:
                    raise QueueFullError(self._problems(report))
                self._collect(batch, report)
        elif batch.phase == "collected":
            self._steps.clean(batch)

    def _collect(self, batch: SubmittedBatch, report: BatchReport) -> None:
        collection = Collection(batch, self._server, self._folder, self._recorder, self._settings.attempts)
        try:
            collection.run(report)
        except MissingError:
            raise self._steps.lost(batch, f"no longer has the answers of batch {batch.batch}") from None
        batch = self._steps.save(replace(batch, phase="collected", results=report.files))
        self._pending.put_back(collection.put_back)
        self._pending.recount(self._folder.waiting(batch.name))
        fatal = self._judge(batch, report, collection)
        if fatal is None:
            self._steps.clean(batch)
            return
        with suppress(TryLaterError):
            self._steps.clean(batch)
        raise fatal

    def _judge(self, batch: SubmittedBatch, report: BatchReport, collection: Collection) -> DescribeError | None:
        """Return an error if the way this batch ended shows that no other can succeed."""
        self._old_limit &= not collection.refused_limit
        match report.status:
            case "failed":
                return DescribeError(
                    f"{self._server.place} refused a batch of {counted(batch.requests, 'request')} as a whole: "
                    f"{self._problems(report)}"
                )
            case "cancelled":
                self.tally.stopped = "a batch was cancelled at the server"
            case "expired" if not collection.answered:
                self.tally.stopped = "a batch expired before the server had answered any of it"
            case _:
                self._grow(batch.requests)
        failed = collection.failures.total()
        if collection.fatal is None and not collection.answered and failed >= self._settings.max_failures:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in collection.failures.most_common(3))
            return DescribeError(
                f"All requests of a batch have failed ({reasons}). Fix the cause and retry them: "
                "retry_failed (--retry-failed)."
            )
        return collection.fatal

    def _grow(self, taken: int) -> None:
        """Let batches grow after a successful one; once a size was refused, only now and then."""
        self._good_batches += 1
        if taken >= self._refused or self._good_batches % PROBING_BATCHES == 0:
            self._max_requests = min(2 * self._max_requests, self._settings.most_requests)

    def _problems(self, report: BatchReport) -> str:
        return bounded(self._server.key.scrub("; ".join(report.problems) or "no reason given."))

    # What the server refuses.

    def _stand_back(self, batch: SubmittedBatch, reason: str) -> None:
        """Handle a full queue: wait for our other batches, or send fewer requests at a time."""
        others = self._steps.at_server - (batch.phase == "created")
        if others:
            self._max_batches = others
            self._steps.save(replace(batch, phase="uploaded", batch=""))
        elif batch.requests > 1:
            self._refused, self._good_batches = batch.requests, 0
            self._max_requests = max(1, batch.requests // 2)
            say(f"The server's queue is full: continuing with batches of {self._max_requests:,}. It says: {reason}")
            self._take_apart(batch)
        else:
            self._take_apart(batch)
            raise DescribeError(
                f"{self._server.place} does not queue even a single request. It says: {reason} Wait until other "
                "batches have finished, and run the same command again."
            )

    def _make_smaller(self, batch: SubmittedBatch, reason: str) -> None:
        """Handle an input file that is too large for the server."""
        if batch.requests > 1:
            self._max_bytes = max(1, batch.size // 2)
            self._take_apart(batch)
            return
        for _, line in read_lines(self._folder.tasks(batch.name)):
            error = RequestFailedError(TOO_LARGE, reason, retryable=False)
            self._recorder.fail(BatchTask.from_line(line), error)
        self._steps.forget(batch)

    def _take_apart(self, batch: SubmittedBatch) -> None:
        """Return the tasks of a batch that the server never received."""
        tasks = [BatchTask.from_line(line) for _, line in read_lines(self._folder.tasks(batch.name))]
        with self._folder.write_waiting(batch.name) as waiting:
            waiting.writelines(task.line() for task in tasks if task.begun)
        batch = self._steps.save(replace(batch, phase="collected"))
        self._pending.put_back(task.record.key for task in tasks if not task.begun)
        self._pending.recount(self._folder.waiting(batch.name))
        with suppress(TryLaterError):
            self._steps.clean(batch)

    # A new batch.

    def _start_batch(self) -> bool:
        """Make another batch and send it; return False if there is nothing to send or the budget is used up."""
        room = self._budget.room(self._steps.requests)
        numbers, tasks = self._pending.take(self._max_requests if room is None else min(room, self._max_requests))
        if not len(numbers):
            if len(self._pending) and not self._steps.all:
                self.tally.stopped = self._budget.exceeded or OVER_BUDGET
            return False
        name = self._folder.new_name()
        file = InputFile(self._server.model, old_limit=self._old_limit, max_bytes=self._max_bytes)
        paths = self._folder.requests(name), self._folder.tasks(name)
        for _ in file.write(*paths, tasks, self._maker.part(numbers)):
            self._meter.note(f"preparing a batch: {file.requests:,} requests, {file.size / MEGA:.0f} MB")
        if file.requests:
            place, model = self._server.place, self._server.model
            self._steps.save(SubmittedBatch(name, place, model, file.requests, file.size, self._old_limit))
        else:
            self._folder.remove(name)
        for task, error in file.refused:
            self._recorder.fail(task, error)
        self._pending.drop(file.used)
        if file.requests:
            self._try(name)
        return True

    # Progress.

    def _show(self) -> None:
        now = time.monotonic()
        self.tally.seconds = now - self._start
        self.tally.cost = self._budget.spent - self._spent_before  # records include payments of earlier processes
        self._meter.set(self.tally.done)
        self._meter.note(self._note())
        if not console.console.is_terminal and now - self._line_at > LINE_SECONDS:
            self._line_at = now
            say(f"{self.tally.done:,} of {self.tally.total:,}: {self._note()}")

    def _note(self) -> str:
        """Return a short progress note on what is under way or, at the end, the counts."""
        names = [batch.name for batch in self._steps.all.values() if batch.open]
        if not names:
            return self.tally.note()
        reports = [self._reports.get(name, BatchReport()) for name in names]
        answered, failed = (sum(getattr(report, kind) for report in reports) for kind in ("answered", "failed"))
        parts = [counted(len(names), "batch"), f"{answered:,} of {self._steps.requests:,} answered"]
        parts += [f"{failed:,} failed"] if failed else []
        return ", ".join([*parts, duration(self.tally.seconds)])
