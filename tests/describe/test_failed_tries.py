"""Tries that failed are paid for all the same: what they cost outlives the process, and is counted once."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from describing import described, records
from stub_scenario import MODEL, Fault, Scenario
from stub_server import StubProcess, StubServer

from gpt4image.describe.runner import RunSettings, ledger
from gpt4image.describe.store import DescriptionStore
from gpt4image.describe.store.conversations import read_turns, turn_files
from gpt4image.errors import DescribeError

IMAGES = 36
AT_ONCE = 4
PRICE = {"price_in": 10.0, "price_out": 20.0, "max_tokens": 20}
THREE_IN_VAIN = (Fault("empty", times=3),)


def cost_of(log) -> float:
    """What the server has counted, in dollars."""
    return sum(10.0 * entry.tokens_in + 20.0 * entry.tokens_out for entry in log if entry.paid) / 1e6


def store_in(work) -> DescriptionStore:
    return DescriptionStore(work / "descriptions")


def test_a_kill_forgets_no_more_than_what_was_under_way(image_set, tmp_path):
    with StubProcess(Scenario(latency=0.05, slots=AT_ONCE, faults=THREE_IN_VAIN)) as server:
        prices = ["--price-in", "10", "--price-out", "20", "--max-tokens", "20", "--yes", "--at-once", str(AT_ONCE)]
        where = ["--work", str(tmp_path), "--base-url", server.base_url, "--model", MODEL]
        every = ["--splits", "train", "validation", "test"]
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt4image", "describe", str(image_set), *where, *every, *prices],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and sum(entry.paid for entry in server.log) < 30:
            time.sleep(0.01)
        process.kill()
        process.wait()
        log = list(server.log)
        one = max(cost_of([entry]) for entry in log)
        spent = store_in(tmp_path).spent().cost
        assert not records(tmp_path), "all that was paid for was in vain"
        assert cost_of(log) - AT_ONCE * one <= spent <= cost_of(log)

        tally = described(image_set, tmp_path, server.base_url, budget=1.0, **PRICE)
        assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
        total = cost_of(server.log)
    assert total - AT_ONCE * one <= store_in(tmp_path).spent().cost <= total
    assert store_in(tmp_path).spent().cost == pytest.approx(sum(record.cost for record in records(tmp_path)))


@pytest.mark.parametrize("prompt", ["plain", "questions"])
def test_what_a_job_that_stops_has_paid_for_is_on_the_records_of_the_next(image_set, tmp_path, prompt):
    options = {"prompts": (prompt,), "at_once": AT_ONCE, "patience": RunSettings(attempts=9), **PRICE}
    faults = (Fault("quota", numbers=tuple(range(60, 500))), Fault("empty", times=2))
    with StubServer(Scenario(faults=faults)) as server, pytest.raises(DescribeError, match="no money left"):
        described(image_set, tmp_path, server.base_url, **options)
    store, log = store_in(tmp_path), server.log
    assert store.spent().cost == pytest.approx(cost_of(log))
    store.compact()
    assert store.spent().cost == pytest.approx(cost_of(log))
    with StubServer(Scenario(faults=(Fault("empty", times=1),))) as server:
        assert described(image_set, tmp_path, server.base_url, **options).stopped == ""
    log += server.log
    assert store.spent().cost == pytest.approx(cost_of(log))
    found = records(tmp_path)
    assert len(found) == IMAGES and all(record.answered for record in found)
    assert sum(record.cost for record in found) == pytest.approx(cost_of(log))
    store.compact()
    assert not list((tmp_path / "descriptions" / "turns").iterdir())


def test_tries_of_one_moment_are_told_apart(image_set, images, tmp_path, monkeypatch):
    """As where the clock is put back: each costs the same, at the same time."""
    monkeypatch.setattr(ledger, "now", lambda: "2026-01-01T00:00:00.000000+00:00")
    mark = images.ids[5].decode()[:12]
    faults = (Fault("quota", mark=mark, numbers=tuple(range(38, 80))), Fault("empty", mark=mark))
    patience = RunSettings(attempts=50)
    with StubServer(Scenario(faults=faults)) as server, pytest.raises(DescribeError, match="no money left"):
        described(image_set, tmp_path, server.base_url, patience=patience, **PRICE)
    kept = read_turns(turn_files(tmp_path / "descriptions" / "turns"))
    assert len(kept) == sum(entry.paid and entry.fault == "empty" for entry in server.log) >= 2
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of(server.log))
