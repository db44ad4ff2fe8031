"""Several servers that share the work; one that dies, hangs or only fails is left out until it does better."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gpt4image.core import console
from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import Describer, EndpointDownError
from gpt4image.llm.rate_limiter import START, RateLimiter

LOOK_AGAIN_SECONDS = 2.0


LONGEST_ABSENCE = 30.0


SICK = 5


"""Failures in a row after which a server is left out while another one answers."""


class Server:
    """A describer with what is known of how it copes.

    Args:
        describer: the describer.
        slow_seconds: time that an answer should not take because of those before it.

    Attributes:
        alive: whether it is sent anything.
        trouble: why it is not.
        failures: calls in a row that failed because of it.
        absences: times in a row that it was left out without an answer in between.
        last_response: when it answered last.
    """

    def __init__(self, describer: Describer, slow_seconds: float) -> None:
        self.describer = describer
        self.in_process = describer.name == "local"
        start = describer.max_concurrency if self.in_process else START
        self.limiter = RateLimiter(describer.max_concurrency, start, slow_seconds)
        self.alive = True
        self.trouble = ""
        self.failures = self.absences = 0
        self.last_response = 0.0
        self.looked_at = asyncio.Lock()

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to be said against it."""
        return self.alive and not self.failures

    def record_success(self, now: float) -> None:
        """It has answered: what was before is forgiven."""
        self.failures = self.absences = 0
        self.last_response = now

    def absence(self) -> float:
        """Seconds until it may come back, longer each time."""
        return min(LONGEST_ABSENCE, LOOK_AGAIN_SECONDS * 2.0 ** min(self.absences - 1, 16))


class ServerPool:
    """Chooses a server for the next request, and judges servers by how they do.

    Args:
        describers: the servers.
        down_seconds: how long all may be down before the job stops.
        slow_seconds: time that an answer should not take because of those before it.
        check_seconds: how long a server that is silent may take to say that it is there.
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
        """The server that is best off, as soon as one has room; None when no more is to be sent.

        Args:
            last: where the request was sent before; another one is better.

        Raises:
            DescribeError: no server has answered for too long.
        """
        clock = asyncio.get_running_loop().time
        while not self.stopped:
            self._changed.clear()
            now = clock()
            open_servers = [server for server in self.all if server.alive and server.limiter.room > 0]
            ready = [server for server in open_servers if server.limiter.paused_until <= now]
            if ready:
                return max(ready, key=lambda server: (server is not last, server.healthy, server.limiter.room))
            pauses = [server.limiter.paused_until - now for server in open_servers]
            await self._wait(min(pauses, default=None))
        return None

    def stop(self) -> None:
        """Send no more."""
        self.stopped = True
        self.wake()

    async def _wait(self, seconds: float | None) -> None:
        all_down = not any(server.alive for server in self.all)
        limit = self._down_seconds if all_down else seconds
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            if all_down:
                raise DescribeError(self._all_down_message()) from None

    def _all_down_message(self) -> str:
        said = "; ".join(server.trouble for server in self.all)
        return (
            f"No server has answered for {self._down_seconds:.0f} s: {said}. What was answered is kept: start the "
            "server again, and give the same command."
        )

    def wake(self) -> None:
        """Something has changed: those who wait look again."""
        self._changed.set()

    def has_healthy_other(self, server: Server) -> bool:
        """Whether there is another server with nothing against it."""
        return any(other.healthy for other in self.all if other is not server)

    def record_failure(self, server: Server, trouble: str) -> bool:
        """Take down that a server has failed; one that does nothing else is left out while another one does well.

        Returns:
            Whether the server is to blame, and not the request. For one that has just answered it is the request.
        """
        if not server.alive:
            return True
        first, server.failures = not server.failures, server.failures + 1
        if not self.has_healthy_other(server):
            return False
        if server.failures >= SICK:
            self.mark_down(server, f"{server.describer.place} only fails ({trouble})")
        return not first

    async def is_unresponsive(self, server: Server) -> bool:
        """Whether a server that owes an answer does not even say that it is there."""
        async with server.looked_at:
            if server.alive and not server.in_process:
                try:
                    async with asyncio.timeout(self._check_seconds):
                        await server.describer.check()
                except TimeoutError:
                    self.mark_down(server, f"{server.describer.place} says nothing any more")
                except (EndpointDownError, DescribeError) as error:
                    self.mark_down(server, str(error))
        return not server.alive

    def mark_down(self, server: Server, trouble: str) -> None:
        """Leave a server out, and look now and then whether it has come back."""
        if not server.alive:
            return
        server.alive, server.trouble = False, trouble
        server.absences += 1
        goes_on = "its images go to the others" if len(self.all) > 1 else "waiting for it"
        console.say(f"{trouble}: {goes_on}", style="yellow")
        task = asyncio.create_task(self._revive(server))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)
        self.wake()

    async def _revive(self, server: Server) -> None:
        await asyncio.sleep(server.absence())
        while True:
            try:
                async with asyncio.timeout(self._check_seconds):
                    await server.describer.check()
                break
            except (EndpointDownError, DescribeError, TimeoutError):
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        on_trial = server.failures >= SICK
        server.failures = min(server.failures, SICK - 1)
        most, slow = server.limiter.most, server.limiter.slow_seconds
        server.limiter = RateLimiter(most, 1 if on_trial else START, slow)
        server.alive = True
        console.say(f"{server.describer.place} answers again")
        self.wake()

    async def close(self) -> None:
        """Stop looking for lost servers."""
        for task in self._revivals:
            task.cancel()
        await asyncio.gather(*self._revivals, return_exceptions=True)
