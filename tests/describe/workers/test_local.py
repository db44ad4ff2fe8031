"""Several processes on this machine: killed, stopped, refused, out of money."""

from __future__ import annotations

import os
import signal
import subprocess
from threading import Thread

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DataOptions
from gpt4image.describe.workers import local
from gpt4image.workflows.describe import run_description
from support.running import (
    all_once,
    files_with,
    latest_run,
    options,
    paid,
    records,
    scenario,
    start,
    state,
    wait_until,
    written,
)
from support.stub_server import Fault, StubProcess


@pytest.mark.slow
def test_killed_worker_costs_its_open_requests(tiny_images, tmp_path, key):
    with StubProcess(scenario(latency=0.3)) as server:
        launcher = start(tiny_images, tmp_path, server, workers=3, at_once=12)
        wait_until(lambda: written(state(tmp_path, 1)) >= 10)
        listed = subprocess.check_output(["ps", "-eww", "-o", "args"], text=True).splitlines()
        processes = "\n".join(
            line for line in listed if "stub_server" not in line
        )  # the server's command line holds the key
        os.kill(state(tmp_path, 1).pid, signal.SIGKILL)
        output, printed = launcher.communicate()
        assert launcher.returncode == 0, printed
        assert "Worker 1 was killed by signal 9; restarting it." in printed
        assert output.startswith("300 descriptions written")
        assert all_once(tmp_path, 300)
        assert paid(server) <= 300 + 4
        assert max(server.paid_by_mark.values()) <= 2
        assert server.peak_concurrency <= 12
        assert "launch_pickled_pipeline" in processes
        assert key not in processes + output + printed
        assert not files_with(key, tmp_path)

        before = paid(server)
        again = run_description(DataOptions(str(tiny_images)), options(server, workers=2), tmp_path)
        assert (again.total, paid(server)) == (0, before)


@pytest.mark.slow
def test_nothing_is_paid_twice_after_killed_and_interrupted_launchers(few_images, tmp_path):
    def interrupt():
        wait_until(lambda: latest_run(tmp_path) != first and written(state(tmp_path, 0)) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    with StubProcess(scenario(latency=0.4)) as server:
        killed = start(few_images, tmp_path, server, workers=2, at_once=4)
        wait_until(lambda: all(written(state(tmp_path, rank)) >= 2 for rank in range(2)))
        killed.kill()
        killed.communicate()
        done, first = len(records(tmp_path)), latest_run(tmp_path)

        interrupter = Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            run_description(DataOptions(str(few_images)), options(server, workers=1, at_once=2), tmp_path)
        interrupter.join()
        assert done < len(records(tmp_path)) < 60

        run_description(DataOptions(str(few_images)), options(server, engine="here"), tmp_path)
        assert all_once(tmp_path, 60)
        assert set(server.paid_by_mark.values()) == {1}


@pytest.mark.slow
def test_worker_killed_too_often_ends_the_run(few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "MAX_STARTS", 1)

    def kill():
        wait_until(lambda: written(state(tmp_path, 0)) >= 2)
        os.kill(state(tmp_path, 0).pid, signal.SIGKILL)

    with StubProcess(scenario(latency=0.4)) as server:
        killer = Thread(target=kill)
        killer.start()
        with pytest.raises(DescribeError, match=r"Worker 0 was killed by signal 9, 1 times in all.*0\.log"):
            run_description(DataOptions(str(few_images)), options(server, at_once=4), tmp_path)
        killer.join()
        assert state(tmp_path, 1).state == "stopped"
        assert len(records(tmp_path)) >= paid(server) - 2


@pytest.mark.slow
def test_refused_key_is_reported_once(few_images, tmp_path, key, capfd):
    with (
        StubProcess(scenario(faults=(Fault("wrong_key", every=1),))) as server,
        pytest.raises(DescribeError, match="rejects the key in ENGINE_TEST_KEY") as caught,
    ):
        run_description(DataOptions(str(few_images)), options(server), tmp_path)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "datatrove" not in printed
    assert key not in printed + str(caught.value)
    assert not files_with(key, tmp_path)
