"""What a worker does: its share of what is left, alone in its place, and no longer than whoever started it lives."""

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
from typing import TYPE_CHECKING

import numpy as np
from datatrove.pipeline.base import PipelineStep

from gpt4image.core.errors import DescribeError, Gpt4ImageError
from gpt4image.core.files import exclusive
from gpt4image.core.options import DescribeOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.clients import open_session
from gpt4image.describe.job import describe_lock, open_job
from gpt4image.describe.workers.run_folder import Order, RunFolder, Tail, WorkerState, wait_for_workers
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.images.open import open_images
from gpt4image.llm.credentials import OPENAI_KEY, ApiKey
from gpt4image.workflows.describe import read_neighbours

if TYPE_CHECKING:
    from gpt4image.describe.tally import Tally
    from gpt4image.describe.tasks import Tasks
    from gpt4image.describe.workers.run_folder import Order


LOOK_SECONDS = 0.5


def do_share(order: Order, rank: int, workers: int) -> DescribeError | None:
    """Describe a worker's share of what is left.

    Args:
        order: what is to be done.
        rank: the worker's number, from 0.
        workers: how many there are.

    Returns:
        Why it could not go on; None when it is done, or was asked to stop.
    """
    run = RunFolder(order.run)
    os.chdir(order.home)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    on_ray = os.environ.get("DATATROVE_EXECUTOR") == "RAY"
    try:
        with guarded_pool() if on_ray else nullcontext(), ended_with(order.launcher, run), held(order, rank):
            return None if run.asked_to_stop else report_share(order, run, rank, workers)
    except KeyboardInterrupt:  # while it waited for its turn
        return None


def report_share(order: Order, run: RunFolder, rank: int, workers: int) -> DescribeError | None:
    """Describe the share, and say in the run's folder how it went."""
    run.update(rank, state="working", pid=os.getpid(), host=socket.gethostname(), message="", stopped="")
    try:
        tally = describe_share(order, run, rank, workers)
    except KeyboardInterrupt:
        run.update(rank, state="stopped", stopped="a worker was stopped")
    except Gpt4ImageError as error:
        message = str(error)
        run.update(rank, state="failed", message=message)
        return DescribeError(message)
    except Exception:  # it counts as a crash, and its traceback must not get into others' logs with a key
        with run.log(rank).open("a") as log:
            log.write(without_keys(traceback.format_exc(), order.options))
        return DescribeError(f"Worker {rank} has failed: see {run.log(rank)}.")
    else:
        run.update(rank, state="done", tried_again=tally.tried_again, uncounted=tally.uncounted, stopped=tally.stopped)
    return None


def describe_share(order: Order, run: RunFolder, rank: int, workers: int) -> Tally:
    """Describe what the store lacks of a share."""
    workdir = WorkDir(order.work)
    store = DescriptionStore(workdir.description_store)
    with open_session(order.options) as session:
        images = open_images(order.data, workdir)
        job = open_job(images, store, session, order.options, read_neighbours(images, order.options, workdir))
        before = run.read(rank)
        tried, spent = written_before(before)
        share = job.plan().shard(rank, workers)
        kept = kept_cost(store, share)
        if not before.parts:
            run.update(rank, kept=kept)
        spent += kept - run.read(rank).kept
        writer = store.writer()
        run.update(rank, parts=[*before.parts, str(writer.path)])
        left = share.part(~np.isin(share.keys, tried))
        return job.run(left, budget=job.budget_of(order.dollars, spent), writer=writer)


def written_before(state: WorkerState) -> tuple[np.ndarray, float]:
    """What those before in a worker's place have done in this run: keys with an outcome, S32, and dollars spent."""
    records = [record for part in state.parts for record in Tail(Path(part)).new()]
    keys = np.asarray([record.key for record in records], dtype=KEY_TYPE)
    return keys, sum(record.cost or 0.0 for record in records)


def kept_cost(store: DescriptionStore, share: Tasks) -> float:
    """Dollars paid for answers to conversations of a share that go on where they were cut off."""
    with store.conversations() as conversations:
        begun = (conversations.take(key.decode()) for key in share.keys.tolist())
        return sum(turn.cost or 0.0 for turns in begun for turn in turns)


def without_keys(text: str, options: DescribeOptions) -> str:
    """A text without the keys that a describer may hold."""
    for variable in {options.key_env or OPENAI_KEY, OPENAI_KEY}:
        text = ApiKey(variable, os.environ.get(variable, "").strip()).scrub(text)
    return text


@contextmanager
def held(order: Order, rank: int) -> Iterator[None]:
    """Be the only one in a worker's place; one that was left over from a lost machine or process is waited for."""
    store = DescriptionStore(WorkDir(order.work).description_store)
    with ExitStack() as stack:
        place = exclusive(RunFolder(order.run).lock(rank), f"share {rank}", wait=True)
        if order.alone:
            with exclusive(describe_lock(store), f"the descriptions in {store.folder}", wait=True):
                wait_for_workers(store, but=order.run)
                stack.enter_context(place)
        else:
            stack.enter_context(place)
        yield


@contextmanager
def ended_with(launcher: int | None, run: RunFolder) -> Iterator[None]:
    """Stop this process, as SIGTERM does, when its parent is gone or the run is to end."""
    parent, over = launcher or os.getppid(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if os.getppid() != parent or run.asked_to_stop:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def guarded_pool() -> Iterator[None]:
    """Take the parent along if this process is killed: a pool that loses a process waits for it for ever.

    Ray starts the parent, an actor, again.
    """
    command = ["sh", "-c", 'read -r done || kill -9 "$0"', str(os.getppid())]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
    finally:
        guard.communicate(b"done\n")


class DescribeStep(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Describes one share of what is left.

    Args:
        order: what is to be done.
    """

    name = "describe"
    type = "gpt4image"

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Describe share `rank` of `world_size`.

        Raises:
            DescribeError: it could not go on. Raised here, so that logs that show the values of variables find no key.
        """

        failure = do_share(self.order, rank, world_size)
        if failure is not None:
            raise failure
