"""Tasks under way: what each has been through, and those that wait for another attempt."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpt4image.describe.describers.base import ChatAnswer, DescribeRequest, add_counts

if TYPE_CHECKING:
    from gpt4image.describe.runner.lanes import Lane

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Paid:
    """What calls have taken.

    Attributes:
        tokens_in: tokens read, None where they are not counted.
        tokens_out: tokens written, likewise.
        cost: US dollars, at their worst where nobody counted; None where the price is not known.
    """

    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = 0.0

    def __bool__(self) -> bool:
        return bool(self.tokens_in or self.tokens_out or self.cost)

    def __add__(self, other: Paid) -> Paid:
        tokens_in, tokens_out = (self.tokens_in, other.tokens_in), (self.tokens_out, other.tokens_out)
        return Paid(add_counts(tokens_in), add_counts(tokens_out), add_costs(self.cost, other.cost))

    def __neg__(self) -> Paid:
        """What takes it back."""
        cost = None if self.cost is None else -self.cost
        return Paid(subtract(0, self.tokens_in), subtract(0, self.tokens_out), cost)

    def less(self, part: Paid) -> Paid:
        """Without a part of it."""
        cost = add_costs(self.cost, None if part.cost is None else -part.cost)
        return Paid(
            subtract(self.tokens_in, part.tokens_in),
            subtract(self.tokens_out, part.tokens_out),
            None if cost is None else max(0.0, round(cost, 12)),
        )


NOTHING = Paid()


def add_costs(one: float | None, other: float | None) -> float | None:
    """Sum of costs, None where one is unknown."""
    return None if one is None or other is None else one + other


def subtract(count: int | None, part: int | None) -> int | None:
    """A count without a part of it, None where one is unknown."""
    return None if count is None or part is None else count - part


@dataclass(slots=True, eq=False)
class Attempt:
    """A task under way.

    Attributes:
        number: the task.
        request: what is asked; None where its picture cannot be had.
        last: the server that was asked last.
        tries: calls that failed because of the request.
        push_backs: calls that the server did not want.
        servers_lost: calls that failed because of the server.
        silences: calls without an answer in time, at a server that is there and may be at fault.
        seconds: time spent in calls.
        paid: for all calls.
        kept: for the answers among them that are kept for another process to go on from.
        noted: for tries that failed, as payments that stand in the store until there is an outcome.
        brought: US dollars that processes before have paid, as far as they are known.
        kept_at: when the last of these answers was given, ISO 8601 in UTC: what comes after it is later.
        booked: answers of the request that are in `paid` already.
    """

    number: int
    request: DescribeRequest | None = None
    last: Lane | None = None
    tries: int = 0
    push_backs: int = 0
    servers_lost: int = 0
    silences: int = 0
    seconds: float = 0.0
    paid: Paid = field(default_factory=lambda: NOTHING)
    kept: Paid = field(default_factory=lambda: NOTHING)
    noted: Paid = field(default_factory=lambda: NOTHING)
    brought: float = 0.0
    kept_at: str = ""
    booked: int = 0

    @property
    def lost(self) -> Paid:
        """What was paid for and stands nowhere yet."""
        return self.paid.less(self.kept).less(self.noted)

    def take_new_answers(self) -> list[ChatAnswer]:
        """Answers that came since the last time."""
        answers = [] if self.request is None else self.request.answers[self.booked :]
        self.booked += len(answers)
        return answers


def back_off(times: int) -> float:
    """Seconds to wait after so many failures: doubled each time, spread at random so that requests do not bunch."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(times - 1, 16)) * random.uniform(0.5, 1.0)


class WaitingRoom:
    """Attempts that wait, the next one first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Attempt]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, attempt: Attempt, ready: float) -> None:
        """Have an attempt wait until a time."""
        heapq.heappush(self._heap, (ready, next(self._order), attempt))

    def seconds_left(self, now: float) -> float | None:
        """Time until the next one is ready; None where nobody waits."""
        return max(0.0, self._heap[0][0] - now) if self._heap else None

    def take(self, now: float) -> Attempt | None:
        """The next attempt whose time has come."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None

    def clear(self) -> list[Attempt]:
        """Send all away; returns them."""
        left = [attempt for _, _, attempt in self._heap]
        self._heap.clear()
        return left
