"""Failed tries: their cost survives a kill, and counts once."""

from __future__ import annotations

import time

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.describe import clients as session
from gpt4image.describe.runner import RunSettings
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm import server_pool
from support.describing import cost_of, described, records, store_in
from support.forks import start_command
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubProcess, StubServer

IMAGES = 36
AT_ONCE = 4
PRICE_ALONE = {"price_in": 10.0, "price_out": 20.0}
PRICE = {**PRICE_ALONE, "max_tokens": 20}
THREE_IN_VAIN = (Fault("empty", times=3),)


def spent_in(store: DescriptionStore, log) -> bool:
    """Whether store and server agree on tokens and cost."""
    spent, paid = store.spent(), [entry for entry in log if entry.paid]
    tokens = sum(entry.tokens_in for entry in paid), sum(entry.tokens_out for entry in paid)
    return (spent.tokens_in, spent.tokens_out) == tokens and spent.cost == pytest.approx(cost_of(log))


@pytest.mark.slow
def test_kill_loses_track_of_open_requests_only(image_set, tmp_path):
    held = Fault("slow", numbers=tuple(range(60, 60 + AT_ONCE)), seconds=5.0)  # so that it does not end by itself
    with StubProcess(Scenario(latency=0.05, slots=AT_ONCE, faults=(*THREE_IN_VAIN, held))) as server:
        prices = ["--price-in", "10", "--price-out", "20", "--max-tokens", "20", "--yes", "--at-once", str(AT_ONCE)]
        where = ["--work", str(tmp_path), "--base-url", server.base_url, "--model", MODEL]
        every = ["--splits", "train", "validation", "test"]
        process = start_command(["describe", str(image_set), *where, *every, *prices])
        while process.is_alive() and sum(entry.paid for entry in server.log) < 30:
            time.sleep(0.01)
        process.kill()
        process.join()
        log = list(server.log)
        one = max(cost_of([entry]) for entry in log)
        spent = store_in(tmp_path).spent().cost
        assert len(records(tmp_path)) < IMAGES, "most answers were empty"
        assert cost_of(log) - AT_ONCE * one <= spent <= cost_of(log) + 1e-9

        tally = described(image_set, tmp_path, server.base_url, budget=1.0, **PRICE)
        assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
        total = cost_of(server.log)
    assert store_in(tmp_path).spent().cost == pytest.approx(spent + tally.cost)
    assert total - AT_ONCE * one <= spent + tally.cost <= total + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["plain", "questions"])
def test_each_request_is_on_disk_in_one_place(image_set, tmp_path, prompt):
    """In the record of the outcome, in a payment or with a kept answer, however the run ends."""
    options = {"prompts": (prompt,), "at_once": AT_ONCE, "patience": RunSettings(attempts=9), **PRICE}
    faults = (Fault("quota", numbers=tuple(range(60, 500))), Fault("empty", times=2))
    with StubServer(Scenario(faults=faults)) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, tmp_path, server.base_url, **options)
    store, log = store_in(tmp_path), server.log
    assert spent_in(store, log)
    store.compact()
    assert spent_in(store, log)
    with StubServer(Scenario(faults=(Fault("empty", times=1),))) as server:
        assert described(image_set, tmp_path, server.base_url, **options).stopped == ""
    log += server.log
    found = records(tmp_path)
    assert len(found) == IMAGES and all(record.answered for record in found)
    assert spent_in(store, log)
    store.compact()
    assert spent_in(store, log)


def test_record_holds_all_tries_and_takes_their_payments_back(image_set, images, tmp_path):
    mark = images.ids[5].decode()[:12]
    with StubServer(Scenario(faults=(Fault("empty", mark=mark, times=2),))) as server:
        tally = described(image_set, tmp_path, server.base_url, **PRICE)
        paid = [entry for entry in server.log if entry.paid and entry.mark == mark]
        assert len(paid) == 3
        assert tally.cost == pytest.approx(cost_of(server.log))
    (record,) = (record for record in records(tmp_path) if record.image_id == images.ids[5].decode())
    assert record.cost == pytest.approx(cost_of(paid))
    assert record.tokens_in == sum(entry.tokens_in for entry in paid)
    payments = list(store_in(tmp_path).payments())
    assert [payment.error for payment in payments] == ["failed attempt", "failed attempt", "counted with the outcome"]
    assert sum(payment.cost for payment in payments) == pytest.approx(0.0)
    assert sum(payment.tokens_in for payment in payments) == 0


def test_time_out_is_paid_for_before_the_health_check(image_set, tmp_path, monkeypatch):
    """The check may take long, and the process may be killed meanwhile."""
    seen = []

    async def looks(self, server) -> bool:
        seen.append(store_in(tmp_path).spent().cost)
        return False

    monkeypatch.setattr(server_pool.ServerPool, "is_unresponsive", looks)
    hanging = Scenario(faults=(Fault("slow", seconds=1.5, numbers=(2,)),))
    with StubServer(hanging) as server:
        options = {"at_once": 1, "patience": RunSettings(image_seconds=0.7), **PRICE}
        described(image_set, tmp_path, server.base_url, **options)
    assert seen and min(seen) > 0


@pytest.mark.parametrize("usage", [True, False])
def test_unpriced_answers_hide_no_later_cost(image_set, tmp_path, monkeypatch, usage):
    """Answers that were kept without a cost get one once the price is known."""
    monkeypatch.setattr(session, "is_loopback", lambda url: False)  # the price of a remote server is not known
    cut_off = Scenario(usage=usage, faults=(Fault("quota", turn=3),))
    options = {"prompts": ("questions",), "max_tokens": PRICE["max_tokens"]}
    with StubServer(cut_off) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, tmp_path, server.base_url, **options)
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url, **options, **PRICE_ALONE)
        charged = cost_of(server.log)
    assert all(record.cost for record in records(tmp_path))
    least = charged * (1 - 1e-9)  # sums of floats in another order
    assert store_in(tmp_path).spent().cost >= least > 0
    assert tally.cost >= least
