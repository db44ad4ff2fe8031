"""The accounts of a run: one entry per request, from the moment it is sent until its cost is on disk.

The result of a request settles its entry, and where its cost is written determines the next state:

    OPEN ---- answered, or failed with counted tokens -> UNSAVED   cost: the tokens' price
         |--- timed out, cut off, cancelled -----------> UNSAVED   cost: the worst case, as it was not counted
         '--- rate limited, server down ---------------> dropped   cost: nothing

    UNSAVED - answer inside a conversation ------------> TURN      a line in the conversation's file
            |-- failed attempt, or the run ends -----------> PAYMENT   a payment in the store
            '-- the task has an outcome ---------------> RECORDED  part of the record's cost

A record holds the cost of all entries of its task. With it, its TURN entries stop counting (see `Conversations`), and a
negative payment, written in the same system call, cancels its PAYMENT entries. So every entry counts in exactly one
place:

    spent            = opening balance + sum of the costs of all settled entries          (`Budget.spent`)
    cost on disk     = spent - sum of the costs of UNSAVED entries                        (`DescriptionStore.spent`)
    spent + (open entries + 1) x worst case of a description <= budget, whenever a request is sent

Whatever settles an entry also saves it before the event loop runs anything else. So `kill -9` at any moment only loses
track of OPEN entries, whose cost is not known yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.conversations import Conversations, Turn
from gpt4image.descriptions.store.records import DescriptionRecord, payment_of
from gpt4image.descriptions.store.shards import RecordWriter, now
from gpt4image.llm.base import ChatAnswer, DescribeRequest, Reply, RequestFailedError, add_counts
from gpt4image.llm.budget import Budget
from gpt4image.llm.server_pool import Server


class EntryState(Enum):
    """Where the cost of an entry is recorded; see the module's docstring."""

    OPEN = auto()
    UNSAVED = auto()
    TURN = auto()
    PAYMENT = auto()
    RECORDED = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """A request that was sent.

    Attributes:
        state: where its cost stands.
        tokens_in: input tokens; None if the server did not count them. A lost request has 0: only its cost is assumed
            at worst, so that the counts of the task's other requests stay correct.
        tokens_out: tokens written, likewise.
        cost: US dollars; None where the price is not known.
    """

    state: EntryState = EntryState.OPEN
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = 0.0


@dataclass(slots=True, eq=False)
class Attempt:
    """A task without an outcome yet: what was tried, and what it cost.

    Attributes:
        number: the task.
        request: the request; None if the picture cannot be read, and once the task has an outcome.
        answers: answers to the first questions of its conversation, from all tries and earlier processes.
        entries: one for each request that was sent, earlier processes' answers first.
        earlier: number of entries of earlier processes.
        saved_until: when the last saved answer was given, ISO 8601 in UTC. The record of the outcome must not be older,
            even if the clock was set back: it ends the conversation's turns up to its own date.
        server: the server that was asked last.
        tries: requests that failed because of the task.
        rate_limited: requests that a server turned away.
        servers_lost: requests that failed because of a server.
        timeouts: requests that timed out at a server that is up and may be at fault.
        seconds: time spent in requests.
    """

    number: int
    request: DescribeRequest | None = None
    answers: list[ChatAnswer] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    earlier: int = 0
    saved_until: str = ""
    server: Server | None = None
    tries: int = 0
    rate_limited: int = 0
    servers_lost: int = 0
    timeouts: int = 0
    seconds: float = 0.0

    def entries_in(self, *states: EntryState) -> list[Entry]:
        """Return the entries in certain states."""
        return [entry for entry in self.entries if entry.state in states]


