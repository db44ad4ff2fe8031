"""The budget of a run: every request is charged once, uncounted ones at their worst, and no limit is exceeded."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.describe.runner import RunSettings
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.budget import UNKNOWN_TOKENS_IN, Budget
from gpt4image.llm.prices import Price
from support.describing import described, mark_in, records
from support.stub_scenario import Entry, Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36
IN, OUT = 1.0, 10.0
PRICE = {"price_in": IN, "price_out": OUT, "max_tokens": 100}
WORST = (4096 * IN + 100 * OUT) / 1e6
"""Worst case of a request before anything was counted."""
CALL = (270 * IN + 15 * OUT) / 1e6
"""About what one question costs at the stub server."""


def spent(work) -> float:
    return DescriptionStore(work / "descriptions").spent().cost


def paid(log: Iterable[Entry]) -> int:
    return sum(entry.paid for entry in log)


def test_run_ends_within_its_budget(image_set, tmp_path):
    prices = {"price_in": 1.0, "price_out": 5.0}
    with StubServer(Scenario(latency=0.01)) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=0.0065, **prices)
        costs = [record.cost for record in records(tmp_path)]
        assert "budget" in tally.stopped
        assert 0.004 < sum(costs) <= 0.0065
        assert sum(entry.paid for entry in server.log) == tally.answered == len(costs) < IMAGES
        assert described(image_set, tmp_path, server.base_url, budget=0.0065, **prices).answered == 0


def test_uncounted_answers_cost_their_worst_case(image_set, tmp_path):
    with StubServer(Scenario(usage=False)) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=10.5 * WORST, **PRICE)
        assert (tally.answered, tally.uncounted, paid(server.log)) == (10, 10, 10)
        assert "budget" in tally.stopped
        assert "10 requests not counted by the server" in tally.line()
        assert spent(tmp_path) == pytest.approx(10 * WORST)
        assert described(image_set, tmp_path, server.base_url, budget=10.5 * WORST, **PRICE).answered == 0
    assert {record.tokens_in for record in records(tmp_path)} == {None}


def test_server_that_never_counts_gets_concurrent_requests_after_a_while():
    budget = Budget(1.0, Price(IN, OUT), 0.0, 100)
    for _ in range(8):
        assert not budget.affords(1)
        budget.pay(None, None)
    assert budget.affords(1)


def test_rate_limited_conversation_resumes_and_pays_each_answer_once(image_set, tmp_path):
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


def test_conversation_resumes_at_another_server(image_set, tmp_path):
    dying = Scenario(latency=0.02, faults=(Fault("die", numbers=(20,)),))
    with StubServer(Scenario(latency=0.02)) as steady, StubServer(dying) as mortal:
        urls = steady.base_url, mortal.base_url
        assert described(image_set, tmp_path, *urls, prompts=("questions",)).answered == IMAGES
        sent = [entry for server in (steady, mortal) for entry in server.log if entry.paid and entry.sent]
    assert len(sent) == 3 * IMAGES


def test_answer_without_choices_costs_its_counted_tokens(image_set, tmp_path):
    budget = 0.012
    with StubServer(Scenario(faults=(Fault("no_choices", every=2),))) as server:
        patience = RunSettings(attempts=30)
        tally = described(image_set, tmp_path, server.base_url, budget=budget, patience=patience, **PRICE)
        calls = paid(server.log)
    assert "budget" in tally.stopped and tally.uncounted == 0
    assert budget - 4 * CALL < spent(tmp_path) <= budget
    assert spent(tmp_path) == pytest.approx(calls * CALL, rel=0.2)


@pytest.mark.parametrize("words", ["Blocked by classifier 7", "This image can't be processed"])
def test_first_picture_that_is_forbidden_in_any_words_does_not_end_the_run(image_set, tmp_path, words):
    body = json.dumps({"error": {"message": words}})
    with StubServer() as server:
        first = described(image_set, tmp_path / "first", server.base_url, at_once=1)
        mark = next(entry.mark for entry in server.log if entry.mark)
    assert first.answered == IMAGES
    with StubServer(Scenario(faults=(Fault("body", status=403, text=body, mark=mark),))) as server:
        tally = described(image_set, tmp_path / "some", server.base_url, at_once=1)
    assert (tally.answered, tally.failures) == (IMAGES - 1, {"refused by the server (403)": 1})
    with StubServer(Scenario(faults=(Fault("body", status=403, text=body),))) as server:
        with pytest.raises(DescribeError, match=words):
            described(image_set, tmp_path / "all", server.base_url, at_once=1)
        assert len([entry for entry in server.log if entry.endpoint == "chat"]) == 3
    assert not records(tmp_path / "all")  # with the right key, the same command asks for all of them


def test_answer_that_would_come_again_is_paid_for_once(image_set, tmp_path):
    """Both where it ends the run, as nothing else has come, and where it fails one image."""
    body = json.dumps({"type": "message", "content": [], "usage": {"input_tokens": 300, "output_tokens": 20}})
    with StubServer(Scenario(faults=(Fault("body", text=body),))) as server:
        with pytest.raises(DescribeError, match="Anthropic's messages"):
            described(image_set, tmp_path / "all", server.base_url, at_once=1, **PRICE)
        assert len([entry for entry in server.log if entry.endpoint == "chat"]) == 1
    assert spent(tmp_path / "all") == pytest.approx((300 * IN + 20 * OUT) / 1e6)
    tool = {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}, "finish_reason": "tool_calls"}]}
    with StubServer(Scenario(faults=(Fault("body", text=json.dumps(tool), numbers=(3, 5)),))) as server:
        tally = described(image_set, tmp_path / "some", server.base_url, at_once=1, **PRICE)
        assert len([entry for entry in server.log if entry.endpoint == "chat"]) == IMAGES
    assert tally.failures == {"answer without a text": 2} and "would fail again" in tally.retry_line()
    assert '{"tool_choice": "none"}' in tally.failure_lines()[0]


@pytest.mark.parametrize(
    ("fault", "patience"),
    [
        (Fault("truncated", every=2), RunSettings(attempts=30)),
        (Fault("cut_body", every=2), RunSettings(attempts=30)),
        (Fault("status", status=504, every=2), RunSettings(attempts=30)),
        (Fault("slow", every=2, seconds=10.0), RunSettings(image_seconds=4.0)),
    ],
    ids=["truncated", "cut", "gateway", "slow"],
)
@pytest.mark.slow
def test_lost_requests_cost_their_worst_case(image_set, tmp_path, fault, patience):
    with StubServer(Scenario(faults=(fault,))) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=0.012, patience=patience, **PRICE)
        lost = sum(entry.number % 2 == 0 for entry in server.log if entry.endpoint == "chat")
    assert "budget" in tally.stopped
    assert tally.uncounted == lost > 0
    counted = tally.answered * CALL
    assert 0.8 * (counted + lost * (CALL + 85 * OUT / 1e6)) <= spent(tmp_path) <= 0.012


def test_tries_of_unfinished_tasks_are_paid_for(image_set, tmp_path):
    """Runs that each end at their budget spend it once between them, and each tally holds the run's own spending."""
    with StubServer(Scenario(faults=(Fault("empty", every=2),))) as server:
        tallies = [described(image_set, tmp_path, server.base_url, budget=limit, **PRICE) for limit in (0.006, 0.010)]
        tallies += [described(image_set, tmp_path, server.base_url, budget=0.010, **PRICE) for _ in range(2)]
        used = sum(entry.paid for entry in server.log)
        assert all("budget" in tally.stopped for tally in tallies)
    store = DescriptionStore(tmp_path / "descriptions")
    assert 0.004 < tallies[0].cost < spent(tmp_path) <= 0.010
    assert sum(tally.cost for tally in tallies) == pytest.approx(spent(tmp_path))
    assert spent(tmp_path) > sum(record.cost for record in records(tmp_path)), "some tasks have no outcome yet"
    empty = (270 * IN) / 1e6
    answers = len([record for record in records(tmp_path) if record.answered])
    assert spent(tmp_path) == pytest.approx(answers * CALL + (used - answers) * empty, rel=0.2)
    assert not store.failures() and not len(store.keys().failed)
    before = store.spent()
    store.compact()
    assert store.spent().cost == pytest.approx(before.cost)
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url, **PRICE).answered == IMAGES - answers


