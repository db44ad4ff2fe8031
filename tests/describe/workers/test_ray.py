"""A real Ray cluster on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from threading import Thread

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.core.options import DataOptions
from gpt4image.describe.workers.ray import connect
from gpt4image.workflows.describe import run_description
from support.running import (
    all_once,
    files_with,
    options,
    paid,
    parent_of,
    scenario,
    state,
    wait_until,
    written,
)
from support.stub_server import StubProcess

pytestmark = pytest.mark.filterwarnings("ignore:placement_group:DeprecationWarning")  # datatrove's


@pytest.fixture
def ray_folder(key):
    """Log folder of a cluster with two processors."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's paths are too long for sockets
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder))
    try:
        yield folder
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_killed_actor_and_killed_process_are_replaced(few_images, tmp_path, ray_folder, key):
    killed = []

    def kill(rank, victim):
        wait_until(lambda: written(state(tmp_path, rank)) >= 4)
        killed.append(victim(state(tmp_path, rank).pid))
        os.kill(killed[-1], signal.SIGKILL)

    with StubProcess(scenario(latency=0.5)) as server:
        killers = [Thread(target=kill, args=pair) for pair in ((0, parent_of), (1, int))]
        for killer in killers:
            killer.start()
        chosen = options(server, "ray", at_once=4, worker_memory=1)
        tally = run_description(DataOptions(str(few_images)), chosen, tmp_path)
        for killer in killers:
            killer.join()
        assert len(killed) == 2
        assert (tally.answered, tally.stopped) == (60, "")
        assert all_once(tmp_path, 60)
        assert paid(server) <= 60 + 2  # the actor's process ended in good order and recorded what it paid for
        assert server.peak_concurrency <= 4
        assert not files_with(key, tmp_path, ray_folder)

        again = run_description(DataOptions(str(few_images)), options(server, "ray", workers=3), tmp_path)
        assert again.total == 0


def test_missing_cluster_is_reported():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DescribeError, match=f"There is no Ray cluster at {address}: "):
        connect(address)
