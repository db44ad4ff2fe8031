"""Start workers and supervise them until everything is described."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescribeError, MissingExtraError
from gpt4image.core.options import DataOptions
from gpt4image.core.signals import StopRequests, catch_stop_signals
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tally import Tally, TallyMeter
from gpt4image.describe.tasks import Tasks
from gpt4image.describe.workers.run_folder import Order, RunFolder, RunMonitor, workers_folder
from gpt4image.descriptions.store.shards import new_shard
from gpt4image.llm.budget import OVER_BUDGET

TICK_SECONDS = 0.25
GRACE_SECONDS = 60.0
"""Seconds for workers to end after a request to stop."""


class Workers(Protocol):
    """The workers of a run.

    Attributes:
        failure: why they cannot continue; empty if they can.
    """

    failure: str

    def start(self) -> None:
        """Start them all."""
        ...

    def running(self) -> bool:
        """Whether any worker runs; restarts killed ones."""
        ...

    def kill(self) -> None:
        """Kill the running workers."""
        ...


def check_engine(engine: str) -> None:
    """Check that an engine can be used here.

    Raises:
        MissingExtraError: a library is not installed.
        ConfigError: this machine cannot submit to Slurm.
    """
    for library, extra in (("datatrove", "cluster"), *([("ray", "ray")] if engine == "ray" else [])):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra, f"engine {engine} (--engine {engine})")
    if engine == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("sbatch was not found: run the command on a machine that submits to Slurm.")


def run_workers(job: DescribeJob, tasks: Tasks, data: DataOptions, work: Path) -> Tally:
    """Describe tasks with workers.

    Args:
        job: the job; this process holds its store.
        tasks: the remaining tasks.
        data: the images, as workers open them.
        work: the work directory.

    Returns:
        Counts over all workers; zero with Slurm, which runs them later.

    Raises:
        DescribeError: a worker cannot continue. Answers so far are kept.
        KeyboardInterrupt: a signal stopped the run, after the open requests had ended.
    """
    workers = min(job.options.workers, len(tasks))
    if not workers:
        return Tally(0)
    budget = job.budget()
    if not budget.affords(0):
        return Tally(len(tasks), stopped=budget.exceeded or OVER_BUDGET)
    order = make_order(job, data, work, workers, budget.spent)
    order.run.mkdir(parents=True)
    for describer in job.session.describers:  # the workers open their own
        job.session.loop.run(describer.close())
    with datatrove_log(RunFolder(order.run).datatrove_log):
        return launch(order, workers, len(tasks))


def make_order(job: DescribeJob, data: DataOptions, work: Path, workers: int, spent: float) -> Order:
    """Build the workers' order: each gets an equal share of the concurrency and of the remaining budget."""
    options = job.options
    return Order(
        data=data,
        options=replace(options, at_once=max(1, options.at_once // workers)),
        work=work.absolute(),
        run=new_shard(workers_folder(job.store).absolute(), "run"),
        home=Path.cwd(),
        dollars=None if options.budget is None else max(0.0, options.budget - spent) / workers,
        launcher=os.getpid() if options.engine == "local" else None,
        alone=options.engine == "slurm",
        confused=job.confused,
    )


def launch(order: Order, workers: int, total: int) -> Tally:
    """Carry out an order on its engine; `total` is the number of tasks."""
    if order.options.engine == "slurm":
        from gpt4image.describe.workers.slurm import submit

        submit(order, workers)
        return Tally(0)
    monitor = RunMonitor(RunFolder(order.run), workers, total)
    if order.options.engine == "ray":
        from gpt4image.describe.workers.ray import RayWorkers

        return supervise(RayWorkers(order, workers), monitor, order)
    from gpt4image.describe.workers.local import LocalWorkers

    return supervise(LocalWorkers(order, workers), monitor, order)


def supervise(workers: Workers, monitor: RunMonitor, order: Order) -> Tally:
    """Show the workers' progress; stop them if one cannot continue or a signal arrives."""
    with console.progress("Describe", monitor.tally.total) as meter:
        try:
            workers.start()  # Ray installs its own signal handlers here
            with catch_stop_signals() as stop:
                watch(workers, monitor, RunFolder(order.run), TallyMeter(monitor.tally, meter), stop)
        finally:
            workers.kill()
    if stop:
        raise KeyboardInterrupt
    if failure := monitor.failure or workers.failure:
        if order.options.engine == "ray":
            failure += "\nWorkers have the environment in which Ray was started."
        raise DescribeError(failure)
    if unfinished := monitor.unfinished():
        raise DescribeError(
            f"Worker {unfinished[0]} ended before its shard was finished: see {order.run}. Answers so far are kept, "
            f"and the same command resumes. Workers on other machines need access to {order.work} and {order.home}."
        )
    return monitor.tally


def watch(workers: Workers, monitor: RunMonitor, run: RunFolder, meter: TallyMeter, stop: StopRequests) -> None:
    """Watch workers until they have ended, or until the time after a request to stop is up."""
    stop_by = float("inf")
    while workers.running() and stop.count < 2 and time.monotonic() < stop_by:
        time.sleep(TICK_SECONDS)
        monitor.update()
        meter.show(monitor.working())
        if (stop or monitor.failure or workers.failure) and not run.asked_to_stop:
            run.ask_to_stop()
            stop_by = time.monotonic() + GRACE_SECONDS
            console.say("Stopping: waiting for open requests." + " Press Ctrl-C again to stop now." * bool(stop))
    monitor.update()


@contextmanager
def datatrove_log(path: Path) -> Iterator[None]:
    """Send datatrove's messages to a file instead of the terminal."""
    from datatrove.utils.logging import logger, setup_default_logger

    logger.remove()
    logger.add(path, diagnose=False)
    try:
        yield
    finally:
        setup_default_logger()
