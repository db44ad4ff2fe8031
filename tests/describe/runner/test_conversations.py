"""Conversations that are cut off: answers are kept, paid for once, and resumed from."""

from __future__ import annotations

import gc
import shutil

import pytest

from gpt4image.core.errors import DescribeError, StoreError
from gpt4image.describe import clients as session
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.runner import Ledger, RunSettings, ledger, run_tasks
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store import conversations
from gpt4image.descriptions.store.conversations import Conversations, read_turns, turn_files
from gpt4image.llm.base import DescribeRequest, Reply
from support.describing import cost_of, described, opened, records, store_in
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36
PRICE = {"price_in": 10.0, "price_out": 20.0, "max_tokens": 20}
PROMPTS = {"prompts": ("questions",), "max_tokens": PRICE["max_tokens"]}
QUESTIONS = {**PROMPTS, **PRICE}
OUT_OF_MONEY = Scenario(latency=0.05, faults=(Fault("quota", turn=3),))


def cut_off(image_set, work, **options) -> list:
    """Describe until the account runs out of money, before any conversation has ended; return the server's log."""
    with StubServer(OUT_OF_MONEY) as server, pytest.raises(DescribeError, match="no credit left"):
        described(image_set, work, server.base_url, **{**QUESTIONS, **options})
    return server.log


class AllAtOnce:
    """Answers all questions about an image with one reply, as a model in this process does."""

    name, place, model, max_concurrency = "fake", "here", "m", 4

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def describe(self, request: DescribeRequest, on_answer) -> Reply:
        return Reply(tuple("new" for _ in request.turns), "stop", 300, 30, "m")


def go_on(job: DescribeJob, *describers) -> tuple[Tally, float]:
    """Run a job with other describers; return its tally, and what its budget counts as spent."""
    maker, budget = RequestMaker(job.images, job.question, job.plan()), job.budget()
    with job.store.writer() as writer, job.store.conversations() as conversations_before:
        tally = run_tasks(maker, describers, Ledger(maker, writer, budget, conversations_before), job.session.loop)
        return tally, budget.spent


def test_another_process_resumes_behind_kept_answers(image_set, tmp_path):
    log = cut_off(image_set, tmp_path)
    answered = sum(entry.paid for entry in log)
    assert answered >= 8 and not records(tmp_path), "at least four conversations were cut off"
    assert not list(store_in(tmp_path).payments()), "kept answers are no payments"
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of(log))
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url, **QUESTIONS)
    assert (tally.stopped, tally.cost) == ("", pytest.approx(cost_of(server.log)))
    assert tally.tokens_in == sum(entry.tokens_in for entry in server.log if entry.paid)
    log += server.log
    assert sum(entry.paid for entry in log) == 3 * IMAGES
    found = records(tmp_path)
    assert len(found) == IMAGES and all(record.text.count("This is answer") == 3 for record in found)
    assert sum(record.cost for record in found) == pytest.approx(cost_of(log))
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of(log))
    assert store_in(tmp_path).spent("another").cost == 0


def test_finished_conversations_leave_no_file(image_set, tmp_path):
    cut_off(image_set, tmp_path)
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "turns"
    before, kept = store.spent(), read_turns(turn_files(folder))
    store.compact()
    assert store.spent().cost == pytest.approx(before.cost)
    left = read_turns(turn_files(folder))
    assert {turn.key for turn in left} == {turn.key for turn in kept} - {record.key for record in records(tmp_path)}
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
    store.compact()
    assert not list(folder.iterdir())
    assert store.spent().cost == pytest.approx(sum(record.cost for record in records(tmp_path)))


def test_budget_counts_kept_answers_once(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path / "whole", server.base_url, **QUESTIONS)
        whole = cost_of(server.log)
    spent, margin = cost_of(cut_off(image_set, tmp_path)), 0.015
    kept = spent - sum(record.cost for record in records(tmp_path))
    assert kept > margin, "counted twice, it would exceed the budget"
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url, budget=spent + 1e-4, **QUESTIONS)
        assert "budget" in tally.stopped and not any(entry.endpoint == "chat" for entry in server.log)
        tally = described(image_set, tmp_path, server.base_url, budget=whole + margin, **QUESTIONS)
    assert tally.stopped == "" and not tally.failures
    assert store_in(tmp_path).spent().cost == pytest.approx(whole)


