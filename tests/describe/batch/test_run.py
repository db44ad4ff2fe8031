"""Batches from the first upload to the last record."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter

import pytest
from PIL import Image

from gpt4image.describe.batch.folder import keys_under_way
from gpt4image.describe.batch.run import BatchRun
from gpt4image.llm.budget import OVER_BUDGET
from support.batching import IMAGES, PRICE, batched, count, leftovers, records, state_of, store_of
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubProcess, StubServer


def batch_sizes(server) -> list[int]:
    """Return the number of answered lines of every batch."""
    return sorted(Counter(entry.batch for entry in server.log if entry.endpoint == "line").values())


def stopped_while_waiting(images, work, server):
    """Run until all batches are at the server, then interrupt."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BatchRun, "_pause", stop)
        batched(images, work, server.base_url)


def stop(run):
    raise KeyboardInterrupt


def test_every_image_is_described_once_at_the_batch_price_and_no_file_is_left(image_set, tmp_path):
    with StubServer(Scenario(batch_polls=3)) as server:
        tally = batched(image_set, tmp_path, server.base_url)
        assert (tally.total, tally.answered, tally.failures.total(), tally.stopped) == (IMAGES, IMAGES, 0, "")
        assert count(server.log, "create") == 1 and not count(server.log, "chat")
        assert set(server.paid_by_mark.values()) == {1}
        deleted = count(server.log, "delete")
        again = batched(image_set, tmp_path, server.base_url)
        assert again.total == 0 and set(server.paid_by_mark.values()) == {1}
    found = records(tmp_path)
    assert len({record.key for record in found}) == len(found) == IMAGES
    assert all(record.image_id[:12] in record.text for record in found)
    first = found[0]
    assert (first.describer, first.finish_reason, first.served_model) == ("batch", "stop", "stub-vision")
    assert first.cost == PRICE.cost(first.tokens_in, first.tokens_out, batch=True) and first.created
    assert tally.cost == pytest.approx(sum(record.cost for record in found))
    assert deleted == 2 and not leftovers(tmp_path)


def test_input_files_respect_size_limits(image_set, tmp_path):
    with StubServer(Scenario(batch_most_bytes=50_000)) as server:
        assert batched(image_set, tmp_path / "bytes", server.base_url, most_bytes=50_000).answered == IMAGES
        assert len(batch_sizes(server)) > 3 and min(batch_sizes(server)) > 3
        assert all(entry.status == 200 for entry in server.log)
    with StubServer(Scenario(batch_most_lines=10)) as server:
        assert batched(image_set, tmp_path / "requests", server.base_url, most_requests=10).answered == IMAGES
        assert batch_sizes(server) == [6, 10, 10, 10]


def test_rejected_input_file_is_made_smaller(image_set, tmp_path):
    with StubServer(Scenario(batch_most_bytes=100_000)) as server:
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES
        assert 413 in {entry.status for entry in server.log}
        assert set(server.paid_by_mark.values()) == {1}
    assert not leftovers(tmp_path)


def test_number_of_concurrent_batches_is_bounded(image_set, tmp_path):
    with StubServer(Scenario(batch_seconds=0.4)) as server:
        assert batched(image_set, tmp_path, server.base_url, most_requests=6, most_batches=2).answered == IMAGES
        under_way = most = 0
        for entry in server.log:
            under_way += (entry.endpoint == "create") - (entry.endpoint == "delete") / 2  # input and output file
            most = max(most, under_way)
    assert most == 2


def test_each_question_of_a_conversation_takes_one_batch(image_set, tmp_path):
    with StubServer() as server:
        tally = batched(image_set, tmp_path, server.base_url, ["questions"])
        lines = [entry for entry in server.log if entry.endpoint == "line"]
        assert tally.answered == IMAGES and count(server.log, "create") == 3
        assert [len({e.mark for e in lines if e.turn == turn}) for turn in (1, 2, 3)] == [IMAGES] * 3
        assert len({(e.batch, e.turn) for e in lines}) == 3 and set(server.paid_by_mark.values()) == {3}
    found = records(tmp_path)
    assert len(found) == IMAGES
    assert all(f"answer {turn}." in record.text for turn in (1, 2, 3) for record in found)
    assert all(record.tokens_out == len(record.text.split()) for record in found)
    assert all(r.cost == pytest.approx(PRICE.cost(r.tokens_in, r.tokens_out, batch=True)) for r in found)
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_paid_answers_survive_a_run_that_exceeds_its_budget(image_set, tmp_path):
    with StubServer() as server:
        batched(image_set, tmp_path / "free", server.base_url, ["questions"])
        cost = store_of(tmp_path / "free").spent().cost
        before = sum(server.paid_by_mark.values())
        tally = batched(image_set, tmp_path, server.base_url, ["questions"], dollars=cost / 3)
        assert tally.stopped == OVER_BUDGET and tally.answered < IMAGES
        in_between = sum(server.paid_by_mark.values()) - before
        assert in_between > 3 * tally.answered  # some conversations stopped in the middle
        assert 0 < len(keys_under_way(state_of(tmp_path))) <= IMAGES - tally.answered
        other = batched(image_set, tmp_path, server.base_url)
        assert other.answered == IMAGES
        assert batched(image_set, tmp_path, server.base_url, ["questions"]).answered == IMAGES - tally.answered
        assert sum(server.paid_by_mark.values()) - before == 4 * IMAGES
    assert not leftovers(tmp_path)


