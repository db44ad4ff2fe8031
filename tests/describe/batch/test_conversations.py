"""Conversations that start online and continue in batches."""

from __future__ import annotations

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.describe import clients as session
from support.batching import batched, records, store_of
from support.describing import described
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36
ONLINE = {"prompts": ("questions",), "max_tokens": 50, "price_in": 1.0, "price_out": 5.0}


def cost_of(log, share: float = 1.0) -> float:
    return share * sum(entry.tokens_in + 5.0 * entry.tokens_out for entry in log if entry.paid) / 1e6


def test_batch_resumes_conversations_from_online_answers_and_keeps_their_cost(image_set, tmp_path):
    cut = Scenario(latency=0.05, faults=(Fault("quota", turn=3),))
    with StubServer(cut) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, tmp_path, server.base_url, **ONLINE)
    online = cost_of(server.log)
    answered = sum(entry.paid for entry in server.log)
    store = store_of(tmp_path)
    assert store.spent().cost == pytest.approx(online)
    with StubServer() as server:
        tally = batched(image_set, tmp_path, server.base_url, ["questions"])
        lines = [entry for entry in server.log if entry.endpoint == "line"]
    assert tally.cost == pytest.approx(cost_of(lines, 0.5)), "the tally counts what this run paid"
    assert tally.answered > 0 and len(records(tmp_path)) == IMAGES
    assert answered + len(lines) == 3 * IMAGES
    assert all(record.text.count("This is answer") == 3 for record in records(tmp_path))
    assert store.spent().cost == pytest.approx(online + cost_of(lines, 0.5))
    store.compact()
    assert store.spent().cost == pytest.approx(online + cost_of(lines, 0.5))
    assert not list((tmp_path / "descriptions" / "turns").iterdir())


def test_unpriced_online_answers_do_not_hide_the_cost_of_a_batch(image_set, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "is_loopback", lambda url: False)  # a remote server without a known price
    cut = Scenario(latency=0.05, faults=(Fault("quota", turn=3),))
    with StubServer(cut) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, tmp_path, server.base_url, prompts=("questions",), max_tokens=50)
    online = cost_of(server.log)
    assert store_of(tmp_path).spent().cost == 0.0
    with StubServer() as server:
        batched(image_set, tmp_path, server.base_url, ["questions"])
        lines = [entry for entry in server.log if entry.endpoint == "line"]
    assert all(record.cost for record in records(tmp_path))
    assert store_of(tmp_path).spent().cost == pytest.approx(cost_of(lines, 0.5) + 0.5 * online)
