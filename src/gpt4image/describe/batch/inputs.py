"""Input files: requests of tasks, written to the disk one by one until the batch is as large as it may be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gpt4image.core.errors import ImageError
from gpt4image.describe.batch.jobs import Asked
from gpt4image.describe.tasks import BLOCK, UNREADABLE, Prepared, RequestMaker, prepare_ahead
from gpt4image.images.scan import available_processors
from gpt4image.llm.base import DescribeRequest, RequestFailedError
from gpt4image.llm.batch_api import request_line
from gpt4image.llm.chat import chat_body


@dataclass
class Made:
    """An input file.

    Attributes:
        requests: number of its requests.
        size: its bytes.
        used: keys of all tasks that it has dealt with, refused ones included.
        refused: tasks that cannot be asked, and why.
    """

    requests: int = 0
    size: int = 0
    used: list[str] = field(default_factory=list)
    refused: list[tuple[Asked, RequestFailedError]] = field(default_factory=list)

    def refuse(self, asked: Asked, error: RequestFailedError) -> None:
        """Leave a task out."""
        self.refused.append((asked, error))
        self.used.append(asked.record.key)


@dataclass(frozen=True)
class Form:
    """What all requests of an input file have in common.

    Attributes:
        model: the model.
        old_limit: whether answers are limited by `max_tokens`.
        most_bytes: size of the file, at most.
    """

    model: str
    old_limit: bool
    most_bytes: int


def make_input(tasks: Path, requests: Path, asked: Iterable[Asked], maker: RequestMaker, form: Form) -> Iterator[Made]:
    """Write an input file and the tasks in it. Memory does not grow with either.

    Args:
        tasks: the file for the tasks.
        requests: the input file.
        asked: the tasks, in the order of the maker.
        maker: makes their requests.
        form: what the requests have in common.

    Yields:
        The same account after every request; the last time, both files are on the disk.
    """
    made = Made()
    with written(tasks) as task_file, written(requests) as request_file:
        for task, (_, request) in zip(asked, requests_of(maker), strict=False):
            if not add_request(made, task, request, form, task_file, request_file):
                break
            yield made
    yield made


def add_request(
    made: Made,
    task: Asked,
    request: DescribeRequest | ImageError,
    form: Form,
    task_file: IO[bytes],
    request_file: IO[bytes],
) -> bool:
    """Add a request, or note why it cannot be asked; False where the file has no room for it."""
    if isinstance(request, ImageError):
        made.refuse(task, RequestFailedError(UNREADABLE, str(request), retryable=False))
        return True
    line = request_line(request.key, chat_body(form.model, request, task.answers, old_limit=form.old_limit))
    if made.size + len(line) > form.most_bytes:
        if made.requests:
            return False
        detail = f"{len(line):,} bytes, a file takes {form.most_bytes:,}: send smaller pictures with --max-side"
        made.refuse(task, RequestFailedError("too large for a batch", detail, retryable=False))
        return True
    request_file.write(line)
    task_file.write(task.line())
    made.requests, made.size = made.requests + 1, made.size + len(line)
    made.used.append(request.key)
    return True


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def requests_of(maker: RequestMaker) -> Iterator[Prepared]:
    """Yield all tasks in order, prepared ahead in threads."""
    for block in prepare_ahead(maker, BLOCK * available_processors()):
        yield from block.result()
