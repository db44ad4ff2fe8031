"""Workers as processes on this machine, each running one rank of datatrove's local executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from gpt4image.core.console import say
from gpt4image.describe.workers.run_folder import Order, RunFolder

MAX_STARTS = 4


class LocalWorkers:
    """Processes that are restarted when they are killed.

    datatrove's own process pool waits forever for a process that was killed. So every rank gets its own process, in the
    way datatrove distributes ranks over machines.

    Args:
        order: what is to be done.
        workers: number of processes.
    """

    def __init__(self, order: Order, workers: int) -> None:
        self.failure = ""
        self._order, self._workers = order, workers
        self._run = RunFolder(order.run)
        self._starts = dict.fromkeys(range(workers), 0)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all processes."""
        for rank in range(self._workers):
            self._write_executor(rank)
            self._start(rank)

    def running(self) -> bool:
        """Whether any process runs; restarts those that were killed or crashed."""
        for rank, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[rank]
                kill_group(process)
                self._restart(rank, process.returncode)
        return bool(self._processes)

    def kill(self) -> None:
        """Kill the running processes."""
        for process in self._processes.values():
            kill_group(process)
            process.wait()
        self._processes.clear()

    def _executor(self, rank: int) -> Path:
        return self._run.folder / f"{rank}.pik"

    def _write_executor(self, rank: int) -> None:
        import dill
        from datatrove.executor.local import LocalPipelineExecutor

        from gpt4image.describe.workers.worker import DescribeStep

        executor = LocalPipelineExecutor(
            [DescribeStep(self._order)],
            tasks=self._workers,
            workers=1,
            local_tasks=1,
            local_rank_offset=rank,
            logging_dir=str(self._run.datatrove(rank)),
            skip_completed=False,
        )
        self._executor(rank).write_bytes(dill.dumps(executor))

    def _start(self, rank: int) -> None:
        command = [sys.executable, "-P", "-m", "datatrove.tools.launch_pickled_pipeline", str(self._executor(rank))]
        self._starts[rank] += 1
        with self._run.log(rank).open("ab") as log:
            self._processes[rank] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the launcher
            )

    def _restart(self, rank: int, status: int) -> None:
        """Restart a process unless it ended normally or has ended too often."""
        if status == 0 or self._run.read(rank).ended or self._run.asked_to_stop:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"has crashed (exit status {status})"
        if self._starts[rank] < MAX_STARTS:
            say(f"Worker {rank} {how}; restarting it.", style="yellow")
            self._start(rank)
        else:
            self.failure = (
                f"Worker {rank} {how}, {self._starts[rank]} times in all; signal 9 often means that memory ran out. "
                f"Its log: {self._run.log(rank)}"
            )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, which would outlive it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
