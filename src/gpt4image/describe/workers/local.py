"""Workers as processes of this machine, each running one rank of datatrove's local executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.console import say
from gpt4image.describe.workers.run_folder import RunFolder

if TYPE_CHECKING:
    from gpt4image.describe.workers.run_folder import Order


MOST_STARTS = 4


class LocalWorkers:
    """Processes that are started again when they are killed.

    datatrove's own pool of processes waits for ever for one that was killed; so every rank gets a process, as in
    datatrove's way of sharing ranks among machines.

    Args:
        order: what is to be done.
        workers: how many processes.
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
            self._start(rank, self._write_executor(rank))

    def at_work(self) -> bool:
        """Whether any process is at work."""
        for rank, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[rank]
                end_group(process)
                self._look_after(rank, process.returncode)
        return bool(self._processes)

    def end(self) -> None:
        """Kill what is still at work."""
        for process in self._processes.values():
            end_group(process)
            process.wait()
        self._processes.clear()

    def _executor(self, rank: int) -> Path:
        return self._run.folder / f"{rank}.pik"

    def _write_executor(self, rank: int) -> Path:
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
        return self._executor(rank)

    def _start(self, rank: int, executor: Path) -> None:
        command = [sys.executable, "-P", "-m", "datatrove.tools.launch_pickled_pipeline", str(executor)]
        self._starts[rank] += 1
        with self._run.log(rank).open("ab") as log:
            self._processes[rank] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher
            )

    def _look_after(self, rank: int, status: int) -> None:
        """Start a process again that was killed or has crashed."""
        if status == 0 or self._run.read(rank).ended or self._run.asked_to_stop:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"has crashed (exit status {status})"
        if self._starts[rank] < MOST_STARTS:
            say(f"Worker {rank} {how} and is started again.", style="yellow")
            self._start(rank, self._executor(rank))
        else:
            self.failure = (
                f"Worker {rank} {how}, {self._starts[rank]} times in all; signal 9 is often a lack of memory. "
                f"Its log: {self._run.log(rank)}"
            )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it has started, which outlive it where it was killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
