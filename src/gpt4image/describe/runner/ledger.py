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
from gpt4image.describe.store.records import payment_of
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

    def take_up(self, number: int, request: DescribeRequest) -> Attempt:
        """A task to be asked. Its conversation goes on where it was cut off."""
        attempt = Attempt(number, request)
        if self._conversations is None or len(request.turns) == 1:
            return attempt
        attempt.request = replace(request, keep=partial(self._keep, attempt))
        for turn in self._conversations.begun(request.key)[: len(request.turns) - 1]:
            request.answers.append(
                ChatAnswer(turn.text, turn.finish_reason, turn.tokens_in, turn.tokens_out, turn.served_model)
            )
            attempt.booked += 1
            attempt.paid += paid_for(turn)
            attempt.kept += paid_for(turn)
        return attempt

    def _keep(self, attempt: Attempt, answer: ChatAnswer) -> None:
        """Book an answer and keep it, where it is not the last: that one is recorded with the others at once."""
        request = attempt.request
        assert request is not None and self._conversations is not None
        if len(request.answers) == len(request.turns):
            return
        before = attempt.paid
        self.book_answers(attempt)
        turn = Turn(
            key=request.key,
            number=len(request.answers) - 1,
            text=answer.text,
            model=self._maker.record(attempt.number).model,
            served_model=answer.model,
            finish_reason=answer.finish_reason,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost=attempt.paid.less(before).cost,
            created=now(),
        )
        self._conversations.keep(turn)
        attempt.kept += paid_for(turn)

    def book_reply(self, attempt: Attempt, reply: Reply) -> None:
        """Book a call that answered all questions that were left."""
        answers = attempt.take_new_answers()
        self._book(attempt, answers or ([] if attempt.booked else [reply]))

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

    def record(self, attempt: Attempt, **found: Any) -> None:  # noqa: ANN401 - fields of a record
        """Write an outcome down."""
        record = replace(
            self._maker.record(attempt.number),
            **found,
            tokens_in=attempt.paid.tokens_in,
            tokens_out=attempt.paid.tokens_out,
            cost=attempt.paid.cost,
            seconds=round(attempt.seconds, 3),
            created=now(),
        )
        self._writer.write(record)
        self._tally.add(record)
        if self._conversations is not None:
            self._conversations.ended(record.key)

    def record_unfinished(self, attempts: Iterable[Attempt]) -> None:
        """Write down what was paid for tasks that have no outcome, and will be asked again; not for what is kept."""
        for attempt in attempts:
            self.book_answers(attempt)
            lost = attempt.paid.less(attempt.kept)
            if not lost:
                continue
            asked = self._maker.record(attempt.number)
            payment = payment_of(asked, "not finished", lost.tokens_in, lost.tokens_out, lost.cost, now())
            self._writer.write(payment)
            self._tally.add(payment)

    def sync_conversations(self) -> None:
        """Have the system bring answers to conversations under way to the disk."""
        if self._conversations is not None:
            self._conversations.sync()

    def _book(self, attempt: Attempt, paid: Iterable[Counted]) -> None:
        for call in paid:
            self._pay(attempt, call)
            attempt.paid += Paid(call.tokens_in, call.tokens_out)

    def _pay(self, attempt: Attempt, call: Counted) -> None:
        """Pay for a call; one that was lost leaves the counts of the others alone, and is paid for at its worst."""
        cost = self._budget.pay(call.tokens_in, call.tokens_out)
        attempt.paid += Paid(cost=cost)
        self._tally.uncounted = self._budget.uncounted


def paid_for(turn: Turn) -> Paid:
    """What an answer that was kept has taken."""
    return Paid(turn.tokens_in, turn.tokens_out, turn.cost)
