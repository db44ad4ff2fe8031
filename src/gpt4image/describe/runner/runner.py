"""Runs tasks to their end: every outcome is a durable record, and one bad image holds up no other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from gpt4image.core import console
from gpt4image.core.console import counted
from gpt4image.core.errors import DescribeError, Gpt4ImageError, ImageError
from gpt4image.describe.runner.ledger import Attempt, Ledger, WaitingRoom, back_off
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Prepared, RequestMaker, feed
from gpt4image.descriptions.store.conversations import Conversations
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.llm.base import Describer, EndpointDownError, RateLimitedError, Reply, RequestFailedError
from gpt4image.llm.budget import OVER_BUDGET, Budget
from gpt4image.llm.rate_limiter import RateLimiter
from gpt4image.llm.server_pool import Server, ServerPool


@dataclass(frozen=True)
class RunSettings:
    """How patient a job is. Nothing here decides what is asked.

    Attributes:
        image_seconds: time for one description, all its calls together, waiting excluded.
        attempts: calls for one description that may fail because of it.
        servers_lost: times that a server may be gone, or only fail, when one description is sent, before that counts
            as failed.
        patience_seconds: how long servers may push everything back before the job stops.
        down_seconds: how long all servers may be down before the job stops.
        check_seconds: how long a server that owes an answer may take to say that it is there.
        max_failures_at_first: failures before the first answer after which the job stops.
        max_failures_in_a_row: failures in a row after which the job stops.
        grace_seconds: time that requests under way get to end when the job is stopped.
    """

    image_seconds: float = 180.0
    attempts: int = 4
    servers_lost: int = 10
    patience_seconds: float = 600.0
    down_seconds: float = 60.0
    check_seconds: float = 15.0
    max_failures_at_first: int = 20
    max_failures_in_a_row: int = 200
    grace_seconds: float = 30.0


async def cancel(tasks: set[asyncio.Task[None]]) -> None:
    """End tasks, and wait until they have."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM in place of dying; outside the main thread signals are left alone."""
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, stop)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def too_many_failures(in_a_row: int, tally: Tally, last: Exception) -> DescribeError:
    """Why a job ends in which everything fails."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.failures.most_common(3))
    return DescribeError(
        f"{in_a_row:,} descriptions in a row have failed ({reasons}), the last one with: {last}. Mend that, and try "
        "them again: --retry-failed."
    )


def standstill(seconds: float) -> DescribeError:
    """Why a job ends in which nothing moves any more."""
    return DescribeError(
        f"The servers have pushed everything back for {seconds:.0f} s. What was answered is kept: give the same "
        "command again later."
    )


TICK_SECONDS = 0.25


SYNC_TICKS = 4


LINE_SECONDS = 60.0


QUEUE_SHARE = 0.25


"""Share of an image's time that it should spend waiting in a server's queue, at most."""


UNREADABLE = "unreadable picture"


IGNORED_FAILURES = (UNREADABLE, "not recorded")


"""Failures that say nothing about the describer: any number of them may come in a row."""


def run_tasks(
    maker: RequestMaker,
    describers: Sequence[Describer],
    writer: RecordWriter,
    budget: Budget,
    loop: asyncio.Runner,
    settings: RunSettings | None = None,
    *,
    conversations: Conversations | None = None,
    title: str = "Describe",
) -> Tally:
    """Have all tasks described. Every outcome is in the writer's part before the next is looked at.

    Args:
        maker: the tasks, as requests.
        describers: servers that share the work; they stay open.
        writer: takes the records.
        budget: what may be spent; the tally says so when it ends the job.
        loop: the loop that the describers live in.
        settings: how patient the job is.
        conversations: those that were begun; without, a conversation that is cut off is not gone on with.
        title: what the progress line calls it.

    Raises:
        DescribeError: no request can go well, or the servers are gone. What was answered is kept.
        StoreError: records cannot be written.
        KeyboardInterrupt: the job was stopped by a signal, after the requests under way had ended.
    """
    with console.progress(title, len(maker)) as meter:
        runner = Runner(maker, writer, budget, settings or RunSettings(), meter, conversations)
        tally = loop.run(runner.run(describers))
    if runner.interrupted:
        raise KeyboardInterrupt
    return tally


class Runner:
    """One job.

    Args:
        maker: the tasks.
        writer: takes the records.
        budget: what may be spent.
        settings: how patient the job is.
        meter: the progress line.
        conversations: those that were begun.
    """

    def __init__(
        self,
        maker: RequestMaker,
        writer: RecordWriter,
        budget: Budget,
        settings: RunSettings,
        meter: console.Meter,
        conversations: Conversations | None = None,
    ) -> None:
        self._maker, self._writer, self._budget, self._settings = maker, writer, budget, settings
        self._meter = meter
        self.tally = Tally(len(maker))
        self._ledger = Ledger(maker, writer, budget, self.tally, conversations)
        self.interrupted = False
        self._waiting = WaitingRoom()
        self._calls: set[asyncio.Task[None]] = set()
        self._left: list[Attempt] = []
        self._held: Attempt | None = None
        self._fatal: BaseException | None = None
        self._failed_in_a_row = 0

    async def run(self, describers: Sequence[Describer]) -> Tally:
        """Send, wait for what is under way, and say how it went."""
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._start = self._last_outcome = self._clock()
        self._news = asyncio.Event()
        patience = self._settings
        slow_seconds = patience.image_seconds * QUEUE_SHARE
        self._pool = ServerPool(describers, patience.down_seconds, slow_seconds, patience.check_seconds)
        ticker = asyncio.create_task(self._tick())
        with stop_on_signals(loop, self._interrupt):
            try:
                await self._send_all()
                await self._drain()
            finally:
                ticker.cancel()
                await cancel(self._calls)
                await self._pool.close()
                self._leave_rest()
                self._show()
        if self._fatal is not None:
            raise self._fatal
        return self.tally

    async def _send_all(self) -> None:
        ahead = sum(server.describer.max_concurrency for server in self._pool.all)
        async with aclosing(feed(self._maker, ahead)) as prepared:
            while (attempt := await self._next(prepared, most_waiting=2 * ahead)) is not None:
                self._held = attempt
                server = await self._find_server(attempt) if await self._can_pay() else None
                if server is None:
                    return
                self._held = None
                self._send(attempt, server)

    async def _find_server(self, attempt: Attempt) -> Server | None:
        """Where an attempt is sent; None where it no longer is."""
        try:
            return await self._pool.choose(attempt.last)
        except DescribeError as error:
            self._give_up(error)
            return None

    def _leave_rest(self) -> None:
        """Write down what was paid for tasks that have no outcome yet."""
        held = [self._held] if self._held else []
        try:
            self._ledger.record_unfinished([*self._left, *held, *self._waiting.clear()])
            self._writer.sync()
        except Gpt4ImageError as error:
            self._fatal = self._fatal or error

    async def _next(self, prepared: AsyncGenerator[Prepared], most_waiting: int) -> Attempt | None:
        """The next task to send: one whose wait is over, or a new one; None when all have an outcome."""
        exhausted = False
        while not self._pool.stopped:
            if attempt := self._waiting.take(self._clock()):
                return attempt
            if not exhausted and len(self._waiting) < most_waiting:
                try:
                    number, request = await anext(prepared)
                except StopAsyncIteration:
                    exhausted = True
                    continue
                if isinstance(request, ImageError):
                    error = RequestFailedError(UNREADABLE, str(request), retryable=False)
                    self._fail(self._ledger.take_up(number, None), None, error)
                else:
                    return self._ledger.take_up(number, request)
            elif self._calls or len(self._waiting):
                await self._wait_for_news(self._waiting.seconds_left(self._clock()))
            else:
                return None
        return None

    async def _can_pay(self) -> bool:
        """Wait until one more request fits into the budget; False when it never will."""
        while not self._budget.affords(len(self._calls)):
            if not self._calls:
                self.tally.stopped = OVER_BUDGET
                self._pool.stop()
                return False
            await self._wait_for_news(None)
        return not self._pool.stopped

    async def _wait_for_news(self, seconds: float | None) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def _send(self, attempt: Attempt, server: Server) -> None:
        limiter = server.limiter
        limiter.in_flight += 1
        call = asyncio.create_task(self._call(attempt, server, limiter))
        self._calls.add(call)
        call.add_done_callback(lambda done: self._ended(done, limiter))

    def _ended(self, call: asyncio.Task[None], limiter: RateLimiter) -> None:
        self._calls.discard(call)
        limiter.in_flight -= 1
        if not call.cancelled() and (error := call.exception()) is not None:
            self._give_up(error)
        self._pool.wake()
        self._news.set()

    async def _call(self, attempt: Attempt, server: Server, limiter: RateLimiter) -> None:
        """One call and what follows from its outcome."""
        attempt.last = server
        try:
            await self._try(attempt, server, limiter)
        except BaseException:
            self._left.append(attempt)
            raise

    async def _try(self, attempt: Attempt, server: Server, limiter: RateLimiter) -> None:
        sent, was_full = self._clock(), limiter.room <= 0
        try:
            reply = await self._ask(attempt, server.describer)
        except TimeoutError:
            limiter.on_timeout(sent, self._clock())
            await self._ran_out_of_time(attempt, server, sent)
        except RateLimitedError as error:
            limiter.on_rate_limit(sent, self._clock(), error.seconds)
            server.last_response = self._clock()
            self._ledger.book_answers(attempt)
            attempt.rate_limited += 1
            # where the server says how long to wait, it is the server that is left alone: another one may be free
            self._try_again(attempt, back_off(attempt.rate_limited) if error.seconds is None else 0.0)
        except EndpointDownError as error:
            self._ledger.book_answers(attempt)
            self._pool.mark_down(server, str(error))
            self._lost_server(attempt, server, RequestFailedError("server gone", str(error), retryable=True))
        except RequestFailedError as error:
            if error.server_fault and server.failures:
                limiter.on_timeout(sent, self._clock())
            self._failed_call(attempt, server, error)
        else:
            limiter.on_success(sent, self._clock(), was_full=was_full)
            server.record_success(self._clock())
            self._answer(attempt, server, reply)

    async def _ask(self, attempt: Attempt, describer: Describer) -> Reply:
        """One call, within what is left of the image's time."""
        assert attempt.request is not None
        sent = self._clock()
        try:
            async with asyncio.timeout(self._settings.image_seconds - attempt.seconds):
                return await describer.describe(attempt.request)
        except asyncio.CancelledError:
            self._ledger.book_failure(attempt, RequestFailedError("broken off", retryable=True).uncounted())
            raise
        finally:
            attempt.seconds += self._clock() - sent

    async def _ran_out_of_time(self, attempt: Attempt, server: Server, sent: float) -> None:
        """Find out whose fault it is that no answer came: a server that hangs costs no image its description."""
        limit = f"more than {self._settings.image_seconds:.0f} s"
        error = RequestFailedError("time limit", limit, retryable=False, server_fault=True).uncounted()
        self._ledger.book_failure(attempt, error)
        self._ledger.note_failure(attempt)  # whose fault it is may take long to find out
        seconds = self._clock() - sent
        silent = server.last_response < sent + seconds / 2
        if not silent or not await self._is_its_fault(attempt, server, error):
            self._fail(attempt, server, error)
            return
        attempt.seconds = max(0.0, attempt.seconds - seconds)
        self._lost_server(attempt, server, error)

    async def _is_its_fault(self, attempt: Attempt, server: Server, error: RequestFailedError) -> bool:
        """Whether a server that was silent is to blame: it is gone, or another one may know better, once."""
        if await self._pool.is_unresponsive(server):
            return True
        elsewhere = not attempt.timeouts and self._pool.has_healthy_other(server)
        attempt.timeouts += 1
        self._pool.record_failure(server, str(error))
        return elsewhere

    def _failed_call(self, attempt: Attempt, server: Server, error: RequestFailedError) -> None:
        self._ledger.book_failure(attempt, error)
        server.last_response = self._clock()
        if not error.server_fault:
            server.record_success(self._clock())
        elif self._pool.record_failure(server, str(error)):
            self._lost_server(attempt, server, error)
            return
        attempt.tries += 1
        if (
            error.retryable
            and attempt.tries < self._settings.attempts
            and attempt.seconds < self._settings.image_seconds
        ):
            self._try_again(attempt, back_off(attempt.tries))
        else:
            self._fail(attempt, server, error)

    def _lost_server(self, attempt: Attempt, server: Server, error: RequestFailedError) -> None:
        attempt.servers_lost += 1
        if attempt.servers_lost < self._settings.servers_lost:
            self._try_again(attempt, 0.0)
        else:
            self._fail(attempt, server, error)

    def _try_again(self, attempt: Attempt, wait: float) -> None:
        self.tally.tried_again += 1
        self._ledger.note_failure(attempt)
        self._waiting.put(attempt, self._clock() + wait)

    def _answer(self, attempt: Attempt, server: Server, reply: Reply) -> None:
        self._failed_in_a_row = 0
        self._ledger.book_reply(attempt, reply)
        self._last_outcome = self._clock()
        self._ledger.record(
            attempt,
            text=self._maker.join(attempt.number, reply.texts),
            describer=server.describer.name,
            served_model=reply.model,
            finish_reason=reply.finish_reason,
        )

    def _fail(self, attempt: Attempt, server: Server | None, error: RequestFailedError) -> None:
        describer = server.describer.name if server else ""
        self._last_outcome = self._clock()
        self._ledger.record(attempt, error=error.reason, detail=error.detail, describer=describer)
        if error.reason not in IGNORED_FAILURES:
            self._failed_in_a_row += 1
            self._check_failures_in_a_row(error)

    def _check_failures_in_a_row(self, error: RequestFailedError) -> None:
        """Stop where everything fails: the fault is hardly the images'."""
        limit = self._settings.max_failures_in_a_row if self.tally.answered else self._settings.max_failures_at_first
        if self._failed_in_a_row < limit:
            return
        self._give_up(too_many_failures(self._failed_in_a_row, self.tally, error))

    def _give_up(self, error: BaseException) -> None:
        self._fatal = self._fatal or error
        self._pool.stop()
        self._news.set()

    def _interrupt(self) -> None:
        """Stop sending at the first signal, stop waiting at the second."""
        if self.interrupted:
            for call in self._calls:
                call.cancel()
            return
        self.interrupted = True
        self.tally.stopped = "it was stopped"
        under_way = counted(len(self._calls), "request")
        console.say(f"Stopping: {under_way} under way may end. Once more to stop at once.")
        self._pool.stop()
        self._news.set()

    async def _drain(self) -> None:
        """Let what is under way end: it is paid for."""
        patience = self._settings.grace_seconds if self._pool.stopped else None
        if self._calls:
            await asyncio.wait(self._calls, timeout=patience)

    async def _tick(self) -> None:
        """Show progress, bring records to the disk, and notice when nothing moves any more."""
        ticks, line_due = 0, LINE_SECONDS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks += 1
            self._show()
            if not console.console.is_terminal and self._clock() - self._start > line_due:
                line_due += LINE_SECONDS
                left = self.tally.time_left()
                console.say(f"{self.tally.done:,} of {self.tally.total:,}: {self._note()}{left}")
            if ticks % SYNC_TICKS == 0:
                await asyncio.to_thread(self._writer.sync)
                await asyncio.to_thread(self._ledger.sync_conversations)
            self._look_for_standstill()

    def _look_for_standstill(self) -> None:
        """Stop where nothing moves any more."""
        idle = self._clock() - self._last_outcome
        if idle > self._settings.patience_seconds and not self._calls and (len(self._waiting) or self._held):
            self._give_up(standstill(idle))

    def _show(self) -> None:
        self.tally.seconds = self._clock() - self._start
        self._meter.set(self.tally.done)
        self._meter.note(self._note())

    def _note(self) -> str:
        rate = self.tally.done / max(self._clock() - self._start, 1e-9)
        return self.tally.note(rate, priced=self.tally.cost > 0)
