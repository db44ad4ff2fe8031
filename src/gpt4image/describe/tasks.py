"""Tasks: one per image, prompt and sample, each with a key that tells from the store whether it is answered.

images x prompts x samples -> keys, each once -> minus answered (and failed) ones -> requests, made ahead in threads
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpt4image.core.errors import ImageError
from gpt4image.core.files import framed
from gpt4image.describe.question import Question
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.choices import Choices
from gpt4image.descriptions.store.description_store import DescriptionStore
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.images.scan import available_processors, image_id
from gpt4image.images.table import ImageTable
from gpt4image.llm.base import NO_CHOICE, DescribeRequest, Reply, RequestFailedError, Sampling, Token
from gpt4image.llm.errors import bounded
from gpt4image.llm.picture import prepare_picture

BLOCK = 8
"""Number of requests that a thread prepares at once, which makes the cost of passing them on negligible."""

Prepared = tuple[int, DescribeRequest | ImageError]
"""The number of a task and its request, or the error if its picture cannot be read."""


@dataclass(frozen=True)
class Tasks:
    """Descriptions to write, in an order that depends only on their keys.

    Attributes:
        keys: keys, S32 [N], sorted. They are hashes, so any part of the list is an even mixture of all classes.
        rows: positions in the image table, int64 [N].
        prompts: positions in the question's prompts, int16 [N].
        samples: sample numbers, int16 [N].
        again: whether it failed before or was marked for a retry, bool [N].
        done: number of tasks that are already answered.
        failed: tasks that failed before and are not retried, by reason.
        in_batches: number of tasks in batches at a vendor.
        without_class: number of tasks left out because their prompt names a class and the image has none.
    """

    keys: np.ndarray
    rows: np.ndarray
    prompts: np.ndarray
    samples: np.ndarray
    again: np.ndarray
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    in_batches: int = 0
    without_class: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, chosen: np.ndarray | slice) -> Tasks:
        """Return a selection of the tasks by mask, positions or slice."""
        columns = ("keys", "rows", "prompts", "samples", "again")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def shard(self, rank: int, shards: int) -> Tasks:
        """Return a worker's shard. It depends only on the keys, not on what is already answered."""
        numbers = np.asarray([int(key[:8], 16) for key in self.keys.tolist()], dtype=np.int64)
        return self.part(numbers % shards == rank)


def plan_tasks(
    images: ImageTable, rows: np.ndarray, question: Question, store: DescriptionStore, *, retry_failed: bool = False
) -> Tasks:
    """List the tasks without an answer.

    Args:
        images: the images.
        rows: positions of the images to describe in the table, int64 [n].
        question: what is asked about each.
        store: the descriptions so far.
        retry_failed: include tasks that failed before.
    """
    wanted = all_tasks(images, rows, question)
    states = store.keys()
    todo = wanted.part(states.pending(wanted.keys, retry_failed=retry_failed))
    marked = (key.encode() for key, mark in store.marks().items() if mark.verdict == "retry")
    again = {*states.failed.tolist(), *marked}
    failed: Counter[str] = Counter()
    if not retry_failed:
        failed.update(states.reasons[np.isin(states.failed, wanted.keys)].tolist())
    return replace(
        todo,
        again=np.asarray([key in again for key in todo.keys.tolist()], dtype=bool),
        done=len(wanted) - len(todo) - failed.total(),
        failed=failed,
    )


def all_tasks(images: ImageTable, rows: np.ndarray, question: Question) -> Tasks:
    """List every task of some images (positions int64 [n]), answered or not. Copies of an image share their tasks."""
    named = images.classes_in_prompts
    labels = named[rows]
    columns, without_class = [], 0
    for number, prompt in enumerate(question.prompts):
        for sample in range(question.samples):
            asked = {label: question.identity(prompt, label, sample) for label in np.unique(labels).tolist()}
            identities = {label: identity for label, identity in asked.items() if identity is not None}
            positions = rows[np.isin(labels, list(identities))]
            without_class += len(rows) - len(positions)
            found = task_keys(images.ids[positions], named[positions], identities)
            keys = np.fromiter(found, KEY_TYPE, len(positions))
            same = (np.full(len(positions), value, dtype=np.int16) for value in (number, sample))
            columns.append((keys, positions, *same))
    all_keys, all_rows, prompts, samples = (np.concatenate(column) for column in zip(*columns, strict=True))
    keys, first = np.unique(all_keys, return_index=True)
    again = np.zeros(len(keys), dtype=bool)
    return Tasks(keys, all_rows[first], prompts[first], samples[first], again, without_class=without_class)


def task_keys(ids: np.ndarray, labels: np.ndarray, identities: Mapping[int, str]) -> Iterator[bytes]:
    """Yield `digest(id, identity)` for each image, ids S32 [n] and labels [n]; faster than separate calls."""
    asked = {label: framed(identity) for label, identity in identities.items()}
    for image, label in zip(ids.tolist(), labels.tolist(), strict=True):
        yield hashlib.blake2b(framed(image) + asked[label], digest_size=16).hexdigest().encode()


