"""Money: all that is paid for is booked once, at its worst where nobody counts, and no budget is exceeded."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.describe.estimate import estimate
from gpt4image.describe.runner import RunSettings
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.budget import Budget
from gpt4image.llm.prices import Price
from support.describing import described, mark_in, opened, records
from support.stub_scenario import Entry, Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36
IN, OUT = 1.0, 10.0
PRICE = {"price_in": IN, "price_out": OUT, "max_tokens": 100}
CALL = (270 * IN + 15 * OUT) / 1e6
"""About what a call of one question costs at the stub server."""
WORST = (4096 * IN + 100 * OUT) / 1e6
"""What a call costs at worst where nothing was counted yet."""


def spent(work) -> float:
    return DescriptionStore(work / "descriptions").spent().cost


def paid(log: Iterable[Entry]) -> int:
    return sum(entry.paid for entry in log)


def test_a_server_that_does_not_count_is_booked_at_its_worst(image_set, tmp_path):
    with StubServer(Scenario(usage=False)) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=10.5 * WORST, **PRICE)
        assert (tally.answered, tally.uncounted, paid(server.log)) == (10, 10, 10)
        assert "budget" in tally.stopped
        assert "10 requests not counted by the server" in tally.line()
        assert spent(tmp_path) == pytest.approx(10 * WORST)
        assert described(image_set, tmp_path, server.base_url, budget=10.5 * WORST, **PRICE).answered == 0
    assert {record.tokens_in for record in records(tmp_path)} == {None}


def test_a_server_that_never_counts_is_not_asked_one_by_one_for_ever():
    budget = Budget(1.0, Price(IN, OUT), 0.0, 100)
    for _ in range(8):
        assert not budget.affords(1)
        budget.pay(None, None)
    assert budget.affords(1)


def test_a_conversation_goes_on_where_it_was_pushed_back(image_set, tmp_path):
    faults = (Fault("rate_limit", probability=0.4, seconds=0.0), Fault("status", status=500, every=11))
    with StubServer(Scenario(faults=faults)) as server:
        tally = described(image_set, tmp_path, server.base_url, prompts=("questions",), **PRICE)
        assert tally.answered == IMAGES
        assert paid(server.log) == 3 * IMAGES
        assert {entry.turn for entry in server.log if entry.fault} >= {2, 3}
    found = records(tmp_path)
    assert all(mark_in(record) and record.text.count("This is answer") == 3 for record in found)
    written = sum(len(record.text.split()) for record in found)
    assert sum(record.tokens_out for record in found) == written
    read = sum(record.tokens_in for record in found)
    assert spent(tmp_path) == pytest.approx((IN * read + OUT * written) / 1e6) == pytest.approx(tally.cost)


def test_a_conversation_goes_on_at_another_server(image_set, tmp_path):
    dying = Scenario(latency=0.02, faults=(Fault("die", numbers=(20,)),))
    with StubServer(Scenario(latency=0.02)) as steady, StubServer(dying) as mortal:
        urls = steady.base_url, mortal.base_url
        assert described(image_set, tmp_path, *urls, prompts=("questions",)).answered == IMAGES
        sent = [entry for server in (steady, mortal) for entry in server.log if entry.paid and entry.sent]
    assert len(sent) == 3 * IMAGES


def test_what_an_answer_says_of_tokens_is_booked_though_it_says_nothing_else(image_set, tmp_path):
    budget = 0.012
    with StubServer(Scenario(faults=(Fault("no_choices", every=2),))) as server:
        patience = RunSettings(attempts=30)
        tally = described(image_set, tmp_path, server.base_url, budget=budget, patience=patience, **PRICE)
        calls = paid(server.log)
    assert "budget" in tally.stopped and tally.uncounted == 0
    assert budget - 4 * CALL < spent(tmp_path) <= budget
    assert spent(tmp_path) == pytest.approx(calls * CALL, rel=0.2)


@pytest.mark.parametrize(
    ("fault", "patience"),
    [
        (Fault("truncated", every=2), RunSettings(attempts=30)),
        (Fault("cut_body", every=2), RunSettings(attempts=30)),
        (Fault("status", status=504, every=2), RunSettings(attempts=30)),
        (Fault("slow", every=2, seconds=4.0), RunSettings(image_seconds=1.5)),
    ],
    ids=["truncated", "cut", "gateway", "slow"],
)
def test_calls_that_nobody_counted_are_booked_at_their_worst(image_set, tmp_path, fault, patience):
    with StubServer(Scenario(faults=(fault,))) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=0.012, patience=patience, **PRICE)
        lost = sum(entry.number % 2 == 0 for entry in server.log if entry.endpoint == "chat")
    assert "budget" in tally.stopped
    assert tally.uncounted == lost > 0
    counted = tally.answered * CALL
    assert 0.8 * (counted + lost * (CALL + 85 * OUT / 1e6)) <= spent(tmp_path) <= 0.012


def test_what_waits_when_a_job_ends_is_booked(image_set, tmp_path):
    """Runs that end at their budget, one after the other, spend it once, and each says what it has spent itself."""
    with StubServer(Scenario(faults=(Fault("empty", every=2),))) as server:
        tallies = [described(image_set, tmp_path, server.base_url, budget=limit, **PRICE) for limit in (0.006, 0.010)]
        tallies += [described(image_set, tmp_path, server.base_url, budget=0.010, **PRICE) for _ in range(2)]
        used = sum(entry.paid for entry in server.log)
        assert all("budget" in tally.stopped for tally in tallies)
    store = DescriptionStore(tmp_path / "descriptions")
    assert 0.004 < tallies[0].cost < spent(tmp_path) <= 0.010
    assert sum(tally.cost for tally in tallies) == pytest.approx(spent(tmp_path))
    assert spent(tmp_path) > sum(record.cost for record in records(tmp_path)), "some wait"
    empty = (270 * IN) / 1e6
    answers = len([record for record in records(tmp_path) if record.answered])
    assert spent(tmp_path) == pytest.approx(answers * CALL + (used - answers) * empty, rel=0.2)
    assert not store.failures() and not len(store.keys().failed)
    before = store.spent()
    store.compact()
    assert store.spent().cost == pytest.approx(before.cost)
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url, **PRICE).answered == IMAGES - answers


def test_every_call_of_a_job_without_an_answer_is_booked(image_set, tmp_path):
    """Once all tasks are begun, the one that the budget holds back has been paid for too."""
    options = {"splits": ("test",), "budget": 0.007, "patience": RunSettings(attempts=30), **PRICE}
    with StubServer(Scenario(faults=(Fault("empty"),))) as server:
        tally = described(image_set, tmp_path, server.base_url, **options)
        calls = paid(server.log)
    assert "budget" in tally.stopped and tally.done == 0
    assert calls > tally.total
    assert spent(tmp_path) == pytest.approx(calls * 270 * IN / 1e6)


def test_a_call_that_is_broken_off_is_booked(image_set, tmp_path):
    faults = (Fault("slow", seconds=4.0, numbers=(5,)), Fault("quota", numbers=(9,)))
    patience = RunSettings(grace_seconds=0.2)
    with StubServer(Scenario(faults=faults)) as server, pytest.raises(DescribeError, match="no money left"):
        described(image_set, tmp_path, server.base_url, at_once=2, patience=patience, **PRICE)
    payments = list(DescriptionStore(tmp_path / "descriptions").payments())
    assert [payment.cost > CALL for payment in payments] == [True]


def test_an_estimate_pays_for_each_picture_size_once(image_set, tmp_path):
    with StubServer() as server:
        for budget in (None, 1.0, 1.0):
            with opened(image_set, tmp_path, server.base_url, budget=budget, **PRICE) as job:
                found = estimate(job, sizes=(16, 32, 48))
            assert list(found.trials) == [16, 32, 48]
        assert server.paid_by_mark.total() == 8 + 3
        log = [entry for entry in server.log if entry.paid]
    assert {entry.settings["max_tokens"] for entry in log[-3:]} == {16}
    payments = list(DescriptionStore(tmp_path / "descriptions").payments())
    assert [payment.error for payment in payments] == ["size trial"] * 3
    assert spent(tmp_path) == pytest.approx(sum(r.cost for r in [*records(tmp_path), *payments]))


def test_an_estimate_keeps_to_the_budget(image_set, tmp_path):
    with StubServer() as server:
        with opened(image_set, tmp_path, server.base_url, **PRICE) as job:
            estimate(job)
        limit = spent(tmp_path) + 1e-5
        with opened(image_set, tmp_path, server.base_url, budget=limit, **PRICE) as job:
            assert estimate(job, sizes=(16, 32, 48)).trials == {}
        assert server.paid_by_mark.total() == 8


def test_a_budget_that_stops_nothing_is_spoken_of(image_set, tmp_path, capsys):
    from gpt4image.describe.stage import describe

    for more, told in (({}, True), (PRICE, False)):
        with StubServer() as server, opened(image_set, tmp_path, server.base_url, budget=9.0, **more) as job:
            describe(job)
        said = " ".join(capsys.readouterr().err.split())
        assert ("the budget stops nothing" in said) == told
        assert not told or "--price-in" in said


def test_several_turns_are_budgeted_at_their_worst(image_set, tmp_path):
    """A conversation is not begun where its last answers could not be paid."""
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url, prompts=("questions",), budget=0.016, **PRICE)
        assert "budget" in tally.stopped
        assert {entry.turn for entry in server.log if entry.paid} == {1, 2, 3} or not tally.answered
    assert spent(tmp_path) <= 0.016


def test_money_of_two_models_is_kept_apart(image_set, tmp_path):
    scenario = Scenario(models=("a", "b"))
    with StubServer(scenario) as server:
        for model in ("a", "b"):
            tally = described(image_set, tmp_path, server.base_url, model=model, budget=0.012, **PRICE)
            assert 0 < tally.answered < IMAGES
            assert DescriptionStore(tmp_path / "descriptions").spent(model).cost > 0.006


@pytest.mark.parametrize("dollars", [-1.0, float("nan"), float("inf")])
def test_a_budget_is_an_amount(dollars):
    with pytest.raises(ConfigError, match="amount of dollars"):
        Budget(dollars, Price(IN, OUT), 0.0, 100)
