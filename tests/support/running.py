"""Runs with workers, and what can be seen of them from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, Thread

from gpt4image.core.files import exclusive
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.workers.run_folder import RunFolder, WorkerState
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.records import record_line
from support.stub_server import MODEL, Scenario, StubProcess

KEY_NAME = "ENGINE_TEST_KEY"
ALL = ("train", "validation", "test")
LONG = 240.0


def scenario(**changes) -> Scenario:
    return Scenario(expected_key=os.environ[KEY_NAME], **changes)


def options(server: StubProcess, engine: str = "local", **changes) -> DescribeOptions:
    settings = {"model": MODEL, "base_url": (server.base_url,), "key_env": KEY_NAME, "splits": ALL, "engine": engine}
    return DescribeOptions(**{**settings, **changes})


def start(image_set: Path, work: Path, server: StubProcess, workers: int, at_once: int, *more: str) -> subprocess.Popen:
    """Start the command line in a process of its own, with local workers."""
    asked = ["--model", MODEL, "--base-url", server.base_url, "--key-env", KEY_NAME, "--splits", *ALL]
    engine = [
        "--engine",
        "local",
        "--workers",
        str(workers),
        "--at-once",
        str(at_once),
        "--yes",
        "--work",
        str(work),
        *more,
    ]
    command = [sys.executable, "-m", "gpt4image", "describe", str(image_set), *asked, *engine, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(holds: Callable[[], object], seconds: float = LONG) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def latest_run(work: Path) -> RunFolder | None:
    runs = sorted((work / "descriptions" / "workers").glob("*.run"))
    return RunFolder(runs[-1]) if runs else None


def state(work: Path, rank: int) -> WorkerState:
    run = latest_run(work)
    return run.read(rank) if run else WorkerState()


def written(found: WorkerState) -> int:
    """Return the number of records that a worker has written."""
    return sum(Path(part).read_bytes().count(b"\n") for part in found.parts if Path(part).exists())


def records(work: Path) -> list[DescriptionRecord]:
    return list(DescriptionStore(work / "descriptions").records())


def all_once(work: Path, count: int) -> bool:
    """Whether each of `count` images has one record, with a text about it."""
    found = records(work)
    correct = all(record.error is None and record.image_id[:12] in record.text for record in found)
    return correct and len(found) == count == len({record.image_id for record in found})


def paid(server: StubProcess) -> int:
    return sum(server.paid_by_mark.values())


def record_bytes(key: str, cost: float) -> bytes:
    """Return a record with a key of one repeated digit, as workers write it."""
    return record_line(DescriptionRecord(key=key * 32, image_id="0" * 32, cost=cost))


def waits_for(context: AbstractContextManager, lock: Path, seconds: float = 0.4) -> bool:
    """Whether a context is entered once a lock is free, and not in the seconds before."""
    inside = Event()

    def enter():
        with context:
            inside.set()

    thread = Thread(target=enter)
    with exclusive(lock, "it"):
        thread.start()
        early = inside.wait(seconds)
    thread.join()
    return inside.is_set() and not early


def parent_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)], text=True))


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Return the files that contain a secret."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]