@pytest.mark.slow
def test_every_request_of_a_run_without_answers_is_paid_for(image_set, tmp_path):
    """With all tasks started, the one that the budget holds back has been paid for too."""
    options = {"splits": ("test",), "budget": 0.007, "patience": RunSettings(attempts=30), **PRICE}
    with StubServer(Scenario(faults=(Fault("empty"),))) as server:
        tally = described(image_set, tmp_path, server.base_url, **options)
        calls = paid(server.log)
    assert "budget" in tally.stopped and tally.done == 0
    assert calls > tally.total
    assert spent(tmp_path) == pytest.approx(calls * 270 * IN / 1e6)


@pytest.mark.slow
def test_cancelled_request_costs_its_worst_case(image_set, tmp_path):
    faults = (Fault("slow", seconds=4.0, numbers=(5,)), Fault("quota", numbers=(9,)))
    patience = RunSettings(grace_seconds=0.2)
    with StubServer(Scenario(faults=faults)) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, tmp_path, server.base_url, at_once=2, patience=patience, **PRICE)
    payments = list(DescriptionStore(tmp_path / "descriptions").payments())
    assert [payment.cost > CALL for payment in payments] == [True]


def test_conversation_starts_only_if_all_its_turns_can_be_paid(image_set, tmp_path):
    """Its last answers count before its first question is sent."""
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url, prompts=("questions",), budget=0.016, **PRICE)
        assert "budget" in tally.stopped
        assert {entry.turn for entry in server.log if entry.paid} == {1, 2, 3} or not tally.answered
    assert spent(tmp_path) <= 0.016


