"""Workers of an engine that write to a store: whoever else wants to write waits until they have ended."""

from __future__ import annotations

from pathlib import Path

from gpt4image.console import say
from gpt4image.describe.store import DescriptionStore
from gpt4image.errors import BusyError
from gpt4image.files import exclusive


def workers_folder(store: DescriptionStore) -> Path:
    """Where every run on an engine has a folder of its own."""
    return store.folder / "workers"


def worker_lock(run: Path, rank: int) -> Path:
    """Lock that a worker of a run holds while it is at work."""
    return run / f"{rank}.lock"


def wait_for_workers(store: DescriptionStore, but: Path | None = None) -> None:
    """Wait until no worker is at work.

    Args:
        store: what they write to.
        but: folder of a run whose workers may go on.
    """
    for lock in sorted(workers_folder(store).glob("*/*.lock")):
        if lock.parent == but:
            continue
        try:
            with exclusive(lock, "descriptions"):
                pass
        except BusyError:
            say(f"Waiting for a worker of an earlier run to end ({lock} is locked).")
            with exclusive(lock, "descriptions", wait=True):
                pass
