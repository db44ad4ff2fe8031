"""Workers on a Ray cluster, through datatrove's executor."""

from __future__ import annotations

import logging
import os
import socket
from threading import Thread

from gpt4image.core.errors import DescribeError, first_line
from gpt4image.describe.workers.run_folder import Order, RunFolder

CONNECT_SECONDS = 10.0


class RayWorkers:
    """Actors on Ray. If one is lost with its process or machine, datatrove resubmits it.

    Args:
        order: what is to be done.
        workers: number of actors; they start when the cluster has room for them.
    """

    def __init__(self, order: Order, workers: int) -> None:
        self.failure = ""
        self._order, self._workers = order, workers
        self._connected = False

    def start(self) -> None:
        """Connect, and submit all actors. DescribeError if there is no cluster at the address."""
        import ray

        if not ray.is_initialized():
            connect(self._order.options.ray_address)
            self._connected = True
        self._thread = Thread(target=self._execute, daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Whether any actor runs or waits for room."""
        return self._thread.is_alive()

    def kill(self) -> None:
        """Disconnect from the cluster if we connected to it, which ends the running actors."""
        import ray

        if self._connected:
            ray.shutdown()
            self._connected = False

    def _execute(self) -> None:
        from datatrove.executor.ray import RayPipelineExecutor

        from gpt4image.describe.workers.worker import DescribeStep

        options = self._order.options
        try:
            RayPipelineExecutor(
                [DescribeStep(self._order)],
                tasks=self._workers,
                logging_dir=str(RunFolder(self._order.run).datatrove()),
                skip_completed=False,
                cpus_per_task=options.worker_cpus,
                mem_per_cpu_gb=options.worker_memory,
                gpus_per_task=options.worker_gpus,
            ).run()
        except Exception as error:  # any error of Ray ends the run
            self.failure = f"Ray: {first_line(error)}"


def connect(address: str | None) -> None:
    """Connect to a cluster; start Ray on this machine if neither `address` nor RAY_ADDRESS names one.

    Raises:
        DescribeError: there is no cluster at the address.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        check_port(address or "")
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise DescribeError(f"There is no Ray cluster at {address}: {first_line(error)}") from None


def check_port(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].partition(":")
    if port:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
