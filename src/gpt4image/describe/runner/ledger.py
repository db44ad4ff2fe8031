"""What calls have cost and what came of them: the one place where either is written down."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.conversations import Conversations, Turn
from gpt4image.descriptions.store.records import DescriptionRecord, payment_of
from gpt4image.descriptions.store.shards import RecordWriter, now
from gpt4image.llm.base import ChatAnswer, Counted, DescribeRequest, Reply, RequestFailedError, add_counts
from gpt4image.llm.budget import Budget

if TYPE_CHECKING:
    from gpt4image.llm.server_pool import Server


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
        rate_limited: calls that the server did not want.
        servers_lost: calls that failed because of the server.
        timeouts: calls without an answer in time, at a server that is there and may be at fault.
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
    last: Server | None = None
    tries: int = 0
    rate_limited: int = 0
    servers_lost: int = 0
    timeouts: int = 0
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


class Ledger:
    """Books calls and writes records.

    Args:
        maker: the tasks.
        writer: takes the records.
        budget: what may be spent.
        tally: the account.
        conversations: those that were begun; without, a conversation that is cut off is not gone on with.
    """

    def __init__(
        self,
        maker: RequestMaker,
        writer: RecordWriter,
        budget: Budget,
        tally: Tally,
        conversations: Conversations | None = None,
    ) -> None:
        self._maker, self._writer, self._budget, self._tally = maker, writer, budget, tally
        self._conversations = conversations

    def take_up(self, number: int, request: DescribeRequest | None) -> Attempt:
        """A task to be asked, or that cannot be. Its conversation goes on where it was cut off."""
        attempt = Attempt(number, request)
        if self._conversations is None:
            return attempt
        key = self._maker.keys[number].decode()
        if request is not None and len(request.turns) > 1:
            attempt.request = replace(request, on_answer=partial(self._keep, attempt))
            begun = self._conversations.begun(key)[: len(request.turns) - 1]
            request.answers.extend(map(answer_of, begun))
            attempt.booked = len(begun)
        for turn in self._conversations.take(key):
            cost = self._budget.worst_cost(turn.tokens_in, turn.tokens_out) if turn.cost is None else turn.cost
            self._add_kept(attempt, replace(turn, cost=cost))
            attempt.paid += Paid(turn.tokens_in, turn.tokens_out, cost)
            attempt.brought += cost or 0.0
        return attempt

    def _keep(self, attempt: Attempt, answer: ChatAnswer) -> None:
        """Book an answer and keep it, where it is not the last: that one is recorded with the others at once."""
        request = attempt.request
        assert request is not None and self._conversations is not None
        if len(request.answers) == len(request.turns):
            return
        attempt.take_new_answers()
        turn = Turn(
            key=request.key,
            number=len(request.answers) - 1,
            text=answer.text,
            model=self._maker.record(attempt.number).model,
            served_model=answer.model,
            finish_reason=answer.finish_reason,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost=self._book_one(attempt, answer),
            created=max(now(), attempt.kept_at),
        )
        self._conversations.keep(turn)
        self._add_kept(attempt, turn)

    def _add_kept(self, attempt: Attempt, turn: Turn) -> None:
        attempt.kept += Paid(turn.tokens_in, turn.tokens_out, turn.cost)
        attempt.kept_at = max(attempt.kept_at, turn.created)

    def book_reply(self, attempt: Attempt, reply: Reply) -> None:
        """Book a call that answered all questions that were left, or all of them at once."""
        answers, request = attempt.take_new_answers(), attempt.request
        one_by_one = request is not None and len(request.answers) == len(request.turns)
        self._book(attempt, answers if one_by_one else [*answers, reply])

    def book_failure(self, attempt: Attempt, error: RequestFailedError) -> None:
        """Book a call that failed, and the questions that were answered in it."""
        self.book_answers(attempt)
        if error.tokens_in is None or error.tokens_out is None:
            self._pay(attempt, error)
        else:
            self._book(attempt, [error])

    def book_answers(self, attempt: Attempt) -> None:
        """Book the questions that were answered in a call which the server turned away in the end."""
        self._book(attempt, attempt.take_new_answers())

    def note_failure(self, attempt: Attempt) -> None:
        """Write down at once what a try has cost that failed, so that a kill does not take it out of the budget."""
        lost = attempt.lost
        self._write_payment(attempt, "failed try", lost)
        attempt.noted += lost

    def record(self, attempt: Attempt, **found: Any) -> None:  # noqa: ANN401 - fields of a record
        """Write an outcome down, with all that its task has cost; in the same breath payments for it are taken back."""
        record = replace(
            self._maker.record(attempt.number),
            **found,
            tokens_in=attempt.paid.tokens_in,
            tokens_out=attempt.paid.tokens_out,
            cost=(attempt.brought or None) if attempt.paid.cost is None else attempt.paid.cost,
            seconds=round(attempt.seconds, 3),
            created=max(now(), attempt.kept_at),
        )
        taken_back = [self._payment(attempt, "counted with the outcome", -attempt.noted)] if attempt.noted else []
        self._writer.write(record, *taken_back)
        for entry in (record, *taken_back):
            self._tally.add(entry)
        if self._conversations is not None:
            self._conversations.ended(record.key)
        attempt.request = None  # it knows of the attempt, and holds a picture: neither is to wait for the other

    def record_unfinished(self, attempts: Iterable[Attempt]) -> None:
        """Write down what was paid for tasks that have no outcome, and will be asked again; not for what is kept."""
        for attempt in attempts:
            self.book_answers(attempt)
            self._write_payment(attempt, "not finished", attempt.lost)

    def _write_payment(self, attempt: Attempt, reason: str, paid: Paid) -> None:
        if paid:
            payment = self._payment(attempt, reason, paid)
            self._writer.write(payment)
            self._tally.add(payment)

    def _payment(self, attempt: Attempt, reason: str, paid: Paid) -> DescriptionRecord:
        asked = self._maker.record(attempt.number)
        return payment_of(asked, reason, paid.tokens_in, paid.tokens_out, paid.cost, now())

    def sync_conversations(self) -> None:
        """Have the system bring answers to conversations under way to the disk."""
        if self._conversations is not None:
            self._conversations.sync()

    def _book(self, attempt: Attempt, paid: Iterable[Counted]) -> None:
        for call in paid:
            self._book_one(attempt, call)

    def _book_one(self, attempt: Attempt, call: Counted) -> float | None:
        """Book a call; returns its cost."""
        attempt.paid += Paid(call.tokens_in, call.tokens_out)
        return self._pay(attempt, call)

    def _pay(self, attempt: Attempt, call: Counted) -> float | None:
        """Pay for a call; one that was lost leaves the counts of the others alone, and is paid for at its worst."""
        cost = self._budget.pay(call.tokens_in, call.tokens_out)
        attempt.paid += Paid(cost=cost)
        self._tally.uncounted = self._budget.uncounted
        return cost


def answer_of(turn: Turn) -> ChatAnswer:
    """The answer that was kept."""
    return ChatAnswer(turn.text, turn.finish_reason, turn.tokens_in, turn.tokens_out, turn.served_model)