class Ledger:
    """Records the costs of requests and the outcomes of tasks.

    Args:
        maker: the tasks.
        writer: writes records and payments.
        budget: the budget. Its opening balance includes what earlier processes paid.
        conversations: open conversations of earlier processes; without it, none are resumed or kept.

    Attributes:
        tally: counts of the run.
        budget: see above.
    """

    def __init__(
        self,
        maker: RequestMaker,
        writer: RecordWriter,
        budget: Budget,
        conversations: Conversations | None = None,
    ) -> None:
        self._maker, self._writer, self.budget, self._conversations = maker, writer, budget, conversations
        self.tally = Tally(len(maker))
        self._open: set[Entry] = set()

    def begin(self, number: int, request: DescribeRequest | None) -> Attempt:
        """Start a task after the answers that an earlier process got for it.

        The opening balance includes their cost, so the budget does not pay for these entries again.
        """
        attempt = Attempt(number, request)
        if self._conversations is None:
            return attempt
        key = self._maker.keys[number].decode()
        if request is not None:  # the last question is always asked, because its answer decides the outcome
            attempt.answers += map(answer_of, self._conversations.begun(key)[: len(request.turns) - 1])
        for turn in self._conversations.take(key):
            cost = self.budget.worst_cost(turn.tokens_in, turn.tokens_out) if turn.cost is None else turn.cost
            attempt.entries.append(Entry(EntryState.TURN, turn.tokens_in, turn.tokens_out, cost))
            attempt.saved_until = max(attempt.saved_until, turn.created)
        attempt.earlier = len(attempt.entries)
        return attempt

    # One request: opened when it is sent, settled once.

    def affords_another(self) -> bool:
        """Whether the budget covers the open requests and one more, each at its worst case."""
        return self.budget.affords(len(self._open))

    def open(self, attempt: Attempt) -> None:
        """Open an entry for a request that is about to be sent."""
        attempt.entries.append(Entry())
        self._open.add(attempt.entries[-1])

    def book_answer(self, attempt: Attempt, answer: ChatAnswer) -> None:
        """Settle a request with its answer; inside a conversation, save the answer and open the next request's entry.

        Raises:
            StoreError: the answer cannot be saved. Its cost stays UNSAVED, for `record_unfinished` to write.
        """
        assert attempt.request is not None
        entry = self._settle(attempt, answer.tokens_in, answer.tokens_out)
        attempt.answers.append(answer)
        if len(attempt.answers) == len(attempt.request.turns):
            return  # the record of the outcome or of the failed attempt follows immediately and includes it
        if self._conversations is not None:
            turn = self._turn(attempt, answer, entry.cost)
            self._conversations.keep(turn)
            entry.state, attempt.saved_until = EntryState.TURN, max(attempt.saved_until, turn.created)
        self.open(attempt)

    def book_reply(self, attempt: Attempt, reply: Reply) -> None:
        """Settle a request that answered all questions, unless `book_answer` has booked each of them."""
        if attempt.entries_in(EntryState.OPEN):
            self._settle(attempt, reply.tokens_in, reply.tokens_out)

    def book_failure(self, attempt: Attempt, error: RequestFailedError) -> None:
        """Settle a failed request by its tokens, or at the worst case if they were not counted."""
        if attempt.entries_in(EntryState.OPEN):
            entry = self._settle(attempt, error.tokens_in, error.tokens_out)
            if error.tokens_in is None or error.tokens_out is None:
                entry.tokens_in = entry.tokens_out = 0

    def book_cause(self, attempt: Attempt, error: BaseException) -> None:
        """Settle a request whose answer ends the run, if it was paid for."""
        if isinstance(error.__cause__, RequestFailedError):
            self.book_failure(attempt, error.__cause__)

    def drop(self, attempt: Attempt) -> None:
        """Drop the entry of a rejected request, which cost nothing."""
        for entry in attempt.entries_in(EntryState.OPEN):
            self._open.discard(entry)
            attempt.entries.remove(entry)

    def _settle(self, attempt: Attempt, tokens_in: int | None, tokens_out: int | None) -> Entry:
        (entry,) = attempt.entries_in(EntryState.OPEN)
        self._open.discard(entry)
        entry.state, entry.tokens_in, entry.tokens_out = EntryState.UNSAVED, tokens_in, tokens_out
        entry.cost = self.budget.pay(tokens_in, tokens_out)
        self.tally.uncounted = self.budget.uncounted
        return entry

    # Costs and outcomes on disk.

    def save_failed_try(self, attempt: Attempt) -> None:
        """Save the cost of a failed attempt before the next one, so that a kill cannot hide it from the budget."""
        self._write_payment(attempt, "failed attempt")

    def record(self, attempt: Attempt, **outcome: Any) -> None:  # noqa: ANN401 - fields of a record
        """Write the outcome of a task with the cost of all its requests, and cancel their payments.

        Args:
            attempt: the task.
            outcome: fields of the record: its text, or its error.
        """
        tokens_in, tokens_out, cost = total(attempt.entries)
        record = replace(
            self._maker.record(attempt.number),
            **outcome,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=cost,
            seconds=round(attempt.seconds, 3),
            created=max(now(), attempt.saved_until),
        )
        paid = attempt.entries_in(EntryState.PAYMENT)
        taken_back = [self._payment(attempt, "counted with the outcome", paid, sign=-1)] if paid else []
        self._writer.write(record, *taken_back)
        for written in (record, *taken_back):
            self.tally.add(written)
        self.tally.count_paid(*total(attempt.entries[: attempt.earlier]), sign=-1)
        if self._conversations is not None:
            self._conversations.ended(record.key)
        for entry in attempt.entries:
            entry.state = EntryState.RECORDED
        attempt.request = None  # frees the picture

    def record_unfinished(self, attempts: Iterable[Attempt]) -> None:
        """Save what was paid for tasks without an outcome, which the next run asks again."""
        for attempt in attempts:
            self.drop(attempt)
            self._write_payment(attempt, "not finished")

    def sync(self) -> None:
        """Flush everything to disk; may be called from any thread."""
        self._writer.sync()
        if self._conversations is not None:
            self._conversations.sync()

    def _write_payment(self, attempt: Attempt, reason: str) -> None:
        """Turn the UNSAVED entries of a task into one payment, if they cost anything."""
        entries = attempt.entries_in(EntryState.UNSAVED)
        if any(total(entries)):
            payment = self._payment(attempt, reason, entries)
            self._writer.write(payment)
            self.tally.add(payment)
            for entry in entries:
                entry.state = EntryState.PAYMENT

    def _payment(self, attempt: Attempt, reason: str, entries: list[Entry], sign: int = 1) -> DescriptionRecord:
        tokens_in, tokens_out, cost = total(entries)
        return payment_of(
            self._maker.record(attempt.number),
            reason,
            None if tokens_in is None else sign * tokens_in,
            None if tokens_out is None else sign * tokens_out,
            None if cost is None else sign * cost,
            now(),
        )

    def _turn(self, attempt: Attempt, answer: ChatAnswer, cost: float | None) -> Turn:
        return Turn(
            key=self._maker.keys[attempt.number].decode(),
            number=len(attempt.answers) - 1,
            text=answer.text,
            model=self._maker.record(attempt.number).model,
            served_model=answer.model,
            finish_reason=answer.finish_reason,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost=cost,
            created=max(now(), attempt.saved_until),
        )


def total(entries: Iterable[Entry]) -> tuple[int | None, int | None, float | None]:
    """Add up tokens read, tokens written and US dollars.

    Token counts are None if any of them is unknown. Unknown costs are left out: a process that does not know the price
    must not hide what an earlier one paid. The sum is None if something is unknown and no known cost was paid.
    """
    found = list(entries)
    known = sum((entry.cost for entry in found if entry.cost is not None), 0.0)
    unknown = any(entry.cost is None for entry in found)
    return (
        add_counts(entry.tokens_in for entry in found),
        add_counts(entry.tokens_out for entry in found),
        (known or None) if unknown else known,
    )


def answer_of(turn: Turn) -> ChatAnswer:
    """Return the answer in a conversation's turn."""
    return ChatAnswer(turn.text, turn.finish_reason, turn.tokens_in, turn.tokens_out, turn.served_model)
