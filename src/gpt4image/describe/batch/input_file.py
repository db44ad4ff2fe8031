"""Write the input file of a batch, request by request, up to the maximum size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gpt4image.core.errors import ImageError
from gpt4image.describe.batch.folder import BatchTask
from gpt4image.describe.tasks import BLOCK, RequestMaker, prepare_ahead
from gpt4image.images.scan import available_processors
from gpt4image.llm.base import TOO_LARGE, UNREADABLE, DescribeRequest, RequestFailedError
from gpt4image.llm.batch_api import request_line
from gpt4image.llm.chat import chat_body


class InputFile:
    """Writes an input file; memory use does not depend on its size.

    Args:
        model: requested model.
        old_limit: whether answers are limited by `max_tokens`.
        max_bytes: maximum size.

    Attributes:
        requests: number of requests.
        size: bytes.
        used: keys of all tasks handled, including refused ones.
        refused: tasks that cannot be requested, with the reason.
    """

    def __init__(self, model: str, *, old_limit: bool, max_bytes: int) -> None:
        self._model, self._old_limit, self._max_bytes = model, old_limit, max_bytes
        self.requests = self.size = 0
        self.used: list[str] = []
        self.refused: list[tuple[BatchTask, RequestFailedError]] = []

    def write(
        self, requests: Path, tasks: Path, batch_tasks: Iterable[BatchTask], maker: RequestMaker
    ) -> Iterator[None]:
        """Write the input file and its tasks; yield after every task, and after both files are on disk.

        Args:
            requests: path of the input file.
            tasks: path of the file of tasks.
            batch_tasks: the tasks, in the order of the maker.
            maker: makes their requests.
        """
        blocks = prepare_ahead(maker, BLOCK * available_processors())
        prepared = (request for block in blocks for _, request in block.result())
        with open_synced(tasks) as task_file, open_synced(requests) as request_file:
            for task, request in zip(batch_tasks, prepared, strict=False):
                if not self._add(task, request, task_file, request_file):
                    break
                yield
        yield

    def _add(
        self, task: BatchTask, request: DescribeRequest | ImageError, task_file: IO[bytes], request_file: IO[bytes]
    ) -> bool:
        """Add a request or record why it cannot be sent; return False if the file has no room for it."""
        if isinstance(request, ImageError):
            self._refuse(task, RequestFailedError(UNREADABLE, str(request), retryable=False))
            return True
        line = request_line(request.key, chat_body(self._model, request, task.answers, old_limit=self._old_limit))
        if self.size + len(line) > self._max_bytes:
            if self.requests:
                return False
            detail = f"{len(line):,} bytes, but a file may hold {self._max_bytes:,}: lower max_side (--max-side)"
            self._refuse(task, RequestFailedError(TOO_LARGE, detail, retryable=False))
            return True
        request_file.write(line)
        task_file.write(task.line())
        self.requests, self.size = self.requests + 1, self.size + len(line)
        self.used.append(request.key)
        return True

    def _refuse(self, task: BatchTask, error: RequestFailedError) -> None:
        self.refused.append((task, error))
        self.used.append(task.record.key)


@contextmanager
def open_synced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing, and flush it to disk at the end of the block."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
