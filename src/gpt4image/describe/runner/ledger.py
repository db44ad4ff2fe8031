"""What calls have cost and what came of them: the one place where either is written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gpt4image.describe.cost.budget import Budget
from gpt4image.describe.describers.base import Counted, Reply, RequestFailedError, add_counts
from gpt4image.describe.runner.attempts import Attempt
from gpt4image.describe.runner.tally import Tally
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
    """

    def __init__(self, maker: RequestMaker, writer: RecordWriter, budget: Budget, tally: Tally) -> None:
        self._maker, self._writer, self._budget, self._tally = maker, writer, budget, tally

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
            tokens_in=attempt.tokens_in,
            tokens_out=attempt.tokens_out,
            cost=attempt.cost,
            seconds=round(attempt.seconds, 3),
            created=now(),
        )
        self._writer.write(record)
        self._tally.add(record)

    def record_unfinished(self, attempts: Iterable[Attempt]) -> None:
        """Write down what was paid for tasks that have no outcome, and will be asked again."""
        for attempt in attempts:
            self.book_answers(attempt)
            if not (attempt.cost or attempt.tokens_in or attempt.tokens_out):
                continue
            asked = self._maker.record(attempt.number)
            payment = payment_of(asked, "not finished", attempt.tokens_in, attempt.tokens_out, attempt.cost, now())
            self._writer.write(payment)
            self._tally.add(payment)

    def _book(self, attempt: Attempt, paid: Iterable[Counted]) -> None:
        for call in paid:
            self._pay(attempt, call)
            attempt.tokens_in = add_counts([attempt.tokens_in, call.tokens_in])
            attempt.tokens_out = add_counts([attempt.tokens_out, call.tokens_out])

    def _pay(self, attempt: Attempt, call: Counted) -> None:
        """Pay for a call; one that was lost leaves the counts of the others alone, and is paid for at its worst."""
        cost = self._budget.pay(call.tokens_in, call.tokens_out)
        attempt.cost = None if cost is None or attempt.cost is None else attempt.cost + cost
        self._tally.uncounted = self._budget.uncounted
