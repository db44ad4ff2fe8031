"""What a job has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gpt4image.console import counted
from gpt4image.describe.store.records import DescriptionRecord


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


def dollars(amount: float) -> str:
    """Money in cents, or in four digits where it is less than a dollar.

    >>> dollars(1234.567), dollars(0.012345)
    ('$1,234.57', '$0.01235')
    """
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"


def short(number: float) -> str:
    """A large number in few characters.

    >>> short(950), short(12_345), short(2_500_000)
    ('950', '12.3k', '2.5M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def rough_duration(seconds: float) -> str:
    """A time span in words.

    >>> rough_duration(3.2), rough_duration(200), rough_duration(9000), rough_duration(200_000)
    ('3.2 s', '3 min', '2.5 h', '2.3 days')
    """
    for limit, unit, size in ((172_800, "days", 86_400), (7_200, "h", 3_600), (120, "min", 60)):
        if seconds >= limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.1f} s"