class RequestMaker:
    """Makes requests: reads and scales the picture, and fills in the prompt.

    Args:
        images: the images.
        question: what is asked.
        tasks: the tasks.
    """

    def __init__(self, images: ImageTable, question: Question, tasks: Tasks) -> None:
        self._images, self._question, self._tasks = images, question, tasks
        self._ids, self._labels = images.ids, images.classes_in_prompts

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def keys(self) -> np.ndarray:
        """Keys of the tasks, S32 [N]."""
        return self._tasks.keys

    def part(self, numbers: np.ndarray) -> RequestMaker:
        """Return a maker for a selection of tasks, in the order of the numbers, int64 [n]."""
        return RequestMaker(self._images, self._question, self._tasks.part(numbers))

    def prompt(self, number: int) -> Prompt:
        """Return the prompt of a task."""
        return self._question.prompts[int(self._tasks.prompts[number])]

    def record(self, number: int) -> DescriptionRecord:
        """Return a task's record without its outcome."""
        question, tasks = self._question, self._tasks
        prompt = self.prompt(number)
        return DescriptionRecord(
            key=tasks.keys[number].decode(),
            image_id=self._ids[tasks.rows[number]].decode(),
            model=question.model,
            prompt=prompt.name,
            prompt_hash=prompt.hash,
            sample=int(tasks.samples[number]),
            settings=question.settings_with(self._sampling(number)),
        )

    def request(self, number: int) -> DescribeRequest:
        """Return the request of a task. ImageError if a picture cannot be read or has changed."""
        question, tasks = self._question, self._tasks
        row = int(tasks.rows[number])
        name = self._images.path(row)
        prompt = self.prompt(number)
        system, turns = prompt.fill(question.values.of(int(self._labels[row])))
        known_id = self._ids[row].decode()
        pictures = tuple(
            prepare_picture(data, name, question.max_side, self._images.max_pixels)
            for data in (self._encoded(row, name, known_id) if question.pictures else ())
        )
        return DescribeRequest(
            key=tasks.keys[number].decode(),
            image_id=known_id,
            name=name,
            pictures=pictures,
            system=system,
            turns=question.introduce(turns, len(pictures)),
            sampling=self._sampling(number),
            prompt_hash=prompt.hash,
            sample=int(tasks.samples[number]),
            log_probabilities=prompt.picks,
        )

    def _encoded(self, row: int, name: str, known_id: str) -> list[bytes]:
        """Return the encoded picture of an image, or the frames of a clip; ImageError if it has changed."""
        if self._images.frames is not None:
            return self._images.read_frames(row)
        data = self._images.read(row)
        if not self._images.derived and image_id(data) != known_id:
            raise ImageError(f"{name}: the file has changed since it was checked; run the command again.")
        return [data]

    def choices(self, number: int) -> Choices | None:
        """Return the classes to pick from in a task's answer; None for a description."""
        return self._question.values.listed if self.prompt(number).picks else None

    def outcome(self, number: int, reply: Reply) -> dict[str, Any]:
        """Return the fields of a task's record that come from its reply.

        Raises:
            RequestFailedError: the answer should name a class and does not. It has no tokens, because they are already
                charged.
        """
        choices = self.choices(number)
        return {
            "text": join_answers(reply.texts, self.prompt(number).join),
            "pick": choices and read_pick(choices, reply.texts[-1], self._sampling(number), reply.tokens),
            "served_model": reply.model,
            "finish_reason": reply.finish_reason,
        }

    def _sampling(self, number: int) -> Sampling:
        """Return the sampling of a task: each sample has its own seed, and a retry may have another temperature."""
        sampling, sample = self._question.sampling, int(self._tasks.samples[number])
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + sample)
        retry_temperature = self._question.retry_temperature
        if retry_temperature is not None and self._tasks.again[number]:
            sampling = replace(sampling, temperature=retry_temperature)
        return sampling


def join_answers(texts: Iterable[str], between: str) -> str:
    """Join the non-empty answers to one text.

    >>> join_answers([" A cat. ", "", "It sleeps."], " ")
    'A cat. It sleeps.'
    """
    return between.join(text.strip() for text in texts if text.strip())


def read_pick(choices: Choices, answer: str, sampling: Sampling, tokens: Sequence[Token] = ()) -> str:
    """Return the picked class in an answer, as stored in records. RequestFailedError if it names none of the list."""
    try:
        return choices.pick(answer, tokens).to_json()
    except ValueError:
        may_differ = sampling.temperature != 0 and sampling.seed is None
        raise RequestFailedError(NO_CHOICE, bounded(answer), retryable=may_differ) from None


async def feed(maker: RequestMaker, ahead: int) -> AsyncGenerator[Prepared]:
    """Yield all tasks in order, prepared in threads, about `ahead` of them in advance."""
    with closing(prepare_ahead(maker, ahead)) as blocks:
        for block in blocks:
            for prepared in await asyncio.wrap_future(block):
                yield prepared


def prepare_ahead(maker: RequestMaker, ahead: int) -> Generator[Future[list[Prepared]]]:
    """Prepare all tasks in threads, and yield blocks of them in order. About `ahead` pictures are in memory."""
    with ThreadPoolExecutor(available_processors(), thread_name_prefix="pictures") as pool:
        running: deque[Future[list[Prepared]]] = deque()
        try:
            for start in range(0, len(maker), BLOCK):
                running.append(pool.submit(prepare, maker, range(start, min(start + BLOCK, len(maker)))))
                if len(running) * BLOCK > ahead:
                    yield running.popleft()
            while running:
                yield running.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare(maker: RequestMaker, numbers: Iterable[int]) -> list[Prepared]:
    """Make the requests of some tasks."""
    return [(number, request_or_error(maker, number)) for number in numbers]


def request_or_error(maker: RequestMaker, number: int) -> DescribeRequest | ImageError:
    """Return the request of a task, or the error if its picture cannot be read."""
    try:
        return maker.request(number)
    except ImageError as error:
        return error
