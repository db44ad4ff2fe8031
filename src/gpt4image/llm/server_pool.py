"""A pool of servers, with health checks and a circuit breaker for each.

A server leaves the pool when it cannot be reached, hangs, or only fails while another one is healthy. A health check
brings it back; a server that only failed returns on probation, with one request at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from gpt4image.core import console
from gpt4image.core.errors import DescribeError
from gpt4image.core.format import duration
from gpt4image.llm.base import MODEL_LOADING, Describer, EndpointDownError, RateLimitedError
from gpt4image.llm.rate_limiter import START, RateLimiter

T = TypeVar("T")

CHECK_INTERVAL = 2.0
DAY = 86400.0
MAX_ABSENCE = 30.0

# Failures in a row after which a server leaves the pool while another one is healthy.
MAX_FAILURES = 5


class Server:
    """A describer and its state in the pool.

    Args:
        describer: the describer.
        slow_seconds: response time that counts as queueing.

    Attributes:
        alive: whether the pool sends it requests.
        trouble: the reason if it does not.
        failures: calls in a row that failed because of the server.
        absences: times in a row that it left the pool without a successful call in between.
        last_response: when it last responded.
        answered_at: when it first answered a request; None while it has not, and may still be loading its model.
        said_loading: whether the user knows that it may be loading its model.
        left_out: whether it is out of use for hours.
        check_lock: held during a health check, so that many hanging requests cause one check.
    """

    def __init__(self, describer: Describer, slow_seconds: float) -> None:
        self.describer = describer
        self.in_process = describer.name == "local"  # cannot go down, and needs full batches from the start
        start = describer.max_concurrency if self.in_process else START
        self.limiter = RateLimiter(describer.max_concurrency, start, slow_seconds)
        self.alive = True
        self.trouble = ""
        self.failures = self.absences = 0
        self.last_response = 0.0
        self.answered_at: float | None = None
        self.said_loading = self.left_out = False
        self.check_lock = asyncio.Lock()

    def on_refusal(self, error: RateLimitedError, now: float, load_seconds: float) -> None:
        """Record a response, and say so if the server is still loading its model."""
        self.last_response = now
        if error.reason == MODEL_LOADING and self.answered_at is None:
            self.say_loading(load_seconds, error.detail)

    def say_loading(self, load_seconds: float, detail: str = "") -> None:
        """Tell the user once that it may be loading its model, quoting its message if there is one."""
        if not self.said_loading:
            self.said_loading = True
            words = f'; it says "{detail}"' if detail else ""
            console.say(
                f"{self.describer.place} may be loading its model: waiting up to {duration(load_seconds)}{words}."
            )

    @property
    def healthy(self) -> bool:
        """Whether it is in the pool and its last call succeeded."""
        return self.alive and not self.failures

    def record_answer(self, now: float) -> None:
        """Record that the model has answered, usable or not."""
        self.last_response = now
        self.answered_at = self.answered_at or now

    def record_success(self, now: float) -> None:
        """Forget earlier failures."""
        self.failures = self.absences = 0
        self.record_answer(now)


class ServerPool:
    """Chooses a server for every request and takes failing servers out.

    Args:
        describers: the servers.
        down_seconds: how long all servers may be down before the job stops.
        slow_seconds: response time that counts as queueing.
        check_seconds: time limit of a health check.
    """

    def __init__(
        self, describers: Sequence[Describer], down_seconds: float, slow_seconds: float, check_seconds: float
    ) -> None:
        self.all = [Server(describer, slow_seconds) for describer in describers]
        self.stopped = False
        self._changed = asyncio.Event()
        self._down_seconds, self._check_seconds = down_seconds, check_seconds
        self._revivals: set[asyncio.Task[None]] = set()

    async def choose(self, last: Server | None = None) -> Server | None:
        """Wait for a server with room and return the best one; None once the pool is stopped.

        Args:
            last: the server of the previous attempt; any other one is preferred.

        Raises:
            DescribeError: all servers have been down for too long.
        """
        clock = asyncio.get_running_loop().time
        while not self.stopped:
            self._changed.clear()
            now = clock()
            with_room = [server for server in self.all if server.alive and server.limiter.room > 0]
            ready = [server for server in with_room if server.limiter.paused_until <= now]
            if ready:
                return max(ready, key=lambda server: (server is not last, server.healthy, server.limiter.room))
            pauses = [server.limiter.paused_until - now for server in with_room]
            await self._wait(min(pauses, default=None))
        return None

    def asked_wait(self, now: float) -> float:
        """Return the seconds until the next request, if all servers in the pool have asked to wait."""
        pauses = [server.limiter.paused_until - now for server in self.all if server.alive]
        return max(0.0, min(pauses, default=0.0))

    def stop(self) -> None:
        """Send no more requests."""
        self.stopped = True
        self.wake()

    def wake(self) -> None:
        """Let waiting requests choose again, because a server has room, came back, or left."""
        self._changed.set()

    async def _wait(self, seconds: float | None) -> None:
        all_down = not any(server.alive for server in self.all)
        try:
            async with asyncio.timeout(self._down_seconds if all_down else seconds):
                await self._changed.wait()
        except TimeoutError:
            if all_down:
                raise DescribeError(self._all_down_message()) from None

    def _all_down_message(self) -> str:
        troubles = "; ".join(server.trouble for server in self.all)
        return (
            f"No server has responded for {self._down_seconds:.0f} s: {troubles}. All answers so far are kept; start "
            "the server and run the same command again."
        )

    def has_healthy_other(self, server: Server) -> bool:
        """Return whether another server is healthy."""
        return any(other.healthy for other in self.all if other is not server)

    def record_failure(self, server: Server, trouble: str) -> bool:
        """Count a server's failure; take the server out after several while another one is healthy.

        Returns:
            Whether the server is to blame. The request is if the server has just answered others, or no other server is
            healthy.
        """
        if not server.alive:
            return True
        server.failures += 1
        if not self.has_healthy_other(server):
            return False
        if server.failures >= MAX_FAILURES:
            self.mark_down(server, f"{server.describer.place} fails every request ({trouble})")
        return server.failures > 1

    async def wait_for(self, answer: asyncio.Future[T], server: Server, seconds: float, load_seconds: float) -> None:
        """Wait for an answer; raise TimeoutError after its time limit.

        A server that has answered nothing yet may be loading its model. Until it has, requests have no time limit and
        are not sent again: some servers stop loading when the client disconnects.

        Args:
            answer: the answer.
            server: the server that owes it.
            seconds: time limit of the request.
            load_seconds: time limit of the server's first answer.
        """
        clock = asyncio.get_running_loop().time
        sent = clock()
        give_up = sent + (load_seconds if server.answered_at is None else seconds)
        while not answer.done():
            await asyncio.wait({answer}, timeout=min(seconds, give_up - clock()))
            if answer.done():
                return
            if server.answered_at is not None:
                give_up = min(give_up, max(sent, server.answered_at) + seconds)
            elif await self.is_unresponsive(server):
                raise TimeoutError
            else:
                server.say_loading(load_seconds)
            if clock() >= give_up:
                raise TimeoutError

    async def is_unresponsive(self, server: Server) -> bool:
        """Run a health check on a server that owes a response; return whether it failed."""
        async with server.check_lock:
            if server.alive and not server.in_process:
                try:
                    await self._check(server)
                except TimeoutError:
                    self.mark_down(server, f"{server.describer.place} no longer responds")
                except (EndpointDownError, DescribeError) as error:
                    self.mark_down(server, str(error))
        return not server.alive

    async def _check(self, server: Server) -> None:
        async with asyncio.timeout(self._check_seconds):
            await server.describer.check()

    def mark_down(self, server: Server, trouble: str, rest: float = 0.0) -> None:
        """Take a server out of the pool, and check periodically whether it is back, after a pause of some seconds."""
        if not server.alive:
            return
        server.alive, server.trouble = False, trouble
        server.absences += 1
        consequence = "the others take over its images" if len(self.all) > 1 else "waiting for it"
        console.say(f"{trouble}: {consequence}", style="yellow")
        task = asyncio.create_task(self._revive(server, rest))
        self._revivals.add(task)  # the event loop keeps only weak references to tasks
        task.add_done_callback(self._revivals.discard)
        self.wake()

    def leave_out(self, server: Server, trouble: str, seconds: float | None = None) -> bool:
        """Leave a server out for hours, a day if the time is unknown; return whether another one is left."""
        server.left_out = True
        if all(other.left_out for other in self.all):
            return False
        self.mark_down(server, trouble, rest=seconds if seconds and seconds > MAX_ABSENCE else DAY)
        return True

    async def _revive(self, server: Server, rest: float) -> None:
        absence = min(MAX_ABSENCE, CHECK_INTERVAL * 2.0 ** min(server.absences - 1, 16))  # doubles each time
        await asyncio.sleep(max(rest, absence))
        while True:
            try:
                await self._check(server)
                break
            except (EndpointDownError, DescribeError, TimeoutError):
                await asyncio.sleep(CHECK_INTERVAL)
        start = 1 if server.failures >= MAX_FAILURES else START  # one request at a time for a server that only failed
        server.failures = min(server.failures, MAX_FAILURES - 1)  # the next failure takes it out again
        server.limiter = RateLimiter(server.limiter.most, start, server.limiter.slow_seconds)
        server.alive, server.left_out = True, False
        console.say(f"{server.describer.place} responds again")
        self.wake()

    async def close(self) -> None:
        """Stop all health checks."""
        for task in self._revivals:
            task.cancel()
        await asyncio.gather(*self._revivals, return_exceptions=True)
