"""Counts of a run."""

from __future__ import annotations

from gpt4image.core import console
from gpt4image.describe.tally import Tally
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.descriptions.store.records import payment_of


def test_payment_adds_cost_but_no_outcome():
    asked = DescriptionRecord("k", "i")
    tally = Tally(2)
    tally.add(DescriptionRecord("k", "i", "text", tokens_in=10, tokens_out=2, cost=0.5))
    tally.add(payment_of(asked, "not finished", 7, None, 0.25, "2026"))
    assert (tally.done, tally.answered, tally.failures.total()) == (1, 1, 0)
    assert (tally.cost, tally.tokens_in, tally.tokens_out) == (0.75, 17, 2)


def test_time_left_is_empty_until_known():
    tally = Tally(100, seconds=600.0)
    assert tally.time_left() == ""
    tally.answered = 25
    assert tally.time_left() == ", about 30 min left"
    tally.answered = 100
    assert tally.time_left() == ""


def test_progress_without_total_shows_the_count(capsys):
    with console.progress("Export") as meter:
        meter.advance(1700)
    with console.progress("Describe in batches", 0):
        pass
    shown = capsys.readouterr().err
    assert "1,700" in shown and "?" not in shown
    assert "0/0" not in shown and "Describe" not in shown
