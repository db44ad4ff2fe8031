"""What a job has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gpt4image.core.console import counted
from gpt4image.core.format import dollars, rough_duration, short
from gpt4image.descriptions.store.records import DescriptionRecord


@dataclass
class Tally:
    """Counts of a job.

    Attributes:
        total: tasks of this run.
        answered: tasks answered in this run.
        failures: reasons of the tasks that failed in this run.
        tokens_in: tokens read.
        tokens_out: tokens written.
        cost: US dollars; 0 where no price is known.
        seconds: how long it has taken.
        tried_again: calls that were made again.
        uncounted: calls whose tokens the server did not count, so that they are in the cost at their worst.
        stopped: why it ended before all tasks were done; empty when it did not.
    """

    total: int
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    tried_again: int = 0
    uncounted: int = 0
    stopped: str = ""

    @property
    def done(self) -> int:
        """Tasks with an outcome."""
        return self.answered + self.failures.total()

    def add(self, record: DescriptionRecord) -> None:
        """Count an outcome, or a payment without one."""
        if record.error is None:
            self.answered += 1
        elif not record.is_payment:
            self.failures[record.error] += 1
        self.tokens_in += record.tokens_in or 0
        self.tokens_out += record.tokens_out or 0
        self.cost += record.cost or 0.0

    def note(self, rate: float, *, priced: bool) -> str:
        """Rate, tokens, money and failures, short enough to stand beside a progress bar."""
        parts = [f"{rate:.1f}/s", f"{short(self.tokens_in + self.tokens_out)} tok"]
        parts += [f"${self.cost:.2f}"] if priced else []
        parts += [f"{self.failures.total():,} failed"] if self.failures else []
        return " ".join(parts)

    def time_left(self) -> str:
        """About how long the rest will take, as far as that can be told; for a line of its own."""
        left = self.total - self.done
        return f", about {rough_duration(self.seconds * left / self.done)} left" if self.done and left > 0 else ""

    def line(self) -> str:
        """The account in one line."""
        parts = [f"{counted(self.answered, 'description')} written in {rough_duration(self.seconds)}"]
        parts += [f"{self.tokens_in:,} tokens read, {self.tokens_out:,} written"] if self.tokens_in else []
        parts += [dollars(self.cost)] if self.cost else []
        parts += [f"{counted(self.tried_again, 'call')} made again"] if self.tried_again else []
        parts += [f"{counted(self.uncounted, 'call')} not counted by the server, at worst"] if self.uncounted else []
        return ", ".join(parts)

    def failure_lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [f"failed: {count:,} {reason}" for reason, count in self.failures.most_common()]
