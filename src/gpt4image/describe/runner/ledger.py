"""What calls have cost and what came of them: the one place where either is written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from gpt4image.describe.cost.budget import Budget
from gpt4image.describe.describers.base import ChatAnswer, Counted, DescribeRequest, Reply, RequestFailedError
from gpt4image.describe.runner.attempts import Attempt, Paid
from gpt4image.describe.runner.tally import Tally
from gpt4image.describe.store.conversations import Conversations, Turn
from gpt4image.describe.store.parts import RecordWriter, now
from gpt4image.describe.store.records import DescriptionRecord, payment_of
from gpt4image.describe.tasks import RequestMaker


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
            attempt.request = replace(request, keep=partial(self._keep, attempt))
            begun = self._conversations.begun(key)[: len(request.turns) - 1]
            request.answers.extend(map(answer_of, begun))
            attempt.booked = len(begun)
        for turn in self._conversations.take(key):
            cost = self._budget.price(turn.tokens_in, turn.tokens_out) if turn.cost is None else turn.cost
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
