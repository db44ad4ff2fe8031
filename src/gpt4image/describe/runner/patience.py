"""How patient a run is: its limits, and the tries that wait for their turn."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass

from gpt4image.describe.runner.ledger import Attempt

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


@dataclass(frozen=True)
class RunSettings:
    """Limits of a run. None of them changes what is asked.

    Attributes:
        image_seconds: time for one description, all its requests together, waiting excluded.
        attempts: requests for one description that may fail because of it.
        servers_lost: times that a server may go down, or only fail, under one description before that counts as failed.
        patience_seconds: how long the servers may rate limit every request before the run stops.
        down_seconds: how long all servers may be down before the run stops.
        check_seconds: time limit of a health check of a server that owes an answer.
        max_failures_at_first: failed descriptions before the first answer after which the run stops.
        max_failures_in_a_row: failed descriptions in a row after which the run stops.
        grace_seconds: time that open requests get to finish when the run is stopped.
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


def retry_delay(failures: int) -> float:
    """Return seconds to wait after some failures: exponential, with jitter so that retries do not bunch."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)


class RetryQueue:
    """Attempts that wait for their next try, ordered by the time at which it is due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Attempt]] = []
        self._order = itertools.count()  # breaks ties: attempts do not compare

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, attempt: Attempt, due: float) -> None:
        """Add an attempt whose next try is due at a time of the event loop's clock."""
        heapq.heappush(self._heap, (due, next(self._order), attempt))

    def seconds_left(self, now: float) -> float | None:
        """Return the time until the next try is due; None where nothing waits."""
        return max(0.0, self._heap[0][0] - now) if self._heap else None

    def take(self, now: float) -> Attempt | None:
        """Remove and return the attempt that has been due longest; None where none is due."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None

    def clear(self) -> list[Attempt]:
        """Remove and return all attempts."""
        left = [attempt for _, _, attempt in self._heap]
        self._heap.clear()
        return left
