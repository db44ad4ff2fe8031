"""A worker: describes what is left of its shard, while its launcher lives.

Nested from the outside in, a worker
    - stops when its launcher is gone or asks for it;
    - holds the lock of its place, so that one left over from a lost machine cannot work on the same shard;
    - reports its state, and the files that it writes to, in the run's folder;
    - plans its shard from the store: what any worker has recorded is not asked again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
from datatrove.pipeline.base import PipelineStep

from gpt4image.core.console import command_output
from gpt4image.core.errors import DescribeError, Gpt4ImageError
from gpt4image.core.files import exclusive
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.clients import open_session
from gpt4image.describe.job import describe_lock, open_job
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Tasks
from gpt4image.describe.workers.run_folder import Order, RunFolder, Tail, WorkerState, wait_for_workers
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.images.open import open_images
from gpt4image.llm.credentials import OPENAI_KEY, ApiKey

POLL_SECONDS = 0.5


class DescribeStep(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """The datatrove pipeline step that describes what is left of one shard.

    Args:
        order: what is to be done.
    """

    name = "describe"
    type = "gpt4image"

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Describe shard `rank` of `world_size`.

        Raises:
            DescribeError: the worker cannot continue. It is raised here, where no variable contains a key, because logs
                show variables.
        """
        with command_output():  # into the worker's log
            failure = run_shard(self.order, rank, world_size)
        if failure is not None:
            raise failure


def run_shard(order: Order, rank: int, workers: int) -> DescribeError | None:
    """Describe what is left of a worker's shard.

    Args:
        order: what is to be done.
        rank: the worker's number, from 0.
        workers: how many there are.

    Returns:
        Why the worker cannot continue; None if its shard is finished or it was asked to stop.
    """
    run = RunFolder(order.run)
    os.chdir(order.home)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    on_ray = os.environ.get("DATATROVE_EXECUTOR") == "RAY"
    try:
        with kill_parent_too() if on_ray else nullcontext(), stop_with(order.launcher, run), hold_place(order, rank):
            return None if run.asked_to_stop else report_shard(order, run, rank, workers)
    except KeyboardInterrupt:  # while it waited for its place
        return None


def report_shard(order: Order, run: RunFolder, rank: int, workers: int) -> DescribeError | None:
    """Describe the shard and report the result in the run's folder."""
    run.update(rank, state="working", pid=os.getpid(), host=socket.gethostname(), message="", stopped="")
    try:
        tally = describe_shard(order, run, rank, workers)
    except KeyboardInterrupt:
        run.update(rank, state="stopped", stopped="a worker was stopped")
    except Gpt4ImageError as error:
        message = str(error)
        run.update(rank, state="failed", message=message)
        return DescribeError(message)
    except Exception:  # a crash; its traceback may show a key, so it goes only into our own log
        with run.log(rank).open("a") as log:
            log.write(without_keys(traceback.format_exc(), order.options))
        return DescribeError(f"Worker {rank} has failed: see {run.log(rank)}.")
    else:
        run.update(rank, state="done", tried_again=tally.tried_again, uncounted=tally.uncounted, stopped=tally.stopped)
    return None


def describe_shard(order: Order, run: RunFolder, rank: int, workers: int) -> Tally:
    """Describe what the store lacks of a shard, within the worker's share of the budget.

    What this run paid counts against that share: records of killed predecessors in this place, and conversations
    started in this run. Earlier conversations, noted when the first worker in this place started, do not count.
    """
    workdir = WorkDir(order.work)
    store = DescriptionStore(workdir.description_store)
    with open_session(order.options) as session:
        job = open_job(open_images(order.data, workdir), store, session, order.options, order.confused)
        before = run.read(rank)
        tried, spent = written_before(before)
        shard = job.plan().shard(rank, workers)
        kept = kept_cost(store, shard)
        if not before.parts:
            run.update(rank, kept=kept)
        spent += kept - run.read(rank).kept
        writer = store.writer()
        run.update(rank, parts=(*before.parts, str(writer.path)))
        left = shard.part(~np.isin(shard.keys, tried))  # a failure recorded in this run is not retried in it
        return job.run(left, budget=job.budget_of(order.dollars, spent), writer=writer)


def written_before(state: WorkerState) -> tuple[np.ndarray, float]:
    """Read the records of earlier workers in the same place: keys with an outcome, S32 [N], and dollars spent."""
    records = [record for path in state.parts for record in Tail(Path(path)).read_new()]
    keys = np.asarray([record.key for record in records], dtype=KEY_TYPE)
    return keys, sum(record.cost or 0.0 for record in records)


def kept_cost(store: DescriptionStore, shard: Tasks) -> float:
    """Return dollars paid for a shard's interrupted conversations, which will be resumed."""
    with store.conversations() as conversations:
        kept = (conversations.take(key.decode()) for key in shard.keys.tolist())
        return sum(turn.cost or 0.0 for turns in kept for turn in turns)


def without_keys(text: str, options: DescribeOptions) -> str:
    """Return a text without the API keys of the describers."""
    for variable in {options.key_env or OPENAI_KEY, OPENAI_KEY}:
        text = ApiKey(variable, os.environ.get(variable, "").strip()).scrub(text)
    return text


@contextmanager
def hold_place(order: Order, rank: int) -> Iterator[None]:
    """Hold the lock of a worker's place; wait for a worker left over from a lost machine or process.

    If no launcher holds the store, the worker first takes the store's lock, just long enough to take its place: other
    workers of the run can then join, while other commands wait for them all.
    """
    store = DescriptionStore(WorkDir(order.work).description_store)
    place = exclusive(RunFolder(order.run).lock(rank), f"shard {rank}", wait=True)
    with ExitStack() as stack:
        if order.alone:
            with exclusive(describe_lock(store), f"the descriptions in {store.folder}", wait=True):
                wait_for_workers(store, but=order.run)
                stack.enter_context(place)
        else:
            stack.enter_context(place)
        yield


@contextmanager
def stop_with(launcher: int | None, run: RunFolder) -> Iterator[None]:
    """Send this process SIGTERM when its parent is gone or the run should end."""
    parent, over = launcher or os.getppid(), threading.Event()

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            if os.getppid() != parent or run.asked_to_stop:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=poll, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def kill_parent_too() -> Iterator[None]:
    """Kill the parent, a Ray actor, if this process is killed: its process pool would wait forever. Ray restarts it."""
    # The pipe to the shell closes with this process: without "done" before that, it was killed.
    command = ["sh", "-c", 'read -r done || kill -9 "$0"', str(os.getppid())]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        guard.communicate(b"done\n")
