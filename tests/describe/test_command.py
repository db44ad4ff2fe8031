"""The command as a person runs it: killed, interrupted, with keys, twice at a time."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt4image.cli.main import main
from gpt4image.descriptions.store import DescriptionStore
from support.describing import records
from support.forks import ForkedPython, forked_python, start_command
from support.stub_scenario import Fault, Scenario
from support.stub_server import MODEL, StubProcess, StubServer

KILLS = 20
SLOTS = 8
KEY = "sk-never-to-be-seen-4711"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def command(image_set: Path, work: Path, url: str, *more: str) -> list[str]:
    where = [str(image_set), "--work", str(work), "--base-url", url, "--model", MODEL]
    every = ["--splits", "train", "validation", "test"]
    return ["-m", "gpt4image", "describe", *where, *every, *more]


def paid_for(server: StubProcess) -> int:
    return server.log_file.read_bytes().count(b'"paid": true') if server.log_file.exists() else 0


def wait_for_answers(is_alive: Callable[[], bool], server: StubProcess, count: int) -> None:
    """Wait until the server has answered `count` requests, or the process has ended."""
    while is_alive() and paid_for(server) < count:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "turns", "samples"), [("plain", 1, 40), ("questions", 3, 14)])
def test_twenty_kills_pay_again_for_open_requests_only(image_set, tmp_path, prompt, turns, samples):
    generator = random.Random(3)
    options = ["--samples", str(samples), "--temperature", "1", "--at-once", str(SLOTS), "--prompts", prompt]
    with StubProcess(Scenario(latency=0.05, slots=SLOTS)) as server:
        arguments = command(image_set, tmp_path, server.base_url, *options)
        for _ in range(KILLS):
            process = start_command(arguments[2:])
            wait_for_answers(process.is_alive, server, paid_for(server) + generator.randrange(50))
            time.sleep(generator.uniform(0.0, 0.05))
            assert process.is_alive(), "it ended before it could be killed"
            process.kill()
            process.join()
        ended = forked_python(arguments)
        paid = paid_for(server)
        again = forked_python(arguments)
        assert paid_for(server) == paid
    found = records(tmp_path)
    wanted = 36 * samples
    assert Counter(record.image_id for record in found) == dict.fromkeys({r.image_id for r in found}, samples)
    assert len(found) == len({record.key for record in found}) == wanted
    assert wanted * turns <= paid <= wanted * turns + KILLS * SLOTS
    assert all(record.text.count("This is answer") == turns for record in found)
    assert again.stdout.startswith("Nothing left to send: ")
    assert ended.returncode == 0


@pytest.mark.slow
def test_interrupt_waits_for_open_requests(image_set, tmp_path):
    with StubProcess(Scenario(latency=0.5)) as server:
        process = ForkedPython(command(image_set, tmp_path, server.base_url, "--samples", "20", "--temperature", "1"))
        wait_for_answers(lambda: process.poll() is None, server, 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert "waiting for" in err and "Run the same command again to resume." in err
        assert "Traceback" not in err
        assert len(records(tmp_path)) == paid_for(server) > 0


@pytest.mark.slow
def test_key_is_in_no_output_file_or_process_list(image_set, tmp_path):
    environment = {**os.environ, "THE_KEY": KEY, "OPENAI_LOG": "debug"}
    seen = ""
    for expected in ("sk-another", KEY):
        with StubServer(Scenario(expected_key=expected, latency=0.05)) as server:
            arguments = command(image_set, tmp_path, server.base_url, "--key-env", "THE_KEY")
            process = subprocess.Popen([sys.executable, *arguments], env=environment, **PIPES)
            while process.poll() is None:
                seen += subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
                time.sleep(0.1)
            out, err = process.communicate()
            seen += out + err
            assert process.returncode == (0 if expected == KEY else 1)
    assert "rejects the key in THE_KEY" in re.sub(r"\s+", " ", seen)
    assert KEY not in seen
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)
    assert len(records(tmp_path)) == 36


@pytest.mark.slow
def test_key_in_an_answer_is_scrubbed(image_set, tmp_path):
    with StubProcess(Scenario(text=f"I know {KEY}.")) as server:
        arguments = command(image_set, tmp_path, server.base_url, "--key-env", "THE_KEY")
        forked_python(arguments, environment={"THE_KEY": KEY})
    assert {record.text for record in records(tmp_path)} == {"I know [key]."}


@pytest.mark.slow
def test_second_command_on_the_same_store_is_refused(image_set, tmp_path):
    with StubServer(Scenario(latency=2.5, slots=1)) as server:  # the first needs half an hour
        arguments = command(image_set, tmp_path, server.base_url, "--samples", "20", "--temperature", "1")
        first = ForkedPython(arguments)
        while first.poll() is None and not server.paid_by_mark:
            time.sleep(0.02)
        second = forked_python(arguments, check=False)
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        first.communicate()
        assert second.returncode == 1
        assert "Another process is using" in second.stderr
        found = records(tmp_path)
        assert len({record.key for record in found}) == len(found)
        assert 0 <= server.paid_by_mark.total() - len(found) <= server.peak_concurrency  # open requests


@pytest.mark.slow
def test_command_asks_before_it_spends(image_set, tmp_path):
    with StubProcess() as server:
        paid = ["--price-in", "1", "--price-out", "2"]
        arguments = command(image_set, tmp_path, server.base_url, *paid)
        unattended = forked_python(arguments, check=False)
        assert unattended.returncode == 1
        assert "money: $" in unattended.stderr and "--budget" in unattended.stderr
        assert paid_for(server) == 8
        estimate = forked_python([*arguments, "--estimate"])
        assert "28 descriptions (estimated from 8)" in estimate.stdout
        confirmed = forked_python([*arguments, "--yes"])
        assert "28 descriptions written" in confirmed.stdout
        assert set(server.paid_by_mark.values()) <= {1, 2}


@pytest.mark.slow
def test_damaged_line_is_skipped_and_reported(image_set, tmp_path):
    with StubProcess() as server:
        arguments = command(image_set, tmp_path, server.base_url)
        forked_python(arguments)
        store = DescriptionStore(tmp_path / "descriptions")
        kept = store.current()
        part = tmp_path / "descriptions" / "parts" / "20000101T000000-0.jsonl"
        part.write_bytes(b"garbage\n" + b'{"key": "half')
        confirmed = forked_python(arguments)
        assert "1 damaged line" in re.sub(r"\s+", " ", confirmed.stderr)
        assert store.current() == kept


@pytest.mark.slow
def test_tasks_in_a_batch_are_not_asked_online(image_set, tmp_path):
    with StubProcess(Scenario(batch_seconds=8.0)) as server:
        batch = command(image_set, tmp_path, server.base_url, "--describer", "batch")
        process = ForkedPython(batch)
        while process.poll() is None and not any(entry.endpoint == "batch" for entry in server.log):
            time.sleep(0.05)
        process.kill()
        process.communicate()
        online = forked_python(command(image_set, tmp_path, server.base_url))
        assert "36 descriptions in batches under way" in online.stderr
        assert online.stdout.startswith("Nothing left to send: ")
        collected = forked_python(batch)
        assert "36 descriptions written" in collected.stdout
        assert set(server.paid_by_mark.values()) == {1}
    assert len(records(tmp_path)) == 36


@pytest.mark.parametrize(
    ("faults", "more", "status"),
    [
        ((), (), 0),
        ((Fault("invalid_image", numbers=(3,)),), (), 3),
        ((Fault("invalid_image", share=1.0),), (), 1),
        ((), ("--budget", "0.0001", "--price-in", "1", "--price-out", "1"), 1),
    ],
)
def test_exit_status_tells_whether_all_some_or_none_are_written(image_set, tmp_path, faults, more, status):
    with StubServer(Scenario(faults=faults)) as server:
        arguments = command(image_set, tmp_path, server.base_url, "--yes", *more)[2:]
        assert main(arguments) == status
        if status == 3:  # what failed before is not asked again, but still missing
            assert main(arguments) == 3


def test_all_failed_is_no_success_even_for_few_images(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("invalid_image", share=1.0),))) as server:
        arguments = command(image_set, tmp_path, server.base_url, "--yes")[2:]
        few = [word for word in arguments if word not in ("train", "test")]
        assert main(few) == 1
        assert len(records(tmp_path)) < 20
