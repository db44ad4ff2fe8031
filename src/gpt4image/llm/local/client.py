"""A vision-language model in this process: any that transformers loads, by hub name or folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from gpt4image.core.console import counted, say
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import digest, hash_file
from gpt4image.images.decode import decode
from gpt4image.llm.base import DescribeRequest, OnAnswer, Reply, RequestFailedError, Sampling
from gpt4image.llm.local.loading import Precision, load
from gpt4image.llm.local.vision_model import (
    OUT_OF_MEMORY,
    Conversation,
    VisionModel,
    converse,
    free_memory,
    what_failed,
)

if TYPE_CHECKING:
    from PIL import Image


T = TypeVar("T")


Tasks = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class Worker:
    """Does what it is told in a thread of its own, in order.

    The thread starts with the first task and ends with `stop`. It holds up no process that wants to end.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: Tasks = SimpleQueue()
        self._thread: Thread | None = None

    async def do(self, task: Callable[[], T]) -> T:
        """Run `task` in the thread; returns and raises what it does. Cancelled, it runs on once it has begun."""
        if self._thread is None:
            self._tasks = SimpleQueue()
            self._thread = Thread(target=run_tasks, args=(self._tasks,), name=self._name, daemon=True)
            self._thread.start()
        result: Future[T] = Future()
        self._tasks.put((result, task))
        return await asyncio.wrap_future(result)

    async def stop(self, last: Callable[[], None], seconds: float) -> None:
        """Have the thread do a last task and end; when that takes longer than some seconds it is left to itself."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._tasks.put((Future(), last))
        self._tasks.put(None)
        await asyncio.to_thread(thread.join, seconds)


def run_tasks(tasks: Tasks) -> None:
    """Do one task after the other until None comes."""
    while (given := tasks.get()) is not None:
        result, task = given
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(task())
            except BaseException as error:  # it belongs to whoever waits for the task
                result.set_exception(error)
        del given, result, task  # what they hold is let go before the next task comes


DEFAULT_LOCAL_MODEL = "Qwen/Qwen2-VL-2B-Instruct"


"""Two billion weights, 4.5 GB in bf16: it fits small GPUs. It is under Apache 2.0, known to every release of
transformers that is supported, and needs no further package."""


GATHER_SECONDS = 0.004


CLOSE_SECONDS = 10.0


IDENTITY_SUFFIXES = (".jinja", ".json", ".model", ".safetensors", ".txt")


class LocalDescriber:
    """A model in this process.

    Requests that are under way at the same time are answered in batches, in one thread. A batch that fails, for lack of
    memory or otherwise, is halved until what fails stands alone.

    Sampling: temperature 0 takes the likeliest tokens; a temperature above 0, or a `top_p`, draws; where neither is
    given the model's generation config decides. With a seed a request draws the same answer on the same kind of device
    whatever else is in its batch, as far as rounding goes: the size of a batch moves the last bits of bf16 and fp16.

    Args:
        model: hub name, or folder; DEFAULT_LOCAL_MODEL when not given.
        device: torch device; the accelerator of this machine when not given, the CPU where it has none.
        batch_size: pictures at a time, at most.
        precision: of the weights; `auto` is bf16 on a GPU that has it, fp16 on an older one, float32 on the CPU.

    Raises:
        ConfigError: `batch_size` is below 1.
        StoreError: a file of the folder cannot be read.
    """

    name = "local"

    def __init__(
        self, model: str | None, *, device: str | None = None, batch_size: int = 8, precision: Precision = "auto"
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")
        self.place = model or DEFAULT_LOCAL_MODEL
        self.model = identify(self.place)
        self.max_concurrency = 2 * batch_size
        self._device, self._precision, self._batch_size = device, precision, batch_size
        self._loaded: VisionModel | None = None
        self._worker = Worker("local-describer")
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._server: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Load the model; what is not there yet is downloaded.

        Raises:
            DescribeError: it cannot be loaded. The message names the fix.
        """
        await self._worker.do(self._load)

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer | None = None) -> Reply:
        """Answer one request, together with others. When it is cancelled the others go on.

        Raises:
            RequestFailedError: the picture cannot be decoded, memory does not suffice for it alone, the model fails on
                it or says nothing.
            DescribeError: the model cannot be loaded, or its device has failed.
        """
        image = await asyncio.to_thread(open_picture, request)
        job = Job(request, image, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        return await job.reply

    async def close(self) -> None:
        """Break off what is under way, end the thread and free the memory."""
        for job in [*self._waiting, *self._running]:
            job.reply.cancel()
        await self._worker.stop(self._unload, CLOSE_SECONDS)

    async def _serve(self) -> None:
        """Answer batch after batch until nobody waits."""
        while jobs := await self._gather():
            self._running = jobs
            await self._worker.do(partial(self._answer, jobs))
            self._running = []
            for job in jobs:
                job.deliver()

    async def _gather(self) -> list[Job]:
        """The next batch: requests of the same sampling, the oldest first; waits while more keep coming."""
        seen = 0
        while seen < len(self._waiting) < self._batch_size:
            seen = len(self._waiting)
            await asyncio.sleep(GATHER_SECONDS)
        waiting = [job for job in self._waiting if not job.abandoned()]
        batch = [job for job in waiting if job.kind == waiting[0].kind][: self._batch_size]
        self._waiting = [job for job in waiting if job not in batch]
        return batch

    # What follows runs in the worker's thread.

    def _load(self) -> VisionModel:
        if self._loaded is None:
            self._loaded = VisionModel(load(self.place, self._device, self._precision))
        return self._loaded

    def _unload(self) -> None:
        self._loaded = None
        free_memory()

    def _answer(self, jobs: list[Job]) -> None:
        """Give every job an outcome."""
        try:
            self._try(self._load(), jobs)
        except Exception as error:  # no request can go well, or a defect: whoever waits has to know
            for job in jobs:
                job.outcome = job.outcome or error

    def _try(self, model: VisionModel, jobs: list[Job]) -> bool:
        """Answer jobs in one batch, in halves where that fails. Returns whether memory sufficed for all."""
        failure = self._converse(model, jobs)
        if failure is None:
            return True
        full = failure.reason == OUT_OF_MEMORY
        if full:
            free_memory()
        if len(jobs) == 1:
            jobs[0].outcome = failure
            return not full
        half = (len(jobs) + 1) // 2
        parts = [self._try(model, jobs[:half]), self._try(model, jobs[half:])]
        if full and all(parts):
            self._lower(len(jobs), half)
        return all(parts) and not full

    def _lower(self, tried: int, size: int) -> None:
        """Make smaller batches from now on: both halves went well, so it was not one picture that was too large."""
        if size < self._batch_size:
            say(f"Out of memory with {counted(tried, 'picture')} at a time, going on with {size}.")
            self._batch_size = size

    def _converse(self, model: VisionModel, jobs: list[Job]) -> RequestFailedError | None:
        """Answer jobs in one batch. Returns what went wrong where that failed as a whole."""
        talks = [Conversation(job.request, job.image, job.abandoned) for job in jobs]
        try:
            converse(model, talks)
        except Exception as error:
            return what_failed(error)
        served = f"{self.place}@{model.commit}" if model.commit else self.model
        for job, talk in zip(jobs, talks, strict=True):
            if not job.abandoned():
                job.outcome = outcome(talk, served)
        return None


@dataclass(eq=False)
class Job:
    """A request under way.

    Attributes:
        request: what is asked.
        image: the picture, RGB.
        reply: what the asker waits for; he cancels it when he waits no longer.
        outcome: reply or failure, once it is known.
    """

    request: DescribeRequest
    image: Image.Image
    reply: asyncio.Future[Reply]
    outcome: Reply | Exception | None = None

    @property
    def kind(self) -> Sampling:
        """What is the same for all requests of a batch: sampling but for the seed."""
        return replace(self.request.sampling, seed=None)

    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.reply.cancelled()

    def deliver(self) -> None:
        """Hand over the outcome."""
        if self.reply.done():
            return
        if isinstance(self.outcome, Reply):
            self.reply.set_result(self.outcome)
        else:
            self.reply.set_exception(self.outcome or RuntimeError("no outcome"))


def outcome(talk: Conversation, model: str) -> Reply | RequestFailedError:
    """What a conversation has come to: its answers, or that one of them is empty."""
    answers, sampling = talk.answers, talk.request.sampling
    reason = answers[-1].finish_reason
    if not answers[-1].text:
        again = sampling.seed is None and sampling.temperature != 0
        return RequestFailedError("empty answer", f"finish reason {reason}", retryable=again).after(answers)
    tokens_in, tokens_out = sum(a.tokens_in for a in answers), sum(a.tokens_out for a in answers)
    return Reply(tuple(answer.text for answer in answers), reason, tokens_in, tokens_out, model)


def open_picture(request: DescribeRequest) -> Image.Image:
    """The picture of a request, RGB. RequestFailedError when it cannot be decoded."""
    picture = request.picture
    try:
        return decode(picture.data, request.name, picture.width * picture.height)
    except ImageError as error:
        raise RequestFailedError("picture cannot be decoded", str(error), retryable=False) from None


def identify(location: str) -> str:
    """What a model is called: its hub name, or its folder's name and a hash of what lies in it.

    Raises:
        StoreError: a file of the folder cannot be read.
    """
    folder = Path(location)
    if not folder.is_dir():
        return location
    files = sorted(path for path in folder.iterdir() if path.suffix in IDENTITY_SUFFIXES)
    parts = [part for path in files for part in (path.name, hash_file(path))]
    return f"{folder.resolve().name}@{digest(*parts)[:12]}"