def test_each_model_has_its_own_spending(image_set, tmp_path):
    scenario = Scenario(models=("a", "b"))
    with StubServer(scenario) as server:
        for model in ("a", "b"):
            tally = described(image_set, tmp_path, server.base_url, model=model, budget=0.012, **PRICE)
            assert 0 < tally.answered < IMAGES
            assert DescriptionStore(tmp_path / "descriptions").spent(model).cost > 0.006


def test_open_requests_count_at_their_worst_case():
    budget = Budget(1.0, Price(10.0, 100.0), 0.5, most_out=1000)
    assert budget.affords(0)
    assert not budget.affords(1), "one at a time before the first answer"
    assert budget.pay(5000, 500) == pytest.approx(0.1)
    assert budget.spent == pytest.approx(0.6)
    assert budget.affords(1)
    assert not budget.affords(2)
    assert Budget(None, None, 0.0, 10).affords(10**6)
    assert not Budget(UNKNOWN_TOKENS_IN * 1e-5 - 1e-9, Price(10.0, 0.0), 0.0, 1).affords(0)
    with pytest.raises(ConfigError, match="price_in and price_out"):
        Budget(1.0, None, 0.0, 10)


def test_thinking_beyond_the_answers_limit_counts_for_what_is_sent_next():
    budget = Budget(1.0, Price(0.0, 100.0), 0.0, most_out=1000)
    budget.pay(5000, 500)
    assert budget.affords(8) and not budget.exceeded
    budget.pay(5000, 4000)
    assert budget.affords(0) and not budget.affords(1)
    budget.pay(5000, 6000)
    assert budget.spent == pytest.approx(1.05)
    assert budget.exceeded.startswith(
        "the budget is exceeded by $0.050: an answer took 6,000 tokens although max_tokens"
    )


def test_budget_that_hidden_thinking_exceeds_is_said_with_amount_and_reason(image_set, tmp_path):
    """Requests are open when the first answer with thinking that only `total_tokens` shows comes back."""
    usage = {"prompt_tokens": 270, "completion_tokens": 15, "total_tokens": 2270}
    thinks = Fault("usage", text=json.dumps(usage), numbers=tuple(range(3, 99)))
    with StubServer(Scenario(faults=(thinks,), latency=0.1)) as server:
        tally = described(image_set, tmp_path, server.base_url, budget=0.05, **PRICE)
    over = spent(tmp_path) - 0.05
    assert over > 0 and f"the budget is exceeded by ${over:.3f}"[:-1] in tally.stopped
    assert "an answer took 2,000 tokens although max_tokens (--max-tokens) is 100" in tally.stopped


@pytest.mark.parametrize("dollars", [-1.0, float("nan"), float("inf")])
def test_budget_must_be_an_amount(dollars):
    with pytest.raises(ConfigError, match="amount in dollars"):
        Budget(dollars, Price(IN, OUT), 0.0, 100)