def test_new_images_and_prompts_get_new_batches(image_set, tmp_path):
    images = shutil.copytree(image_set, tmp_path / "images")
    with StubServer(Scenario(batch_seconds=60.0)) as server:
        stopped_while_waiting(images, tmp_path, server)
        held = keys_under_way(state_of(tmp_path))
        assert len(held) == IMAGES and count(server.log, "create") == 1
        Image.new("RGB", (48, 48), (90, 90, 90)).save(images / "red" / "new.png")
        server.scenario = Scenario()
        server.stop()
        server.start()
        tally = batched(images, tmp_path, server.base_url, ["plain", "attributes"])
        assert (tally.total, tally.answered) == (2 * IMAGES + 2, 2 * IMAGES + 2)
        assert batch_sizes(server) == [IMAGES, IMAGES + 2]
    assert len({record.key for record in records(tmp_path)}) == len(records(tmp_path)) == 2 * IMAGES + 2


def test_batches_of_other_prompts_are_collected(image_set, tmp_path):
    with StubServer(Scenario(batch_polls=2)) as server:
        stopped_while_waiting(image_set, tmp_path, server)
        tally = batched(image_set, tmp_path, server.base_url, ["attributes"])
        assert tally.answered == 2 * IMAGES and count(server.log, "create") == 2
    assert Counter(record.prompt for record in records(tmp_path)) == {"plain": IMAGES, "attributes": IMAGES}


def test_batch_of_another_model_is_left_to_its_own_command(image_set, tmp_path, capsys):
    with StubServer(Scenario(models=())) as server:
        stopped_while_waiting(image_set, tmp_path, server)
        assert batched(image_set, tmp_path, server.base_url, model="other").answered == IMAGES
        assert "1 batch of other models" in " ".join(capsys.readouterr().err.split())
        assert len(keys_under_way(state_of(tmp_path))) == IMAGES
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES
    assert Counter(record.model for record in records(tmp_path)) == {"other": IMAGES, "stub-vision": IMAGES}


@pytest.mark.slow
def test_server_restart_loses_nothing(image_set, tmp_path):
    scenario = Scenario(batch_seconds=2.0)
    with StubProcess(scenario, state=tmp_path / "server") as server:
        tallies = []
        run = threading.Thread(target=lambda: tallies.append(batched(image_set, tmp_path, server.base_url)))
        run.start()
        while not count(server.log, "batch"):
            time.sleep(0.05)
        server.kill()
        time.sleep(0.5)
        server.start()
        run.join()
        assert tallies[0].answered == IMAGES and count(server.log, "create") == 1
        assert set(server.paid_by_mark.values()) == {1}


QUEUES = {"alone": {"most_batches": 8}, "in pieces": {"most_requests": 4}}


@pytest.mark.parametrize("way", QUEUES)
def test_full_queue_gets_smaller_batches(image_set, tmp_path, way):
    with StubServer(Scenario(batch_most_queued=9, batch_polls=3)) as server:
        tally = batched(image_set, tmp_path, server.base_url, **QUEUES[way])
        assert tally.answered == IMAGES and set(server.paid_by_mark.values()) == {1}
        assert max(batch_sizes(server)) <= 9
    assert len(records(tmp_path)) == IMAGES and not leftovers(tmp_path)


def test_models_without_max_tokens_get_max_completion_tokens(image_set, tmp_path):
    with StubServer(Scenario(no_max_tokens=True)) as server:
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES
        assert count(server.log, "create") == 2 and set(server.paid_by_mark.values()) == {1}
        assert {tuple(entry.settings) for entry in server.log if entry.paid} == {("max_completion_tokens",)}


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_budget_is_never_exceeded(image_set, tmp_path, share):
    with StubServer() as server:
        batched(image_set, tmp_path / "free", server.base_url)
        cost = store_of(tmp_path / "free").spent().cost
        before = sum(server.paid_by_mark.values())
        tally = batched(image_set, tmp_path, server.base_url, dollars=share * cost)
        assert tally.stopped == OVER_BUDGET and tally.total == IMAGES
        spent = store_of(tmp_path).spent().cost
        assert 0 < tally.answered < IMAGES and 0 < spent <= share * cost
        assert sum(server.paid_by_mark.values()) - before == tally.answered
        assert batched(image_set, tmp_path, server.base_url, dollars=3 * cost).answered == IMAGES - tally.answered


def test_no_call_is_made_when_nothing_is_left(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("status", on="batches", status=404),))) as server, StubServer() as other:
        batched(image_set, tmp_path, other.base_url)
        assert batched(image_set, tmp_path, server.base_url).total == 0 and not server.log
