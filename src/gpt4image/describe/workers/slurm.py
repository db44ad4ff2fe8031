"""Workers as an array job on Slurm, through datatrove's executor."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor

from gpt4image.core.console import say
from gpt4image.core.errors import DescribeError
from gpt4image.core.format import counted
from gpt4image.describe.workers.run_folder import Order, RunFolder
from gpt4image.describe.workers.worker import DescribeStep


class ArrayJob(SlurmPipelineExecutor):  # type: ignore[misc] # datatrove has no types
    """An array job without datatrove's statistics job, which would wait forever after a failure."""

    def launch_merge_stats(self) -> None:
        """Submit nothing."""


def submit(order: Order, workers: int) -> None:
    """Submit an order to Slurm and print how to follow the job.

    Raises:
        DescribeError: Slurm refuses the job.
    """
    options = order.options
    programs = Path(sys.executable).parent  # holds datatrove's launcher
    job = ArrayJob(
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
    try:
        job.run()
    except subprocess.CalledProcessError as error:
        raise DescribeError(f"sbatch refused the job (exit status {error.returncode}); see its output above.") from None
    say(
        f"submitted: Slurm job {job.job_id}, {counted(workers, 'worker')}. Logs: {order.run}\n"
        f"Status: squeue --job {job.job_id}\n"
        "Afterwards: the same command with engine set to here (--engine here) waits for the job, describes what is "
        "left and compacts the store."
    )
