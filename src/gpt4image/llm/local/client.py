"""Describe pictures with a vision-language model in this process: any model that transformers loads.

Coroutines of the event loop queue requests; one thread of its own runs the model:

    describe() -> _waiting -> _gather(): a batch of equal sampling -> thread: _answer() -> deliver() -> reply
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge

from gpt4image.core.console import say
from gpt4image.core.errors import ImageError
from gpt4image.core.files import digest, hash_file
from gpt4image.core.format import counted
from gpt4image.core.validation import check_value
from gpt4image.images.decode import decode
from gpt4image.llm.base import (
    CUT_OFF,
    UNDECODED,
    DescribeRequest,
    OnAnswer,
    Reply,
    RequestFailedError,
    Sampling,
    only_thought,
    thought_too_long,
)
from gpt4image.llm.local.loading import LoadPrecision, load
from gpt4image.llm.local.model import OUT_OF_MEMORY, Conversation, VisionModel, classify_failure, free_memory

if TYPE_CHECKING:
    from PIL import Image

# Two billion weights, 4.5 GB in bf16: fits small GPUs. Apache 2.0, supported by every transformers release we support,
# and needs no further package.
DEFAULT_LOCAL_MODEL = "Qwen/Qwen2-VL-2B-Instruct"

# Requests that arrive within this many seconds of each other share a batch.
GATHER_SECONDS = 0.004
CLOSE_SECONDS = 10.0

# Files that decide a model's answers; the identity of a folder hashes them.
IDENTITY_SUFFIXES = (".jinja", ".json", ".model", ".safetensors", ".txt")


class LocalDescriber:
    """A model in this process.

    Concurrent requests are answered in batches. A batch that fails, for lack of memory or otherwise, is halved until
    the failing request is alone.

    Temperature 0 decodes greedily; a temperature above 0, or a `top_p`, samples; otherwise the model's generation
    config decides. With a seed, a request gets the same answer on the same kind of device whatever else is in its
    batch, up to rounding: the batch size changes the last bits of bf16 and fp16.

    Args:
        model: hub name or folder; DEFAULT_LOCAL_MODEL if None.
        device: torch device; this machine's accelerator if None, or the CPU if there is none.
        batch_size: maximum pictures per batch.
        precision: dtype of the weights; `auto` is bf16 on a GPU that supports it, fp16 on an older one, float32 on the
            CPU.

    Raises:
        ConfigError: `batch_size` is below 1.
        StoreError: a file of the folder cannot be read.
    """

    name = "local"

    def __init__(
        self, model: str | None, *, device: str | None = None, batch_size: int = 8, precision: LoadPrecision = "auto"
    ) -> None:
        check_value(Annotated[int, Ge(1)], batch_size, "batch_size")
        self.place = model or DEFAULT_LOCAL_MODEL
        self.model = identify(self.place)
        self.max_concurrency = 2 * batch_size  # the next batch decodes its pictures while one runs
        self._device, self._precision, self._batch_size = device, precision, batch_size
        self._loaded: VisionModel | None = None
        self._thread = WorkerThread("local-describer")
        self._waiting: list[PendingRequest] = []
        self._running: list[PendingRequest] = []
        self._server: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Load the model; download it first if necessary.

        Raises:
            DescribeError: the model cannot be loaded. The message names the fix.
        """
        await self._thread.run(self._load)

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer | None = None) -> Reply:
        """Answer one request in a batch with others. Cancelling it does not affect the others.

        Raises:
            RequestFailedError: the picture cannot be decoded, does not fit into memory even alone, the model fails on
                it, or the answer is empty.
            DescribeError: the model cannot be loaded, or its device has failed.
        """
        images = await asyncio.to_thread(open_pictures, request)
        pending = PendingRequest(request, images, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        return await pending.reply

    async def close(self) -> None:
        """Abandon all requests, end the thread and free the memory."""
        for pending in [*self._waiting, *self._running]:
            pending.reply.cancel()
        await self._thread.stop(self._unload, CLOSE_SECONDS)

    async def _serve(self) -> None:
        """Answer batch after batch until no request waits."""
        while batch := await self._gather():
            self._running = batch
            await self._thread.run(partial(self._answer, batch))
            self._running = []
            for pending in batch:
                pending.deliver()

    async def _gather(self) -> list[PendingRequest]:
        """Return the next batch: requests with equal sampling, oldest first. Wait while more keep arriving."""
        seen = 0
        while seen < len(self._waiting) < self._batch_size:
            seen = len(self._waiting)
            await asyncio.sleep(GATHER_SECONDS)
        waiting = [pending for pending in self._waiting if not pending.abandoned()]
        batch = [pending for pending in waiting if pending.sampling == waiting[0].sampling][: self._batch_size]
        self._waiting = [pending for pending in waiting if pending not in batch]
        return batch

    # The methods below run in the thread.

    def _load(self) -> VisionModel:
        if self._loaded is None:
            self._loaded = VisionModel(load(self.place, self._device, self._precision))
        return self._loaded

    def _unload(self) -> None:
        self._loaded = None
        free_memory()

    def _answer(self, batch: list[PendingRequest]) -> None:
        """Give every request an outcome."""
        try:
            self._try(self._load(), batch)
        except Exception as error:  # DescribeError or a bug; the waiting callers must see it
            for pending in batch:
                pending.outcome = pending.outcome or error

    def _try(self, model: VisionModel, batch: list[PendingRequest]) -> bool:
        """Answer a batch, in halves if it fails as a whole. Return whether memory sufficed throughout."""
        failure = self._converse(model, batch)
        if failure is None:
            return True
        out_of_memory = failure.reason == OUT_OF_MEMORY
        if out_of_memory:
            free_memory()
        if len(batch) == 1:
            batch[0].outcome = failure
            return not out_of_memory
        half = (len(batch) + 1) // 2
        fits = [self._try(model, batch[:half]), self._try(model, batch[half:])]
        # Lower the batch size only if both halves fit: otherwise one picture was too large for any batch.
        if out_of_memory and all(fits) and half < self._batch_size:
            say(f"Out of memory with {counted(len(batch), 'picture')} per batch, continuing with {half}.")
            self._batch_size = half
        return all(fits) and not out_of_memory

    def _converse(self, model: VisionModel, batch: list[PendingRequest]) -> RequestFailedError | None:
        """Answer a batch. Return the failure if it fails as a whole."""
        try:
            model.converse(batch)
        except Exception as error:
            return classify_failure(error)
        served_model = f"{self.place}@{model.commit}" if model.commit else self.model
        for pending in batch:
            if not pending.abandoned():
                pending.outcome = pending.result(served_model)
        return None


@dataclass(eq=False)
class PendingRequest(Conversation):
    """A conversation that `describe` waits for.

    Attributes:
        reply: what `describe` waits for; cancelled when its caller gives up.
        outcome: reply or failure, once known.
    """

    reply: asyncio.Future[Reply]
    outcome: Reply | Exception | None = None

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters that a batch shares: all but the seed."""
        return replace(self.request.sampling, seed=None)

    def abandoned(self) -> bool:  # noqa: D102 - see the base class
        return self.reply.cancelled()

    def result(self, model: str) -> Reply | RequestFailedError:
        """Return the reply of the finished conversation, or the failure if its last answer is empty."""
        if self.answers[-1].text:
            return Reply.join(self.answers, model)
        if self.answers[-1].thought:
            cut_off = self.answers[-1].finish_reason in CUT_OFF
            return thought_too_long(self.answers) if cut_off else only_thought(self.answers)
        sampling = self.request.sampling
        random = sampling.seed is None and sampling.temperature != 0  # without sampling a retry gives the same answer
        detail = f"finish reason {self.answers[-1].finish_reason}"
        return RequestFailedError("empty answer", detail, retryable=random).with_tokens(self.answers)

    def deliver(self) -> None:
        """Pass the outcome to `describe`."""
        if self.reply.done():
            return
        if isinstance(self.outcome, Reply):
            self.reply.set_result(self.outcome)
        else:
            self.reply.set_exception(self.outcome or RuntimeError("no outcome"))


def open_pictures(request: DescribeRequest) -> list[Image.Image]:
    """Decode the pictures of a request to RGB. Raise RequestFailedError if that fails."""
    if not request.pictures:
        raise RequestFailedError(
            UNDECODED, "a model in this process only answers questions about pictures", retryable=False
        )
    try:
        return [decode(picture.data, request.name, picture.width * picture.height) for picture in request.pictures]
    except ImageError as error:
        raise RequestFailedError(UNDECODED, str(error), retryable=False) from None


def identify(location: str) -> str:
    """Return a model's hub name, or its folder's name with a hash of the files that decide its answers.

    Raises:
        StoreError: a file of the folder cannot be read.
    """
    folder = Path(location)
    if not folder.is_dir():
        return location
    files = sorted(path for path in folder.iterdir() if path.suffix in IDENTITY_SUFFIXES)
    parts = [part for path in files for part in (path.name, hash_file(path))]
    return f"{folder.resolve().name}@{digest(*parts)[:12]}"


T = TypeVar("T")

FunctionQueue = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class WorkerThread:
    """Runs functions in a thread of its own, in order.

    Unlike the threads of an executor, this one is a daemon: a model that is still answering does not delay the end of
    the process. It starts with the first function and ends with `stop`.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: FunctionQueue = SimpleQueue()
        self._thread: Thread | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result. If cancelled, a started function still finishes."""
        if self._thread is None:
            self._tasks = SimpleQueue()
            self._thread = Thread(target=run_functions, args=(self._tasks,), name=self._name, daemon=True)
            self._thread.start()
        result: Future[T] = Future()
        self._tasks.put((result, function))
        return await asyncio.wrap_future(result)

    async def stop(self, last: Callable[[], None], seconds: float) -> None:
        """Run a last function and end the thread; after the given time, stop waiting for it."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._tasks.put((Future(), last))
        self._tasks.put(None)
        await asyncio.to_thread(thread.join, seconds)


def run_functions(tasks: FunctionQueue) -> None:
    """Run one function after the other until None arrives."""
    while (task := tasks.get()) is not None:
        result, function = task
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(function())
            except BaseException as error:  # raised again where the result is awaited
                result.set_exception(error)
        del task, result, function  # free the pictures they hold before the next task arrives
