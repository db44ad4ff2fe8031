"""Requests made ready ahead of the servers: pictures are read and shrunk in threads, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from gpt4image.describe.describers.base import DescribeRequest
from gpt4image.describe.tasks import RequestMaker, blocks
from gpt4image.errors import ImageError
from gpt4image.images.scan import available_processors

BLOCK = 8
"""Tasks made ready in one go: enough to hide what a thread's turn costs."""

Prepared = tuple[int, DescribeRequest | ImageError]


async def feed(maker: RequestMaker, ahead: int) -> AsyncGenerator[Prepared]:
    """All tasks in order, each as a request or as the reason why its picture cannot be had.

    Args:
        maker: makes the requests.
        ahead: tasks made ready before they are asked for, about.
    """
    threads = available_processors()
    loop = asyncio.get_running_loop()
    starts = blocks(len(maker), BLOCK)
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        running: deque[asyncio.Future[list[Prepared]]] = deque()
        try:
            while True:
                while len(running) * BLOCK < ahead + BLOCK and (block := next(starts, None)) is not None:
                    running.append(loop.run_in_executor(pool, prepare, maker, block))
                if not running:
                    return
                for prepared in await running.popleft():
                    yield prepared
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare(maker: RequestMaker, numbers: range) -> list[Prepared]:
    """Requests of some tasks."""
    return [(number, prepare_one(maker, number)) for number in numbers]


def prepare_one(maker: RequestMaker, number: int) -> DescribeRequest | ImageError:
    """The request of a task, or why its picture cannot be had."""
    try:
        return maker.request(number)
    except ImageError as error:
        return error
