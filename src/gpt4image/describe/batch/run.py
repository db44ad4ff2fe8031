"""Runs tasks through the batch interface: makes batches, waits for them, and collects what they bring."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gpt4image.core import console
from gpt4image.core.console import counted, say
from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.core.files import exclusive
from gpt4image.core.format import rough_duration
from gpt4image.describe.batch.inputs import Form, Made, make_input
from gpt4image.describe.batch.jobs import Asked, BatchFolder, Job, Jobs, new_job, read_asked
from gpt4image.describe.batch.pending import Load, Pending
from gpt4image.describe.batch.results import Collected, Recorder, collect
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.description_store import DescriptionStore
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.llm.base import RequestFailedError
from gpt4image.llm.batch_api import (
    OVER,
    BatchServer,
    Found,
    MissingError,
    QueueFullError,
    TooLargeError,
    TryLaterError,
    counts_of,
    problems_of,
    result_files,
    was_turned_away,
)
from gpt4image.llm.budget import OVER_BUDGET, Budget
from gpt4image.llm.credentials import is_openai
from gpt4image.llm.errors import shorten


@dataclass(frozen=True)
class BatchSettings:
    """Nothing here decides what is asked.

    Attributes:
        most_requests: requests of a batch, at most; OpenAI takes no more than the default.
        most_bytes: size of a batch's input file, at most; likewise.
        most_batches: batches under way at a time, at most.
        attempts: times that a question may fail because of its request before that is its outcome.
        first_pause: seconds between two looks at the batches in the beginning.
        longest_pause: the pause that it grows to while nothing happens.
        create_seconds: how long a batch, the answer to whose making was lost, may take to show up in the list.
        down_seconds: how long the server may be out of reach before the job stops.
        hopeless: failures of a batch without any answer after which the job stops.
    """

    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    most_batches: int = 8
    attempts: int = 2
    first_pause: float = 2.0
    longest_pause: float = 60.0
    create_seconds: float = 120.0
    down_seconds: float = 3600.0
    hopeless: int = 20

    def __post_init__(self) -> None:
        for name in ("most_requests", "most_bytes", "most_batches", "attempts", "first_pause"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Limits:
    """The largest input file.

    Attributes:
        requests: its requests, at most.
        size: its bytes, at most.
    """

    requests: int
    size: int

    def times(self, factor: float) -> Limits:
        """Other limits, one request at least."""
        return Limits(max(1, int(self.requests * factor)), max(1, int(self.size * factor)))

    def within(self, most: Limits) -> Limits:
        """These limits where they are below others, else those."""
        return Limits(min(self.requests, most.requests), min(self.size, most.size))


PAUSE_GROWTH = 1.5


LINE_SECONDS = 600.0


MEGA = 10**6


def run_batches(
    maker: RequestMaker,
    server: BatchServer,
    store: DescriptionStore,
    writer: RecordWriter,
    folder: Path,
    budget: Budget,
    settings: BatchSettings | None = None,
    title: str = "Describe in batches",
) -> Tally:
    """Have all tasks described through a vendor's batch interface, batches that are under way already included.

    Args:
        maker: the tasks, as requests.
        server: where they are asked; closed at the end.
        store: what is answered already.
        writer: takes the records; a part of that store.
        folder: keeps what is known of batches under way. A process that takes it over goes on where one was killed.
        budget: what may be spent, at the price of the batch interface; the tally says so when it ends the job.
        settings: how large batches are, and how patient the job is.
        title: what the progress line calls it.

    Raises:
        BusyError: another process is at work on the same batches.
        DescribeError: no request can go well, or the server is gone. Batches under way go on at the server.
        KeyboardInterrupt: the job was stopped. Batches under way go on at the server.
        StoreError: records cannot be written, or the state of batches cannot be read.
    """
    with exclusive(folder / "lock", f"the batches in {folder}"), console.progress(title, len(maker)) as meter:
        run = BatchRun(maker, server, store, writer, folder, budget, settings or BatchSettings(), meter)
        try:
            return run.run()
        finally:
            run.say_what_goes_on()
            server.close()


class BatchRun:
    """One job.

    Args:
        maker: the tasks.
        server: where they are asked.
        store: what is answered already.
        writer: takes the records.
        folder: keeps what is known of batches under way.
        budget: what may be spent.
        settings: how large batches are, and how patient the job is.
        meter: the progress line.
    """

    def __init__(
        self,
        maker: RequestMaker,
        server: BatchServer,
        store: DescriptionStore,
        writer: RecordWriter,
        folder: Path,
        budget: Budget,
        settings: BatchSettings,
        meter: console.Meter,
    ) -> None:
        self._maker, self._server, self._budget, self._settings = maker, server, budget, settings
        self._meter, self._folder = meter, BatchFolder(folder)
        self._folder.tidy()
        self._jobs = Jobs(server, self._folder, settings.create_seconds)
        conversations = store.conversations()
        self._pending = Pending(maker, self._folder, store.keys().answered, conversations)
        budget.spent += self._folder.spent(server.model)
        self.tally = Tally(len(self._pending) + self._jobs.requests)
        self._recorder = Recorder(writer, budget, self.tally, conversations)
        self._limits = self._most = Limits(settings.most_requests, settings.most_bytes)
        self._at_once, self._old_limit = settings.most_batches, not is_openai(server.place)
        self._counts: dict[str, tuple[int, int]] = {}
        self._trouble: TryLaterError | None = None
        self._problem: DescribeError | None = None
        self._wait = settings.first_pause
        self._start = self._in_touch = self._line_at = time.monotonic()

    def run(self) -> Tally:
        """Go on until nothing is under way and nothing more can be sent."""
        if self._jobs.others:
            say(f"{counted(self._jobs.others, 'batch')} of other models or servers: their own commands collect them")
        if self._jobs.all or len(self._pending):
            self._server.check()
            self._go_round()
        while self._jobs.all:
            self._pause()
            self._go_round()
        self.tally.total = self.tally.done + len(self._pending)
        return self.tally

    def say_what_goes_on(self) -> None:
        """Tell the user, at an early end, what the server goes on with."""
        under_way = self._jobs.at_server()
        if under_way:
            say(
                f"{counted(under_way, 'batch')} under way at {self._server.place}, which goes on by itself. The same "
                "command collects the answers, now or later."
            )

    def _go_round(self) -> None:
        """Bring every batch on, and begin new ones."""
        before, self._trouble = dict(self._jobs.all), None
        for name in before:
            self._try(name)
        while self._may_begin() and self._begin():
            pass
        if self._problem is not None:
            raise self._problem
        self._look_for_silence()
        if self._jobs.all != before:
            self._wait = self._settings.first_pause
        self._show()

    def _may_begin(self) -> bool:
        well = self._problem is None and self._trouble is None and not self.tally.stopped
        return well and len(self._jobs.all) < self._at_once

    def _look_for_silence(self) -> None:
        """DescribeError where the server has been out of reach for too long."""
        now = time.monotonic()
        if self._trouble is None:
            self._in_touch = now
        elif now - self._in_touch > self._settings.down_seconds:
            raise DescribeError(
                f"{self._server.place}: {self._trouble}, for {rough_duration(now - self._in_touch)} by now. "
                "Nothing is lost: give the same command again later."
            )

    def _pause(self) -> None:
        asked, longest = self._trouble.wait if self._trouble is not None else None, self._settings.longest_pause
        time.sleep(max(self._wait, min(asked or 0.0, longest)))
        self._wait = min(self._wait * PAUSE_GROWTH, longest)

    def _try(self, name: str) -> None:
        """Bring a batch on as far as the server lets it. What ends the job is kept until the others had their turn."""
        try:
            self._advance(self._jobs.all[name])
        except DescribeError as error:
            self._problem = self._problem or error
        except TryLaterError as error:
            self._trouble = error
        except TooLargeError as error:
            self._make_smaller(self._jobs.all[name], str(error))
        except QueueFullError as error:
            self._stand_back(self._jobs.all[name], str(error))

    def _advance(self, job: Job) -> None:
        if self.tally.stopped and job.phase in ("made", "uploading", "uploaded"):
            self._take_apart(job)
            return
        if job.phase in ("made", "uploading"):
            job = self._jobs.upload(job)
        if job.phase == "uploaded" and self._jobs.at_server() < self._at_once:
            self._jobs.create(job)
            size = f"{job.size / MEGA:,.1f} MB"
            say(f"A batch of {counted(job.requests, 'request')} ({size}) is at {self._server.place}.")
        elif job.phase == "creating":
            self._jobs.recover(job)
        elif job.phase == "created":
            self._look(job)
        elif job.phase == "collected":
            self._jobs.clean(job)

    def _look(self, job: Job) -> None:
        batch = self._jobs.look(job)
        self._counts[job.name] = counts_of(batch)
        if batch.get("status") not in OVER:
            return
        if was_turned_away(batch):
            raise QueueFullError(self._reasons(batch))
        self._collect(job, batch)

    def _collect(self, job: Job, batch: Found) -> None:
        try:
            found = collect(job, batch, self._folder, self._server, self._recorder, self._settings.attempts)
        except MissingError:
            raise self._jobs.gone(job, f"has no answers of batch {job.batch} any more") from None
        job = self._jobs.save(replace(job, phase="collected", results=tuple(result_files(batch))))
        self._pending.put_back(found.put_back)
        self._pending.survey(self._folder.waiting_of(job.name))
        problem = self._judge(job, batch, found)
        if problem is None:
            self._jobs.clean(job)
            return
        with suppress(TryLaterError):
            self._jobs.clean(job)
        raise problem

    def _judge(self, job: Job, batch: Found, found: Collected) -> DescribeError | None:
        """What a batch's end means for the others; an error where none can go well."""
        self._old_limit &= not found.refused_limit
        match batch.get("status"):
            case "failed":
                return DescribeError(
                    f"{self._server.place} refused a batch of {counted(job.requests, 'request')} as a whole: "
                    f"{self._reasons(batch)}"
                )
            case "cancelled":
                self.tally.stopped = "a batch was cancelled at the server"
            case "expired" if not found.answered:
                self.tally.stopped = "a batch expired before the server had answered any of it"
            case _:
                self._limits = self._limits.times(2).within(self._most)
        failed = found.failures.total()
        if found.hopeless is None and not found.answered and failed >= self._settings.hopeless:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.failures.most_common(3))
            return DescribeError(
                f"All requests of a batch have failed ({reasons}). Mend that, and try them again: --retry-failed."
            )
        return found.hopeless

    def _reasons(self, batch: Found) -> str:
        said = "; ".join(message for _, message in problems_of(batch)) or "it does not say why."
        return shorten(self._server.key.scrub(said))

    def _stand_back(self, job: Job, reason: str) -> None:
        """The server's queue is full: wait for our other batches, or send fewer requests."""
        others = self._jobs.at_server() - (job.phase == "created")
        if others:
            self._at_once = others
            self._jobs.save(replace(job, phase="uploaded", batch=""))
        elif job.requests > 1:
            self._limits = replace(self._limits, requests=job.requests // 2)
            say(f"The server's queue is full: batches of {self._limits.requests:,} now. It says: {reason}")
            self._take_apart(job)
        else:
            self._take_apart(job)
            raise DescribeError(
                f"{self._server.place} takes not even one request into its queue. It says: {reason} Wait until other "
                "batches are over, and give the same command again."
            )

    def _make_smaller(self, job: Job, reason: str) -> None:
        """The server takes no file of that size."""
        if job.requests > 1:
            self._limits = self._most = replace(self._limits, size=max(1, job.size // 2))
            self._take_apart(job)
            return
        for _, line in read_asked(self._folder.tasks(job.name)):
            self._recorder.fail(
                Asked.from_line(line), RequestFailedError("too large for a batch", reason, retryable=False)
            )
        self._jobs.forget(job)

    def _take_apart(self, job: Job) -> None:
        """Have the tasks of a batch that never was go into others."""
        asked = [Asked.from_line(line) for _, line in read_asked(self._folder.tasks(job.name))]
        with self._folder.wait_file(job.name) as waiting:
            waiting.writelines(task.line() for task in asked if task.begun)
        job = self._jobs.save(replace(job, phase="collected"))
        self._pending.put_back(task.record.key for task in asked if not task.begun)
        self._pending.survey(self._folder.waiting_of(job.name))
        with suppress(TryLaterError):
            self._jobs.clean(job)

    def _begin(self) -> bool:
        """Make another batch and send it; False where there is nothing to send, or no money for it."""
        room = self._budget.room(self._jobs.requests)
        most = self._limits.requests if room is None else min(room, self._limits.requests)
        load = self._pending.take(most)
        if len(load.numbers):
            self._make(load)
        elif len(self._pending) and not self._jobs.all:
            self.tally.stopped = OVER_BUDGET
        return bool(len(load.numbers))

    def _make(self, load: Load) -> None:
        name, form = self._folder.new_name(), Form(self._server.model, self._old_limit, self._limits.size)
        files, part = (self._folder.tasks(name), self._folder.requests(name)), self._maker.part(load.numbers)
        made = Made()
        for made in make_input(*files, load.asked(self._maker), part, form):
            self._meter.note(f"a batch in the making: {made.requests:,} requests, {made.size / MEGA:.0f} MB")
        if made.requests:
            place, model = self._server.place, form.model
            job = new_job(name, place, model, requests=made.requests, size=made.size, old_limit=form.old_limit)
            self._jobs.save(job)
        else:
            self._folder.remove(name)
        for asked, error in made.refused:
            self._recorder.fail(asked, error)
        self._pending.drop(load, made.used)
        if made.requests:
            self._try(name)

    def _show(self) -> None:
        now = time.monotonic()
        self.tally.seconds = now - self._start
        self._meter.set(self.tally.done)
        self._meter.note(self._note())
        if not console.console.is_terminal and now - self._line_at > LINE_SECONDS:
            self._line_at = now
            say(f"{self.tally.done:,} of {self.tally.total:,}: {self._note()}")

    def _note(self) -> str:
        """What is under way, short enough to stand beside a progress bar; at the end, what it has come to."""
        under_way = [job for job in self._jobs.all.values() if job.phase != "collected"]
        if not under_way:
            return self.tally.note()
        done, failed = map(sum, zip(*(self._counts.get(job.name, (0, 0)) for job in under_way), strict=True))
        parts = [counted(len(under_way), "batch"), f"{done:,} of {self._jobs.requests:,} answered"]
        parts += [f"{failed:,} failed"] if failed else []
        return ", ".join([*parts, rough_duration(self.tally.seconds)])
