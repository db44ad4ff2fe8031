"""Workers as an array job on Slurm, through datatrove's executor."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from datatrove.executor.slurm import SlurmPipelineExecutor

from gpt4image.core.console import counted, say
from gpt4image.core.errors import DescribeError
from gpt4image.describe.workers.run_folder import RunFolder
from gpt4image.describe.workers.worker import DescribeStep

if TYPE_CHECKING:
    from gpt4image.describe.workers.run_folder import Order


class ArrayJob(SlurmPipelineExecutor):  # type: ignore[misc] # datatrove has no types
    """An array job alone: the job that adds up datatrove's statistics would wait for ever after a failure."""

    def launch_merge_stats(self) -> None:
        """Add up nothing."""


def submit(order: Order, workers: int) -> str:
    """Hand the work to Slurm, and say how to see what becomes of it.

    Returns:
        The job's number.

    Raises:
        DescribeError: Slurm does not take the job.
    """
    job = make_job(order, workers)
    try:
        job.run()
    except subprocess.CalledProcessError as error:
        raise DescribeError(
            f"sbatch has not taken the job (exit status {error.returncode}); what it says stands above."
        ) from None
    say(
        f"submitted: Slurm job {job.job_id}, {counted(workers, 'worker')}. Logs: {order.run}\n"
        f"How it stands: squeue --job {job.job_id}\n"
        "Afterwards: the same command with --engine here waits for it, writes what is left and puts all together."
    )
    return str(job.job_id)


def make_job(order: Order, workers: int) -> ArrayJob:
    """The array job, not submitted yet."""
    options = order.options
    programs = Path(sys.executable).parent  # where datatrove's launcher is
    return ArrayJob(
        [DescribeStep(order)],
        tasks=workers,
        time=options.slurm_time,
        partition=options.slurm_partition,
        cpus_per_task=options.worker_cpus,
        mem_per_cpu_gb=options.worker_memory,
        gpus_per_task=options.worker_gpus,
        job_name="gpt4image-describe",
        qos="",
        env_command=f"export PATH={shlex.quote(str(programs))}:$PATH",
        logging_dir=str(RunFolder(order.run).datatrove()),
        skip_completed=False,
    )
