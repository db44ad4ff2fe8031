"""Processes killed at chosen and at random moments: every image has one record, and each is paid for once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from support.batching import IMAGES, batched, count, leftovers, records, settle, start_client, state_of
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

PATIENCE = 60.0


def wait_for(what) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def kill_when(server: StubServer, endpoint: str, image_set: Path, work: Path, **options) -> None:
    """Kill a process while the server is busy with its first request of a kind."""
    client = start_client(image_set, work, server.base_url, **options)
    wait_for(lambda: any(entry.read for entry in server.log if entry.endpoint == endpoint))
    time.sleep(0.1)  # the body may arrive a little later
    client.kill()
    client.join()
    assert client.exitcode == -signal.SIGKILL


def check_all(server: StubServer, work: Path, turns: int = 1) -> None:
    settle(server.base_url)
    found = records(work)
    assert len(found) == len({record.key for record in found}) == IMAGES
    assert all(record.answered for record in found)
    assert server.paid_by_mark == dict.fromkeys(server.paid_by_mark, turns) and len(server.paid_by_mark) == IMAGES
    assert not leftovers(work)


@pytest.mark.parametrize("endpoint", ["upload", "create", "batch", "content", "file", "delete"])
@pytest.mark.slow
def test_kill_during_a_request_loses_and_repeats_nothing(image_set, tmp_path, endpoint):
    slow = Fault("slow", on=endpoint, seconds=2.0, times=1)
    with StubServer(Scenario(faults=(slow,))) as server:
        kill_when(server, endpoint, image_set, tmp_path)
        batched(image_set, tmp_path, server.base_url, create_seconds=10.0)
        check_all(server, tmp_path)
        assert count(server.log, "create") == 1


@pytest.mark.slow
def test_late_creation_after_a_kill_finds_its_input_file_deleted(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("slow", on="create", seconds=6.0, times=1),))) as server:
        kill_when(server, "create", image_set, tmp_path)
        batched(image_set, tmp_path, server.base_url, create_seconds=0.0)
        wait_for(lambda: all(entry.done_at for entry in server.log))
        made = [entry.status for entry in server.log if entry.endpoint == "create"]
        assert sorted(made) == [200, 404]  # the late one finds its input file deleted
        check_all(server, tmp_path)


@pytest.mark.slow
def test_unrecorded_batch_is_found_among_other_batches(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("slow", on="create", seconds=2.0, times=1),))) as server:
        kill_when(server, "create", image_set, tmp_path)
        wait_for(lambda: all(entry.done_at for entry in server.log))
        for _ in range(120):
            post_batch(server)
        batched(image_set, tmp_path, server.base_url)
        assert count(server.log, "create") == 121
        assert set(server.paid_by_mark.values()) == {1}
    assert len(records(tmp_path)) == IMAGES


def post_batch(server: StubServer) -> None:
    """Another user's batch."""
    import openai

    line = (
        b'{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [1]}}'
    )
    with openai.OpenAI(base_url=server.base_url, api_key="none") as api:
        file = api.files.create(file=("x.jsonl", line), purpose="batch")
        api.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_kills_lose_and_repeat_nothing(image_set, tmp_path, seed):
    draw = random.Random(seed)
    slow = tuple(Fault("slow", on=on, seconds=0.03) for on in ("upload", "create", "content", "file", "delete"))
    options = {"prompts": ["questions"], "most_requests": 8, "most_batches": 3, "create_seconds": 5.0}
    with StubServer(Scenario(batch_seconds=0.4, faults=slow)) as server:
        killed = 0
        while killed < 10:
            asked = len(server.log)
            client = start_client(image_set, tmp_path, server.base_url, **options)
            wait_for(lambda asked=asked: len(server.log) > asked)
            client.join(draw.uniform(0.0, 1.0))
            killed += client.is_alive()
            client.kill()
            client.join()
            if client.exitcode == 0:
                break
        batched(image_set, tmp_path, server.base_url, **options)
        check_all(server, tmp_path, turns=3)
    assert killed >= 5 and all(record.text.count("This is answer") == 3 for record in records(tmp_path))


@pytest.mark.slow
def test_interrupt_while_waiting_leaves_the_batch_at_the_server(image_set, tmp_path):
    with StubServer(Scenario(batch_seconds=600.0)) as server:
        client = start_client(image_set, tmp_path, server.base_url)
        wait_for(lambda: count(server.log, "batch"))
        os.kill(client.pid, signal.SIGINT)
        client.join()
        seen = " ".join((tmp_path / "seen.txt").read_text().split())
        assert client.exitcode == 1 and "KeyboardInterrupt" in seen
        assert (
            f"1 batch under way at {server.base_url}, which continues on its own. Run the same command to collect"
            in seen
        )
        assert any(state_of(tmp_path).rglob("state.json"))
        server.scenario = Scenario()
        server.stop()
        server.start()
        batched(image_set, tmp_path, server.base_url)
        check_all(server, tmp_path)
        assert count(server.log, "create") == 1
