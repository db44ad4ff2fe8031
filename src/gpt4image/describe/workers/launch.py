"""Starts the workers of an engine and stays with them until all is described."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescribeError, MissingExtraError
from gpt4image.core.options import DataOptions
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Tasks
from gpt4image.describe.workers.run_folder import RunFolder, Watch, workers_folder
from gpt4image.descriptions.store.shards import new_part
from gpt4image.llm.budget import OVER_BUDGET

if TYPE_CHECKING:
    from gpt4image.describe.workers.run_folder import Order


TICK_SECONDS = 0.25


LINE_SECONDS = 60.0


PATIENCE_SECONDS = 60.0


class Team(Protocol):
    """The workers of an engine.

    Attributes:
        failure: why they cannot go on; empty while they can.
    """

    failure: str

    def start(self) -> None:
        """Start them all."""
        ...

    def at_work(self) -> bool:
        """Whether any is at work. Those that were killed are started again."""
        ...

    def end(self) -> None:
        """Kill what is still at work."""
        ...


def check_engine(engine: str) -> None:
    """Find out whether an engine can be used here.

    Raises:
        MissingExtraError: a library is not installed.
        ConfigError: this machine cannot submit to Slurm.
    """
    for library, extra in (("datatrove", "cluster"), *([("ray", "ray")] if engine == "ray" else [])):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra, f"--engine {engine}")
    if engine == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("There is no sbatch here: give the command on a machine that submits to Slurm.")


def run_on_engine(job: DescribeJob, tasks: Tasks, data: DataOptions, work: Path) -> Tally:
    """Have tasks described by workers.

    Args:
        job: what is to be done; its store is held by this process.
        tasks: what is left.
        data: the images, as workers open them.
        work: the work directory.

    Returns:
        Counts over all workers; of nothing where they were handed to Slurm.

    Raises:
        DescribeError: a worker cannot go on. What was answered is kept.
        KeyboardInterrupt: the job was stopped by a signal, after the requests under way had ended.
    """
    workers = min(job.options.workers, len(tasks))
    if not workers:
        return Tally(0)
    budget = job.budget()
    if not budget.affords(0):
        return Tally(len(tasks), stopped=OVER_BUDGET)
    order = make_order(job, data, work, workers, budget.spent)
    order.run.mkdir(parents=True)
    for describer in job.session.describers:  # the workers have their own
        job.session.loop.run(describer.close())
    with datatrove_log(RunFolder(order.run).datatrove_log):
        return have_done(order, workers, len(tasks))


def have_done(order: Order, workers: int, total: int) -> Tally:
    """Have an order carried out by its engine."""
    if order.options.engine == "slurm":
        from gpt4image.describe.workers.slurm import submit

        submit(order, workers)
        return Tally(0)
    watch = Watch(RunFolder(order.run), workers, total)
    if order.options.engine == "ray":
        from gpt4image.describe.workers.ray import RayWorkers

        return stay_with(RayWorkers(order, workers), watch, order)
    from gpt4image.describe.workers.local import LocalWorkers

    return stay_with(LocalWorkers(order, workers), watch, order)


def make_order(job: DescribeJob, data: DataOptions, work: Path, workers: int, spent: float) -> Order:
    """What the workers are told: a fair share each of what may be under way at once, and of the money."""
    from gpt4image.describe.workers.run_folder import Order

    options = job.options
    return Order(
        data=data,
        options=replace(options, at_once=max(1, options.at_once // workers)),
        work=work.absolute(),
        run=new_part(workers_folder(job.store).absolute(), "run"),
        home=Path.cwd(),
        dollars=None if options.budget is None else max(0.0, options.budget - spent) / workers,
        launcher=os.getpid() if options.engine == "local" else None,
        alone=options.engine == "slurm",
    )


def stay_with(team: Team, watch: Watch, order: Order) -> Tally:
    """Show how a team gets on, and end it when one of it cannot go on or a signal says so."""
    with console.progress("Describe", watch.tally.total) as meter:
        try:
            team.start()  # Ray takes signals for itself here
            with signals_counted() as signals:
                follow(team, watch, RunFolder(order.run), meter, signals)
        finally:
            team.end()
    if signals:
        raise KeyboardInterrupt
    if failure := watch.failure or team.failure:
        if order.options.engine == "ray":
            failure += "\nWorkers see the environment that Ray was started in."
        raise DescribeError(failure)
    if unfinished := watch.unfinished():
        raise DescribeError(
            f"Worker {unfinished[0]} has ended before its share was done: see {order.run}. What was answered is kept, "
            f"and the same command goes on. Workers on other machines must see {order.work} and {order.home}."
        )
    return watch.tally


def follow(team: Team, watch: Watch, run: RunFolder, meter: console.Meter, signals: list[int]) -> None:
    """Look at a team until it has ended, or has had its time to."""
    line_due, stop_by = LINE_SECONDS, float("inf")
    while team.at_work() and len(signals) < 2 and time.monotonic() < stop_by:
        time.sleep(TICK_SECONDS)
        watch.look()
        meter.set(watch.tally.done)
        meter.note(watch.note())
        if not console.console.is_terminal and watch.tally.seconds > line_due:
            line_due += LINE_SECONDS
            left = watch.tally.time_left()
            console.say(f"{watch.tally.done:,} of {watch.tally.total:,}: {watch.note()}{left}")
        if (signals or watch.failure or team.failure) and not run.asked_to_stop:
            run.ask_to_stop()
            stop_by = time.monotonic() + PATIENCE_SECONDS
            console.say("Stopping: requests under way may end." + " Once more to stop at once." * bool(signals))
    watch.look()


@contextmanager
def signals_counted() -> Iterator[list[int]]:
    """Collect signals that ask to stop in place of dying of them; outside the main thread they are left alone."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: caught.append(number)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def datatrove_log(path: Path) -> Iterator[None]:
    """Have what datatrove says go to a file in place of the terminal."""
    from datatrove.utils.logging import logger, setup_default_logger

    logger.remove()
    logger.add(path, diagnose=False)
    try:
        yield
    finally:
        setup_default_logger()
