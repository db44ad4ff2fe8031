"""Several servers that share the work; one that dies is left out until it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gpt4image import console
from gpt4image.describe.describers.base import Describer, EndpointDownError
from gpt4image.describe.runner.limiter import START, Limiter
from gpt4image.errors import DescribeError

LOOK_AGAIN_SECONDS = 2.0


class Lane:
    """A describer with what is known of how it copes.

    Args:
        describer: the describer.
        slow_seconds: time that an answer should not take because of those before it.
    """

    def __init__(self, describer: Describer, slow_seconds: float) -> None:
        self.describer = describer
        start = describer.most_at_once if describer.name == "local" else START
        self.limiter = Limiter(describer.most_at_once, start, slow_seconds)
        self.alive = True
        self.trouble = ""


class Lanes:
    """Chooses a server for the next request.

    Args:
        describers: the servers.
        down_seconds: how long all may be down before the job stops.
        slow_seconds: time that an answer should not take because of those before it.
    """

    def __init__(self, describers: Sequence[Describer], down_seconds: float, slow_seconds: float) -> None:
        self.all = [Lane(describer, slow_seconds) for describer in describers]
        self.stopped = False
        self._changed = asyncio.Event()
        self._down_seconds = down_seconds
        self._revivals: set[asyncio.Task[None]] = set()

    async def choose(self) -> Lane | None:
        """The lane with the most room, as soon as one has any; None when no more is to be sent.

        Raises:
            DescribeError: no server has answered for too long.
        """
        clock = asyncio.get_running_loop().time
        while not self.stopped:
            self._changed.clear()
            now = clock()
            open_lanes = [lane for lane in self.all if lane.alive and lane.limiter.room > 0]
            ready = [lane for lane in open_lanes if lane.limiter.paused_until <= now]
            if ready:
                return max(ready, key=lambda lane: lane.limiter.room)
            pauses = [lane.limiter.paused_until - now for lane in open_lanes]
            await self._wait(min(pauses, default=None))
        return None

    def stop(self) -> None:
        """Send no more."""
        self.stopped = True
        self.note()

    async def _wait(self, seconds: float | None) -> None:
        all_down = not any(lane.alive for lane in self.all)
        limit = self._down_seconds if all_down else seconds
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            if all_down:
                raise DescribeError(self._obituary()) from None

    def _obituary(self) -> str:
        said = "; ".join(lane.trouble for lane in self.all)
        return (
            f"No server has answered for {self._down_seconds:.0f} s: {said}. What was answered is kept: start the "
            "server again, and give the same command."
        )

    def note(self) -> None:
        """Something has changed: those who wait look again."""
        self._changed.set()

    def report_down(self, lane: Lane, trouble: str) -> None:
        """Leave a server out, and look now and then whether it has come back."""
        if not lane.alive:
            return
        lane.alive, lane.trouble = False, trouble
        if len(self.all) > 1:
            console.say(f"{trouble}: its images go to the others", style="yellow")
        task = asyncio.create_task(self._revive(lane))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)
        self.note()

    async def _revive(self, lane: Lane) -> None:
        while not lane.alive:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                await lane.describer.check()
            except (EndpointDownError, DescribeError):
                continue
            lane.limiter = Limiter(lane.limiter.most, slow_seconds=lane.limiter.slow_seconds)
            lane.alive = True
            console.say(f"{lane.describer.place} answers again")
            self.note()

    async def close(self) -> None:
        """Stop looking for lost servers."""
        for task in self._revivals:
            task.cancel()
        await asyncio.gather(*self._revivals, return_exceptions=True)
