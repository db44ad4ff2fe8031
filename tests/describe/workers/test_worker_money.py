"""What a worker counts as spent in its run: all that was paid in it, and nothing that was paid before."""

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DataOptions
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.workers.run_folder import Order, RunFolder, workers_folder
from gpt4image.describe.workers.worker import describe_shard
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.workflows.describe import run_description
from support.running import options
from support.stub_server import Fault, Scenario, StubServer

QUESTIONS = {"prompts": ("questions",), "price_in": 10.0, "price_out": 20.0, "max_tokens": 20}


def cost_of(server: StubServer) -> float:
    return sum(10.0 * entry.tokens_in + 20.0 * entry.tokens_out for entry in server.log if entry.paid) / 1e6


def out_of_money(turn: int) -> Scenario:
    return Scenario(latency=0.02, faults=(Fault("quota", turn=turn),))


def test_conversations_begun_before_the_run_cost_the_run_nothing(few_images, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(DescribeJob, "budget_of", spy(counted, DescribeJob.budget_of))
    data, store = DataOptions(str(few_images)), DescriptionStore(tmp_path / "descriptions")
    run = RunFolder(workers_folder(store) / "run")
    run.folder.mkdir(parents=True)

    def share(server: StubServer) -> float:
        """Work at the share; what counted as spent when it began."""
        asked = options(server, **{**QUESTIONS, "engine": "here"})
        describe_shard(Order(data, asked, tmp_path, run.folder, tmp_path), run, 0, 1)
        return counted[-1]

    with StubServer(out_of_money(2)) as server, pytest.raises(DescribeError):
        run_description(data, options(server, **{**QUESTIONS, "engine": "here"}), tmp_path)
    before = store.spent().cost
    assert before == pytest.approx(cost_of(server)) and before > 0
    with StubServer(out_of_money(3)) as server, pytest.raises(DescribeError):
        share(server)
    assert counted[-1] == pytest.approx(0.0)
    paid = cost_of(server)
    assert paid > 0
    with StubServer() as server:
        assert share(server) == pytest.approx(paid)
        paid += cost_of(server)
        assert share(server) == pytest.approx(paid)
    assert store.spent().cost == pytest.approx(before + paid)


def spy(counted: list, budget_of):
    def noted(self, dollars, spent, **options):
        counted.append(spent)
        return budget_of(self, dollars, spent, **options)

    return noted
