"""The event loop of a run: sends requests, handles their results, and stops cleanly.

Every task ends as one record with a text or an error, and a failing image does not delay the others. One loop hands out
the tasks:

    next task (a due retry, else a new one) -> budget covers it? -> wait for a free server -> send

Each request then runs as its own asyncio task, and its outcome decides: record the answer, record the failure, or queue
a retry. All of this happens in one thread; other threads only prepare pictures and flush files.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from gpt4image.core import console
from gpt4image.core.errors import DescribeError, Gpt4ImageError, ImageError
from gpt4image.core.format import counted, duration
from gpt4image.core.signals import catch_stop_signals
from gpt4image.describe.runner.ledger import Attempt, Ledger
from gpt4image.describe.runner.patience import (
    IGNORED_FAILURES,
    WAIT_SHOWN,
    RunSettings,
    asked_to_wait,
    never_answered,
    out_of_quota,
    retry_delay,
    standstill,
    too_many_failures,
)
from gpt4image.describe.tally import Tally, TallyMeter
from gpt4image.describe.tasks import Prepared, RequestMaker, feed
from gpt4image.llm.base import (
    MODEL_LOADING,
    UNREADABLE,
    Describer,
    EndpointDownError,
    RateLimitedError,
    Reply,
    RequestFailedError,
)
from gpt4image.llm.budget import OVER_BUDGET
from gpt4image.llm.rate_limiter import RateLimiter
from gpt4image.llm.server_pool import Server, ServerPool

TICK_SECONDS = 0.25
SYNC_TICKS = 4
QUEUE_SHARE = 0.25  # maximum share of an image's time limit for waiting in a server's queue


def run_tasks(
    maker: RequestMaker,
    describers: Sequence[Describer],
    ledger: Ledger,
    loop: asyncio.Runner,
    settings: RunSettings | None = None,
    *,
    title: str = "Describe",
) -> Tally:
    """Run all tasks. Each outcome is on disk before the event loop handles the next one.

    Args:
        maker: makes the tasks' requests.
        describers: servers that share the work; they are not closed.
        ledger: keeps the accounts and records; its tally says so if the budget ends the run.
        loop: the event loop of the describers.
        settings: limits of the run.
        title: what the progress line calls the run.

    Raises:
        DescribeError: no request can succeed, or all servers are down. Answers so far are recorded.
        StoreError: records cannot be written.
        KeyboardInterrupt: a signal stopped the run, after the open requests had finished.
    """
    with console.progress(title, len(maker)) as meter:
        runner = Runner(maker, ledger, settings or RunSettings(), TallyMeter(ledger.tally, meter))
        tally = loop.run(runner.run(describers))
    if runner.interrupted:
        raise KeyboardInterrupt
    return tally


class Runner:
    """One call of `run_tasks`, with the same arguments."""

    def __init__(self, maker: RequestMaker, ledger: Ledger, settings: RunSettings, meter: TallyMeter) -> None:
        self._maker, self._ledger, self._settings, self._meter = maker, ledger, settings, meter
        self.tally = ledger.tally
        self.interrupted = False
        # Every attempt without an outcome is in one of these places.
        self._held: Attempt | None = None  # about to be sent
        self._requests: set[asyncio.Task[None]] = set()  # open
        self._delayed: set[Attempt] = set()  # waits for its next try
        self._due: deque[Attempt] = deque()  # has waited
        self._left: list[Attempt] = []  # its request ended with an error that ends the run
        self._fatal: BaseException | None = None
        self._failed_in_a_row = 0
        self._last_refusal: RateLimitedError | None = None
        self._waits = False

    async def run(self, describers: Sequence[Describer]) -> Tally:
        """Send all tasks, wait for the open requests, and return the counts."""
        loop, settings = asyncio.get_running_loop(), self._settings
        self._clock = loop.time
        self._start = self._last_outcome = self._clock()
        self._news = asyncio.Event()  # a request ended, a retry is due, or the run should stop
        slow_seconds = settings.image_seconds * QUEUE_SHARE
        self._pool = ServerPool(describers, settings.down_seconds, slow_seconds, settings.check_seconds)
        ticker = asyncio.create_task(self._tick())
        with catch_stop_signals(partial(loop.call_soon_threadsafe, self._interrupt)):
            try:
                await self._send_all()
                if self._requests:  # they are paid for: let them finish
                    grace = settings.grace_seconds if self._pool.stopped else None
                    await asyncio.wait(self._requests, timeout=grace)
            finally:
                for task in (left := [ticker, *self._requests]):
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                await self._pool.close()
                self._record_unfinished()
                self._show_progress()
        if self._fatal is not None:
            raise self._fatal
        if (exceeded := self._ledger.budget.exceeded) and not self.tally.stopped:
            console.say(exceeded, style="yellow")
        return self.tally

    # Handing out tasks.

    async def _send_all(self) -> None:
        ahead = sum(server.describer.max_concurrency for server in self._pool.all)
        async with aclosing(feed(self._maker, ahead)) as prepared:
            while (attempt := await self._next(prepared, most_waiting=2 * ahead)) is not None:
                self._held = attempt
                try:
                    server = await self._pool.choose(attempt.server) if await self._can_pay() else None
                except DescribeError as error:  # all servers have been down for too long
                    self._give_up(error)
                    return
                if server is None:  # the run should stop
                    return
                self._held = None
                self._send(attempt, server)

    async def _next(self, prepared: AsyncGenerator[Prepared], most_waiting: int) -> Attempt | None:
        """Return the next task, due retries before new ones; None when all tasks have an outcome."""
        exhausted = False
        while not self._pool.stopped:
            if self._due:
                return self._due.popleft()
            if not exhausted and len(self._delayed) < most_waiting:
                try:
                    number, request = await anext(prepared)
                except StopAsyncIteration:
                    exhausted = True
                    continue
                if not isinstance(request, ImageError):
                    return self._ledger.begin(number, request)
                error = RequestFailedError(UNREADABLE, str(request), retryable=False)
                self._fail(self._ledger.begin(number, None), error)
            elif self._requests or self._delayed:
                await self._wait_for_news()
            else:
                return None
        return None

    async def _can_pay(self) -> bool:
        """Wait until the budget covers one more request; False if it never will, or the run should stop."""
        while not self._ledger.affords_another():
            if not self._requests:  # no open request could turn out cheaper than its worst case
                self.tally.stopped = self._ledger.budget.exceeded or OVER_BUDGET
                self._pool.stop()
                return False
            await self._wait_for_news()
        return not self._pool.stopped

    async def _wait_for_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _send(self, attempt: Attempt, server: Server) -> None:
        limiter = server.limiter  # kept: a server that comes back gets a new one
        limiter.in_flight += 1
        self._ledger.open(attempt)
        request = asyncio.create_task(self._follow(attempt, server, limiter))
        self._requests.add(request)
        request.add_done_callback(lambda ended: self._ended(ended, limiter))

    def _ended(self, request: asyncio.Task[None], limiter: RateLimiter) -> None:
        self._requests.discard(request)
        limiter.in_flight -= 1
        if not request.cancelled() and (error := request.exception()) is not None:
            self._give_up(error)
        self._pool.wake()
        self._news.set()

    # One request and what follows from its outcome.

    async def _follow(self, attempt: Attempt, server: Server, limiter: RateLimiter) -> None:
        attempt.server = server
        try:
            await self._try(attempt, server, limiter)
        except BaseException as error:  # any error ends the run, but what was paid for must still be recorded
            self._ledger.book_cause(attempt, error)
            self._left.append(attempt)
            raise

    async def _try(self, attempt: Attempt, server: Server, limiter: RateLimiter) -> None:
        sent, was_full = self._clock(), limiter.room <= 0
        try:
            reply = await self._ask(attempt, server)
        except TimeoutError:
            limiter.on_timeout(sent, self._clock())
            await self._timed_out(attempt, server, sent)
        except RateLimitedError as error:
            limiter.on_rate_limit(sent, self._clock(), error.seconds)
            server.on_refusal(error, self._clock(), self._settings.load_seconds)
            self._ledger.drop(attempt)
            self._last_refusal = error
            if error.long or (error.seconds or 0.0) > self._settings.patience_seconds:
                trouble = out_of_quota(server.describer.place, error)
                if not self._pool.leave_out(server, trouble, error.seconds):
                    self.tally.stopped = trouble
                    self._pool.stop()
            attempt.rate_limited += 1
            # If the server says how long to wait, the limiter waits; another server may take the request immediately.
            self._retry(attempt, retry_delay(attempt.rate_limited) if error.seconds is None else 0.0)
        except EndpointDownError as error:
            self._ledger.drop(attempt)
            self._pool.mark_down(server, str(error))
            self._lost_server(attempt, RequestFailedError("server gone", str(error), retryable=True))
        except RequestFailedError as error:
            if error.tokens_out:
                server.record_answer(self._clock())
            if error.server_fault and server.failures:  # not its first failure in a row
                limiter.on_timeout(sent, self._clock())
            self._failed(attempt, server, error)
        else:
            limiter.on_success(sent, self._clock(), was_full=was_full)
            server.record_success(self._clock())
            self._answered(attempt, server, reply)

    async def _ask(self, attempt: Attempt, server: Server) -> Reply:
        """Ask the remaining questions within the image's remaining time."""
        assert attempt.request is not None
        request = replace(attempt.request, answers=tuple(attempt.answers))
        sent, left = self._clock(), self._settings.image_seconds - attempt.seconds
        book = partial(self._ledger.book_answer, attempt)
        answer = asyncio.ensure_future(server.describer.describe(request, book))
        try:
            await self._pool.wait_for(answer, server, left, self._settings.load_seconds)
            return answer.result()
        except asyncio.CancelledError:
            self._ledger.book_failure(attempt, RequestFailedError("cancelled", retryable=True).uncounted())
            raise
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            attempt.seconds += max(0.0, self._clock() - max(sent, server.answered_at or sent))

    async def _timed_out(self, attempt: Attempt, server: Server, sent: float) -> None:
        """Handle a time-out: an image must not fail because a server hangs."""
        limit = f"more than {self._settings.image_seconds:.0f} s"
        error = RequestFailedError("time limit", limit, retryable=False, server_fault=True).uncounted()
        self._ledger.book_failure(attempt, error)
        self._ledger.save_failed_try(attempt)  # the health check below may take long, and the process may be killed
        seconds = self._clock() - sent
        silent = server.last_response < sent + seconds / 2  # it has not answered anything else either
        if server.alive and server.answered_at is None and not server.in_process:
            trouble = never_answered(server.describer.place, self._settings.load_seconds)
            if not self._pool.leave_out(server, trouble):
                self._give_up(DescribeError(f"{trouble}. Answers so far are kept; the same command resumes."))
        elif not silent or not await self._server_is_to_blame(attempt, server, error):
            self._fail(attempt, error)
            return
        attempt.seconds = max(0.0, attempt.seconds - seconds)
        self._lost_server(attempt, error)

    async def _server_is_to_blame(self, attempt: Attempt, server: Server, error: RequestFailedError) -> bool:
        """Whether a silent server is down or, for the first time-out of an attempt, another server may do better."""
        if await self._pool.is_unresponsive(server):
            return True
        elsewhere = not attempt.timeouts and self._pool.has_healthy_other(server)
        attempt.timeouts += 1
        self._pool.record_failure(server, str(error))
        return elsewhere

    def _failed(self, attempt: Attempt, server: Server, error: RequestFailedError) -> None:
        self._ledger.book_failure(attempt, error)
        server.last_response = self._clock()
        if not error.server_fault:
            server.record_success(self._clock())
        elif self._pool.record_failure(server, str(error)):
            self._lost_server(attempt, error)
            return
        attempt.tries += 1
        settings = self._settings
        if error.retryable and attempt.tries < settings.attempts and attempt.seconds < settings.image_seconds:
            self._retry(attempt, retry_delay(attempt.tries))
        else:
            self._fail(attempt, error)

    def _lost_server(self, attempt: Attempt, error: RequestFailedError) -> None:
        attempt.servers_lost += 1
        if attempt.servers_lost < self._settings.servers_lost:
            self._retry(attempt, 0.0)
        else:
            self._fail(attempt, error)

    def _retry(self, attempt: Attempt, delay: float) -> None:
        self.tally.tried_again += 1
        self._ledger.save_failed_try(attempt)
        self._delayed.add(attempt)
        asyncio.get_running_loop().call_later(delay, self._retry_is_due, attempt)

    def _retry_is_due(self, attempt: Attempt) -> None:
        if attempt in self._delayed:
            self._delayed.remove(attempt)
            self._due.append(attempt)
            self._news.set()

    def _answered(self, attempt: Attempt, server: Server, reply: Reply) -> None:
        self._ledger.book_reply(attempt, reply)
        try:
            outcome = self._maker.outcome(attempt.number, reply)
        except RequestFailedError as error:
            del attempt.answers[len(reply.texts) - 1 :]  # the last question may be asked again
            self._failed(attempt, server, error)
            return
        self._failed_in_a_row = 0
        self._last_outcome = self._clock()
        self._ledger.record(attempt, describer=server.describer.name, **outcome)

    def _fail(self, attempt: Attempt, error: RequestFailedError) -> None:
        describer = attempt.server.describer.name if attempt.server else ""
        self._last_outcome = self._clock()
        self._ledger.record(attempt, error=error.reason, detail=error.detail, describer=describer)
        if error.reason in IGNORED_FAILURES:
            return
        self._failed_in_a_row += 1
        limit = self._settings.max_failures_in_a_row if self.tally.answered else self._settings.max_failures_at_first
        if self._failed_in_a_row >= limit:
            self._give_up(too_many_failures(self._failed_in_a_row, self.tally, error))

    # Stopping and progress.

    def _give_up(self, error: BaseException) -> None:
        self._fatal = self._fatal or error
        self._pool.stop()
        self._news.set()

    def _interrupt(self) -> None:
        """Stop sending at the first signal; at the second, cancel the open requests as well."""
        if self.interrupted:
            for request in self._requests:
                request.cancel()
        self.interrupted = True
        console.say(f"Stopping: waiting for {counted(len(self._requests), 'request')}. Press Ctrl-C again to stop now.")
        self._pool.stop()
        self._news.set()

    def _record_unfinished(self) -> None:
        try:
            self._ledger.record_unfinished([*self._left, *filter(None, [self._held]), *self._delayed, *self._due])
            self._delayed.clear()
            self._ledger.sync()
        except Gpt4ImageError as error:
            self._fatal = self._fatal or error

    async def _tick(self) -> None:
        """Show progress, flush records to disk, and stop a run that makes no progress."""
        for tick in itertools.count(1):
            await asyncio.sleep(TICK_SECONDS)
            self._show_progress()
            if tick % SYNC_TICKS == 0:
                await asyncio.to_thread(self._ledger.sync)
            idle = self._clock() - self._last_outcome
            if idle > self._patience and not self._requests and (self._delayed or self._held):
                self._give_up(standstill(idle, self._last_refusal))

    @property
    def _patience(self) -> float:
        """Seconds without an outcome after which the run stops; more while a model is loading."""
        loading = self._last_refusal is not None and self._last_refusal.reason == MODEL_LOADING
        return self._settings.load_seconds if loading and not self.tally.done else self._settings.patience_seconds

    def _show_progress(self) -> None:
        self.tally.seconds = self._clock() - self._start
        wait = 0.0 if self._requests else self._pool.asked_wait(self._clock())
        if wait >= WAIT_SHOWN and not self._waits:
            console.say(asked_to_wait(wait, self._last_refusal))
        self._waits = wait >= WAIT_SHOWN
        self._meter.show(f", waits {duration(wait)} as asked" if wait >= 1 else "")
