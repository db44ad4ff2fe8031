"""Steps of a batch at the server. Each is on the disk before it is taken, so that none is taken twice."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from gpt4image.describe.batch.server import MARK, BatchServer, Found, MissingError, TryLaterError
from gpt4image.describe.batch.state import BatchFolder, Job
from gpt4image.errors import DescribeError

T = TypeVar("T")


class Jobs:
    """The batches of one model at one server.

    Args:
        server: the server.
        folder: where they are kept.
        create_seconds: how long a batch, the answer to whose making was lost, may take to show up in the list.

    Attributes:
        all: the batches by name, the oldest first.
        others: number of batches of other models or servers.
    """

    def __init__(self, server: BatchServer, folder: BatchFolder, create_seconds: float) -> None:
        self._server, self._folder, self._create_seconds = server, folder, create_seconds
        found = folder.jobs()
        ours = [job for job in found if (job.place, job.model) == (server.place, server.model)]
        self.all = {job.name: job for job in ours}
        self.others = len(found) - len(ours)

    @property
    def requests(self) -> int:
        """Requests that are under way."""
        return sum(job.requests for job in self.all.values() if job.phase != "collected")

    def at_server(self) -> int:
        """Number of batches that the server is at work on."""
        return sum(job.phase == "created" for job in self.all.values())

    def save(self, job: Job) -> Job:
        """Bring a batch's state to the disk."""
        self.all[job.name] = self._folder.save(job)
        return job

    def forget(self, job: Job) -> None:
        """Drop a batch."""
        self._folder.remove(job.name)
        del self.all[job.name]

    def upload(self, job: Job) -> Job:
        """Upload the input file, unless a process that was killed has done so.

        Raises:
            TooLargeError: the server takes no file of that size.
        """
        name = f"{MARK}-{job.name}.jsonl"
        file = self._there(lambda: self._server.find_upload(name, job.size)) if job.phase == "uploading" else None
        if file is None:
            self.save(replace(job, phase="uploading"))
            file = self._there(lambda: self._server.upload(self._folder.requests(job.name), name))
        return self.save(replace(job, phase="uploaded", file=file))

    def create(self, job: Job) -> Job:
        """Have the server make the batch. Where its answer is lost the batch stays in the phase `creating`.

        Raises:
            QueueFullError: the server takes no batch of that size for now.
        """
        asked = self.save(replace(job, phase="creating", ticket=uuid.uuid4().hex, asked_at=time.time()))
        try:
            return self._created(asked, self._server.create(job.file, asked.ticket))
        except MissingError as error:
            self.save(replace(job, phase="made", file=""))
            raise DescribeError(
                f"{self._server.place} made no batch of a file that it took before: {error}. Give the same command "
                "again."
            ) from None
        except TryLaterError as error:
            if not error.undecided:
                self.save(job)
            raise
        except Exception:  # a clear refusal
            self.save(job)
            raise

    def recover(self, job: Job) -> Job:
        """Find out whether the server has the batch that it was asked for.

        The request may still be on its way, and carried out after we have looked in vain. So the input file is
        deleted before another one takes its place: nothing can come of the old request then, or it has come already.
        """
        found = self._find(job)
        if found is None and not 0 <= time.time() - job.asked_at < self._create_seconds:
            self._server.delete(job.file)
            found = self._find(job)
            if found is None:
                return self.save(replace(job, phase="made", file=""))
        return job if found is None else self._created(job, found)

    def _find(self, job: Job) -> str | None:
        return self._there(lambda: self._server.find(job.file, job.ticket))

    def _created(self, job: Job, batch: str) -> Job:
        created = self.save(replace(job, phase="created", batch=batch))
        self._folder.requests(job.name).unlink(missing_ok=True)
        return created

    def look(self, job: Job) -> Found:
        """What the server says of the batch. DescribeError where it knows none."""
        try:
            return self._server.look(job.batch)
        except MissingError:
            raise self.gone(job, f"knows no batch {job.batch}") from None

    def gone(self, job: Job, what: str) -> DescribeError:
        """What to raise when the server has lost something of a batch."""
        return DescribeError(
            f"{self._server.place} {what}. Batches are known to the key and project that made them: use those. Or "
            f"delete {self._folder.tasks(job.name).parent} to have its {job.requests:,} descriptions asked, and paid "
            "for, once more."
        )

    def clean(self, job: Job) -> None:
        """Delete the files of a batch, at the server and here."""
        left = [job.file, *job.results] if job.file else list(job.results)
        while left:
            self._server.delete(left.pop())
            job = self.save(replace(job, file="", results=tuple(left)))
        self.forget(job)

    def _there(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except MissingError:
            raise self._server.no_batches() from None
