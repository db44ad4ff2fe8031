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


def failed(*pairs: tuple[str, str]) -> Tally:
    tally = Tally(len(pairs))
    for reason, said in pairs:
        tally.add(DescriptionRecord("k", "i", error=reason, detail=said))
    return tally


def test_remedy_follows_the_words_of_the_server():
    tally = failed(("refused by the server (400)", "The prompt is too long"), ("server error 500", "seed"))
    assert tally.failure_lines() == [
        'failed: 1 refused by the server (400), mostly with "The prompt is too long": send smaller pictures: lower '
        "max_side (--max-side)",
        'failed: 1 server error 500, mostly with "seed"',
    ]


def test_retry_is_advised_for_what_may_succeed_only():
    refused, passing = ("refused by the server (400)", ""), ("server error 500", "")
    assert "--retry-failed" not in failed(refused, ("unreadable picture", "")).retry_line()
    assert failed(passing).retry_line() == "To retry them: retry_failed (--retry-failed)."
    assert "1 of them would fail again" in failed(refused, passing).retry_line()


def test_answers_of_other_models_are_counted():
    tally = Tally(3)
    for served in ("gpt-4o-2024-08-06", "gpt-4o-mini", ""):
        tally.add(DescriptionRecord("k", "i", "text", model="openai/gpt-4o", served_model=served))
    assert tally.other_models == {"gpt-4o-mini": 1}


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
