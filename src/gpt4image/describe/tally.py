"""Counts of a run and their display."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gpt4image.core import console
from gpt4image.core.format import compact, counted, duration, money
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.llm.base import CUT_OFF, fails_again, is_unknown_end, plain_reason
from gpt4image.llm.chat import is_other_model
from gpt4image.llm.errors import commonest

LINE_SECONDS = 60.0

MAX_DETAILS = 100


@dataclass
class Tally:
    """Counts of a run.

    Attributes:
        total: tasks of the run.
        answered: tasks answered.
        failures: reasons of the tasks that failed.
        details: the first MAX_DETAILS different messages of each reason.
        tokens_in: input tokens.
        tokens_out: output tokens.
        cost: US dollars; 0 if the price is unknown.
        seconds: time since the start.
        tried_again: retries.
        uncounted: requests whose tokens the server did not count; `cost` includes their worst case.
        stopped: why the run ended before all tasks were done; empty if it did not.
        other_models: answers by models other than the requested one.
        cut_off: answers that the server stopped at their maximum length.
        unknown_ends: answers by their finish reason, where it is none that a server is known to give.
        failed_before: tasks that failed in earlier runs and were not retried.
    """

    total: int
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    details: dict[str, Counter[str]] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    tried_again: int = 0
    uncounted: int = 0
    stopped: str = ""
    other_models: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    unknown_ends: Counter[str] = field(default_factory=Counter)
    failed_before: int = 0

    @property
    def done(self) -> int:
        """Tasks with an outcome."""
        return self.answered + self.failures.total()

    @property
    def exit_status(self) -> int:
        """0 if all tasks are answered; 3 if some failed, now or before; 1 if none is answered or the run stopped."""
        if self.stopped or self.done < self.total or (self.total and not self.answered):
            return 1
        return 3 if self.failures or self.failed_before else 0

    def add(self, record: DescriptionRecord) -> None:
        """Count an outcome, or a payment without one."""
        if record.error is None:
            self.answered += 1
            if is_other_model(record.model, record.served_model):
                self.other_models[record.served_model] += 1
            self.cut_off += plain_reason(record.finish_reason) in CUT_OFF
            if record.finish_reason and is_unknown_end(record.finish_reason):
                self.unknown_ends[record.finish_reason] += 1
        elif not record.is_payment:
            self.failures[record.error] += 1
            details = self.details.setdefault(record.error, Counter())
            if record.detail in details or (record.detail and len(details) < MAX_DETAILS):
                details[record.detail] += 1
        self.count_paid(record.tokens_in, record.tokens_out, record.cost)

    def count_paid(self, tokens_in: int | None, tokens_out: int | None, cost: float | None, sign: int = 1) -> None:
        """Add known tokens and US dollars; a sign of -1 removes what another process paid."""
        self.tokens_in += sign * (tokens_in or 0)
        self.tokens_out += sign * (tokens_out or 0)
        self.cost += sign * (cost or 0.0)

    def note(self) -> str:
        """Return rate, tokens, money and failures in short form for a progress line."""
        parts = [f"{self.done / max(self.seconds, 1e-9):.1f}/s", f"{compact(self.tokens_in + self.tokens_out)} tok"]
        parts += [money(self.cost)] if self.cost > 0 else []
        parts += [f"{self.failures.total():,} failed"] if self.failures else []
        return " ".join(parts)

    def time_left(self) -> str:
        """Return the remaining time at the mean rate so far, as the end of a sentence; empty if unknown."""
        left = self.total - self.done
        return f", about {duration(self.seconds * left / self.done)} left" if self.done and left > 0 else ""

    def line(self) -> str:
        """Return the counts in one line."""
        if not self.total:
            failed = f"; {counted(self.failed_before, 'description')} failed before" if self.failed_before else ""
            return f"Nothing left to send{failed}"
        parts = [f"{counted(self.answered, 'description')} written in {duration(self.seconds)}"]
        parts += [f"{self.tokens_in:,} input tokens, {self.tokens_out:,} output tokens"] if self.tokens_in else []
        parts += [money(self.cost)] if self.cost else []
        parts += [counted(self.tried_again, "retry")] if self.tried_again else []
        parts += (
            [f"{counted(self.uncounted, 'request')} not counted by the server, charged at the worst case"]
            if self.uncounted
            else []
        )
        return ", ".join(parts)

    def fields(self) -> dict[str, object]:
        """Return the counts as values for JSON."""
        names = (
            "answered",
            "total",
            "failures",
            "failed_before",
            "tokens_in",
            "tokens_out",
            "cost",
            "seconds",
            "stopped",
        )
        return {name: getattr(self, name) for name in names}

    def failure_lines(self) -> list[str]:
        """Return a line for each reason, the most frequent first, with its most frequent message."""
        return [
            f"failed: {count:,} {reason}{commonest(reason, self.details.get(reason, Counter()))}"
            for reason, count in self.failures.most_common()
        ]

    def retry_line(self) -> str:
        """Return advice on retrying the failures; empty if there are none."""
        lasting = sum(count for reason, count in self.failures.items() if fails_again(reason))
        if not self.failures:
            return ""
        if lasting < self.failures.total():
            others = f"; {lasting:,} of them would fail again unchanged" if lasting else ""
            return f"To retry them: retry_failed (--retry-failed){others}."
        again = "It would fail again unchanged" if lasting == 1 else "They would fail again unchanged"
        return f"{again}: change the settings, the images or the server first."


class TallyMeter:
    """Shows a tally on a progress line, or logs it periodically if none is drawn.

    Args:
        tally: the counts.
        meter: the progress line.
    """

    def __init__(self, tally: Tally, meter: console.Meter) -> None:
        self._tally, self._meter, self._line_due = tally, meter, LINE_SECONDS

    def show(self, more: str = "") -> None:
        """Show the current counts, with more text after the note."""
        tally, note = self._tally, self._tally.note() + more
        self._meter.set(tally.done)
        self._meter.note(note)
        if not console.is_drawn() and tally.seconds > self._line_due:
            self._line_due += LINE_SECONDS
            console.say(f"{tally.done:,} of {tally.total:,}: {note}{tally.time_left()}")