def test_retry_asks_all_questions_again(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
        assert not list((tmp_path / "descriptions" / "turns").iterdir()), "no conversation is open"
        store_in(tmp_path).mark([records(tmp_path)[0].key], "retry", "refusal")
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
        assert [entry.turn for entry in server.log if entry.paid][-3:] == [1, 2, 3]
        assert sum(entry.paid for entry in server.log) == 3 * IMAGES + 3


def test_failure_ends_a_conversation(image_set, images, tmp_path):
    mark = images.ids[5].decode()[:12]
    with StubServer(Scenario(faults=(Fault("refusal", mark=mark, numbers=tuple(range(40, 400))),))) as server:
        described(image_set, tmp_path, server.base_url, patience=RunSettings(attempts=1), **QUESTIONS)
        before = store_in(tmp_path).spent()
        tally = described(image_set, tmp_path, server.base_url, **QUESTIONS)
        assert tally.total == 0 and store_in(tmp_path).spent().cost == pytest.approx(before.cost)
        assert before.cost == pytest.approx(cost_of(server.log))


@pytest.mark.slow
def test_answer_that_cannot_be_kept_ends_the_run(image_set, tmp_path, monkeypatch):
    def full(self, turn):
        raise StoreError("the disk is full: make room")

    with StubServer(Scenario(latency=0.05, slots=4)) as server:
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="make room"):
            patch.setattr(Conversations, "keep", full)
            described(image_set, tmp_path, server.base_url, **QUESTIONS)
        assert store_in(tmp_path).spent().cost == pytest.approx(cost_of(server.log))
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
    assert len(records(tmp_path)) == IMAGES


def test_reply_to_all_questions_is_charged_beside_kept_answers(image_set, tmp_path):
    before = cost_of(cut_off(image_set, tmp_path))
    with StubServer() as server, opened(image_set, tmp_path, server.base_url, **QUESTIONS) as job:
        tally, spent = go_on(job, AllAtOnce())
    paid = tally.answered * (300 * 10 + 30 * 20) / 1e6
    assert tally.answered > 0
    assert store_in(tmp_path).spent().cost == pytest.approx(before + paid) == pytest.approx(spent)


def test_unreadable_image_keeps_what_its_conversation_cost(image_set, tmp_path):
    folder, work = shutil.copytree(image_set, tmp_path / "images"), tmp_path / "work"
    before = cost_of(cut_off(folder, work))
    with StubServer() as server, opened(folder, work, server.base_url, **QUESTIONS) as job:
        for path in folder.rglob("*.png"):
            path.write_bytes(b"something else")
        tally, _ = go_on(job, AllAtOnce())
    assert tally.failures["unreadable picture"] == tally.total > 0
    assert store_in(work).spent().cost == pytest.approx(before)


def test_price_known_to_the_first_process_only(image_set, tmp_path, monkeypatch):
    before = cost_of(cut_off(image_set, tmp_path))
    monkeypatch.setattr(session, "price_for", lambda *asked: None)
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, **PROMPTS)
    assert store_in(tmp_path).spent().cost == pytest.approx(before)


def test_price_known_to_the_second_process_only(image_set, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(session, "price_for", lambda *asked: None)
        log = cut_off(image_set, tmp_path)
    assert store_in(tmp_path).spent().cost == 0
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of([*log, *server.log]))


def test_clock_set_back(image_set, tmp_path, monkeypatch):
    log = cut_off(image_set, tmp_path)
    monkeypatch.setattr(ledger, "now", lambda: "2001-01-01T00:00:00.000000+00:00")
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, **QUESTIONS)
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of([*log, *server.log]))
    store_in(tmp_path).compact()
    assert not list((tmp_path / "descriptions" / "turns").iterdir())


def test_file_that_cannot_be_rewritten_stays(image_set, tmp_path, monkeypatch):
    def full(folder, turns):
        raise OSError("no space left")

    monkeypatch.setattr(conversations, "FILE_BYTES", 300)
    monkeypatch.setattr(conversations, "write_turns", full)
    log = cut_off(image_set, tmp_path)
    assert store_in(tmp_path).spent().cost == pytest.approx(cost_of(log))
    assert not list(store_in(tmp_path).payments())


@pytest.mark.slow
def test_requests_are_freed_without_garbage_collection(image_set, tmp_path):
    gc.collect()
    gc.disable()
    try:
        with StubServer() as server:
            described(image_set, tmp_path, server.base_url, **QUESTIONS)
        assert not any(type(thing) is DescribeRequest for thing in gc.get_objects())
    finally:
        gc.enable()
