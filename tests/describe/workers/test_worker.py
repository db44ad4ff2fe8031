"""A worker: its place, its log, its share of the money."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DataOptions
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.workers.run_folder import Order, RunFolder, workers_folder
from gpt4image.describe.workers.worker import describe_shard, hold_place, report_shard, without_keys, written_before
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.workflows.describe import run_description
from support.describing import cost_of
from support.running import LONG, options, record_bytes, waits_for
from support.stub_server import Fault, Scenario, StubServer

QUESTIONS = {"prompts": ("questions",), "price_in": 10.0, "price_out": 20.0, "max_tokens": 20}


def order(store: DescriptionStore, name: str, *, alone: bool = False) -> Order:
    run = workers_folder(store) / name
    return Order(DataOptions("x"), DescribeOptions(), store.folder.parent, run, Path.cwd(), alone=alone)


def out_of_money(turn: int) -> Scenario:
    return Scenario(latency=0.02, faults=(Fault("quota", turn=turn),))


def spy(counted: list, budget_of):
    def noted(self, dollars, spent, **options):
        counted.append(spent)
        return budget_of(self, dollars, spent, **options)

    return noted


def test_place_is_held_by_one_worker(store):
    mine = order(store, "a")
    assert waits_for(hold_place(mine, 0), RunFolder(mine.run).lock(0))
    assert not waits_for(hold_place(mine, 0), RunFolder(mine.run).lock(1), LONG)


def test_worker_without_launcher_waits_for_workers_of_other_runs(store):
    other = RunFolder(workers_folder(store) / "b").lock(1)
    assert waits_for(hold_place(order(store, "a", alone=True), 0), other)
    sibling = RunFolder(workers_folder(store) / "a").lock(1)
    assert not waits_for(hold_place(order(store, "a", alone=True), 0), sibling, LONG)
    assert waits_for(hold_place(order(store, "a", alone=True), 0), store.folder / "describe.lock")


def test_written_before_counts_killed_predecessors(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "1.jsonl").write_bytes(record_bytes("a", 0.5) + record_bytes("b", 0.25))
    state = run.update(0, pid=os.getpid(), parts=(str(tmp_path / "1.jsonl"), str(tmp_path / "removed.jsonl")))
    keys, spent = written_before(run.read(0))
    assert (keys.tolist(), spent) == ([b"a" * 32, b"b" * 32], 0.75)
    assert run.read(0) == state
    assert not state.ended


def test_crash_is_logged_in_the_run_folder_only(few_images, tmp_path):
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / "run")
    with StubServer() as server:
        chosen = DescribeOptions(base_url=(server.base_url,), engine="local")
        order = Order(DataOptions(str(few_images)), chosen, tmp_path / "file", run.folder, tmp_path)
        failure = report_shard(order, run, 0, 1)
    assert str(failure) == f"Worker 0 has failed: see {run.log(0)}."
    assert failure.__context__ is None
    assert "NotADirectoryError" in run.log(0).read_text()
    assert not run.read(0).ended


def test_traceback_is_logged_without_keys(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    scrubbed = without_keys(f"{key} sk-another-key end", DescribeOptions(key_env="ENGINE_TEST_KEY"))
    assert scrubbed == "[key] [key] end"


def test_conversations_from_before_the_run_cost_it_nothing(few_images, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(DescribeJob, "budget_of", spy(counted, DescribeJob.budget_of))
    data, store = DataOptions(str(few_images)), DescriptionStore(tmp_path / "descriptions")
    run = RunFolder(workers_folder(store) / "run")
    run.folder.mkdir(parents=True)

    def share(server: StubServer) -> float:
        """Describe the shard; return what counted as spent when it began."""
        asked = options(server, **{**QUESTIONS, "engine": "here"})
        describe_shard(Order(data, asked, tmp_path, run.folder, tmp_path), run, 0, 1)
        return counted[-1]

    with StubServer(out_of_money(2)) as server, pytest.raises(DescribeError):
        run_description(data, options(server, **{**QUESTIONS, "engine": "here"}), tmp_path)
    before = store.spent().cost
    assert before == pytest.approx(cost_of(server.log)) and before > 0
    with StubServer(out_of_money(3)) as server, pytest.raises(DescribeError):
        share(server)
    assert counted[-1] == pytest.approx(0.0)
    paid = cost_of(server.log)
    assert paid > 0
    with StubServer() as server:
        assert share(server) == pytest.approx(paid)
        paid += cost_of(server.log)
        assert share(server) == pytest.approx(paid)
    assert store.spent().cost == pytest.approx(before + paid)
