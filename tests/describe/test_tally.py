"""The account of a job."""

from gpt4image.core import console
from gpt4image.describe.tally import Tally
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.descriptions.store.records import payment_of


def test_payments_are_money_and_no_outcome():
    asked = DescriptionRecord("k", "i")
    tally = Tally(2)
    tally.add(DescriptionRecord("k", "i", "text", tokens_in=10, tokens_out=2, cost=0.5))
    tally.add(payment_of(asked, "not finished", 7, None, 0.25, "2026"))
    assert (tally.done, tally.answered, tally.failures.total()) == (1, 1, 0)
    assert (tally.cost, tally.tokens_in, tally.tokens_out) == (0.75, 17, 2)


def test_time_left_is_said_once_it_can_be_told():
    tally = Tally(100, seconds=600.0)
    assert tally.time_left() == ""
    tally.answered = 25
    assert tally.time_left() == ", about 30 min left"
    tally.answered = 100
    assert tally.time_left() == ""


def test_progress_without_a_known_end_shows_how_far_it_is(capsys):
    with console.progress("Export") as meter:
        meter.advance(1700)
    with console.progress("Describe in batches", 0):
        pass
    shown = capsys.readouterr().err
    assert "1,700" in shown and "?" not in shown
    assert "0/0" not in shown and "Describe" not in shown
