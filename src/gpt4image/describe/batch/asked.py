"""A task on its way through batches, as a line of JSON that needs neither the image nor the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt4image.describe.describers.base import add_counts
from gpt4image.describe.store.conversations import Turn
from gpt4image.describe.store.records import DescriptionRecord, plain_values, record_from
from gpt4image.describe.tasks import RequestMaker, join_answers

NAME = "batch"
"""Name in the table of describers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A task in a batch, or between two: enough to put its next question and to make a record of its outcome.

    Attributes:
        record: what is known of it, with the tokens and the cost of all that was paid for so far.
        between: what stands between the answers of its conversation.
        turns: number of its questions.
        answers: answers so far.
        tries: how often the next question has failed.
    """

    record: DescriptionRecord
    between: str
    turns: int
    answers: tuple[str, ...] = ()
    tries: int = 0

    @classmethod
    def first(cls, maker: RequestMaker, number: int, begun: Sequence[Turn] = ()) -> Asked:
        """A task that no batch has asked.

        Args:
            maker: the tasks.
            number: the task.
            begun: what was answered elsewhere; it is paid for, and whoever records the outcome adds that.
        """
        record = replace(maker.record(number), describer=NAME, tokens_in=0, tokens_out=0, cost=0.0)
        strategy = maker.strategy(number)
        answers = tuple(turn.text for turn in begun)[: len(strategy.turns) - 1]
        return cls(record, strategy.join, len(strategy.turns), answers)

    @property
    def begun(self) -> bool:
        """Whether something was asked already, which must not be lost."""
        return bool(self.answers or self.tries)

    @property
    def finished(self) -> bool:
        """Whether all questions are answered."""
        return len(self.answers) == self.turns

    @property
    def text(self) -> str:
        """The answers as one text."""
        return join_answers(self.answers, self.between)

    def paid(self, tokens_in: int | None, tokens_out: int | None, cost: float | None) -> Asked:
        """With what a call has taken."""
        old = self.record
        total = None if cost is None or old.cost is None else old.cost + cost
        counts = add_counts([old.tokens_in, tokens_in]), add_counts([old.tokens_out, tokens_out])
        return replace(self, record=replace(old, tokens_in=counts[0], tokens_out=counts[1], cost=total))

    def answered(self, text: str) -> Asked:
        """With the answer to its next question. Half characters, which no request may hold, are replaced."""
        whole = text.encode("utf-8", "replace").decode()
        return replace(self, answers=(*self.answers, whole), tries=0)

    def failed(self) -> Asked:
        """With one more failure of its next question."""
        return replace(self, tries=self.tries + 1)

    def line(self) -> bytes:
        """The task as a line of JSON."""
        values = {"record": plain_values(self.record), "between": self.between, "turns": self.turns}
        return json.dumps({**values, "answers": self.answers, "tries": self.tries}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Asked:
        """The task that a line holds."""
        values: dict[str, Any] = json.loads(line)
        record, answers = record_from(values.pop("record")), tuple(values.pop("answers"))
        return cls(record=record, answers=answers, **values)


def read_asked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Keys and lines of a file of tasks."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)["record"]["key"], line
