"""The steps of a batch at the server. Each is saved before it is taken; `folder` explains why that is enough."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

from gpt4image.core.errors import DescribeError
from gpt4image.describe.batch.folder import BatchFolder, SubmittedBatch
from gpt4image.llm.batch_api import MARK, BatchReport, BatchServer, MissingError, TryLaterError


class BatchSteps:
    """The batches of one model at one server, and their next steps.

    A step raises MissingError if the server has no batch interface; other missing things are handled here.

    Args:
        server: the server.
        folder: their folder.
        create_seconds: how long a batch whose creation went unanswered may take to appear in the server's list.

    Attributes:
        all: the batches by name, the oldest first.
        others: number of batches of other models or servers.
    """

    def __init__(self, server: BatchServer, folder: BatchFolder, create_seconds: float) -> None:
        self._server, self._folder, self._create_seconds = server, folder, create_seconds
        found = folder.batches()
        ours = [batch for batch in found if (batch.place, batch.model) == (server.place, server.model)]
        self.all = {batch.name: batch for batch in ours}
        self.others = len(found) - len(ours)

    @property
    def requests(self) -> int:
        """Requests in open batches."""
        return sum(batch.requests for batch in self.all.values() if batch.open)

    @property
    def at_server(self) -> int:
        """Batches that the server is processing."""
        return sum(batch.phase == "created" for batch in self.all.values())

    def save(self, batch: SubmittedBatch) -> SubmittedBatch:
        """Write the state of a batch."""
        self.all[batch.name] = self._folder.save(batch)
        return batch

    def forget(self, batch: SubmittedBatch) -> None:
        """Delete a batch from the folder."""
        self._folder.remove(batch.name)
        del self.all[batch.name]

    def upload(self, batch: SubmittedBatch) -> SubmittedBatch:
        """Upload the input file, unless a killed process has uploaded it. Raise TooLargeError if it is too large."""
        name = f"{MARK}-{batch.name}.jsonl"
        file = self._server.find_upload(name, batch.size) if batch.phase == "uploading" else None
        if file is None:
            self.save(replace(batch, phase="uploading"))
            file = self._server.upload(self._folder.requests(batch.name), name)
        return self.save(replace(batch, phase="uploaded", file=file))

    def create(self, batch: SubmittedBatch) -> SubmittedBatch:
        """Create the batch at the server. If the response is lost, the batch stays in phase `creating`.

        Raises:
            QueueFullError: the server takes no batch of that size for now.
        """
        asked = self.save(replace(batch, phase="creating", ticket=uuid.uuid4().hex, asked_at=time.time()))
        try:
            return self._created(asked, self._server.create(batch.file, asked.ticket))
        except MissingError as error:
            self.save(replace(batch, phase="made", file=""))
            raise DescribeError(
                f"{self._server.place} created no batch of a file that it accepted before: {error}. Run the same "
                "command again."
            ) from None
        except TryLaterError as error:
            if not error.undecided:
                self.save(batch)
            raise
        except Exception:  # a definite refusal
            self.save(batch)
            raise

    def recover(self, batch: SubmittedBatch) -> SubmittedBatch:
        """Find out whether the server created a batch although the response was lost.

        The request may still be on its way and succeed after we have looked. So the input file is deleted before
        another one replaces it: after that, the old request has either succeeded or can no longer succeed.
        """
        found = self._server.find(batch.file, batch.ticket)
        if found is None and not 0 <= time.time() - batch.asked_at < self._create_seconds:
            self._server.delete(batch.file)
            found = self._server.find(batch.file, batch.ticket)
            if found is None:
                return self.save(replace(batch, phase="made", file=""))
        return batch if found is None else self._created(batch, found)

    def _created(self, batch: SubmittedBatch, identity: str) -> SubmittedBatch:
        created = self.save(replace(batch, phase="created", batch=identity))
        self._folder.requests(batch.name).unlink(missing_ok=True)
        return created

    def retrieve(self, batch: SubmittedBatch) -> BatchReport:
        """Return the server's report on a batch. Raise DescribeError if the server does not know it."""
        try:
            return self._server.retrieve(batch.batch)
        except MissingError:
            raise self.lost(batch, f"does not know batch {batch.batch}") from None

    def lost(self, batch: SubmittedBatch, problem: str) -> DescribeError:
        """Return the error for a batch that the server has lost in whole or in part."""
        return DescribeError(
            f"{self._server.place} {problem}. Only the key and project that created a batch can see it: use those. Or "
            f"delete {self._folder.tasks(batch.name).parent} to request, and pay for, its {batch.requests:,} "
            "descriptions once more."
        )

    def clean(self, batch: SubmittedBatch) -> None:
        """Delete the files of a batch, at the server and here."""
        left = [batch.file, *batch.results] if batch.file else list(batch.results)
        while left:
            self._server.delete(left.pop())
            batch = self.save(replace(batch, file="", results=tuple(left)))
        self.forget(batch)
