"""Tasks: one for every image, prompt and sample, each with a key that the store marks as answered or not.

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
"""Requests prepared by one thread in one go: enough to hide the cost of handing them over."""

Prepared = tuple[int, DescribeRequest | ImageError]
"""Number of a task with its request, or with the reason why its picture cannot be read."""


@dataclass(frozen=True)
class Tasks:
    """Descriptions that are still to be written, in an order that depends on their keys alone.

    Attributes:
        keys: what is asked, S32 [N], sorted. Keys are hashes, so any run of them is an even mixture of all classes.
        rows: positions in the image table, int64 [N].
        prompts: positions in the question's prompts, int16 [N].
        samples: numbers of the samples, int16 [N].
        again: whether it was asked before and failed, or was marked for a retry, bool [N].
        done: number of tasks that are answered already.
        failed: tasks that failed before and are not retried, by reason.
        in_batches: number of tasks that a batch at a vendor holds.
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
        """Return some of the tasks, by a mask, positions or a slice."""
        columns = ("keys", "rows", "prompts", "samples", "again")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def shard(self, rank: int, shards: int) -> Tasks:
        """Return a worker's shard. It depends on the keys alone, not on what is answered already."""
        numbers = np.asarray([int(key[:8], 16) for key in self.keys.tolist()], dtype=np.int64)
        return self.part(numbers % shards == rank)


def plan_tasks(
    images: ImageTable, rows: np.ndarray, question: Question, store: DescriptionStore, *, retry_failed: bool = False
) -> Tasks:
    """List the tasks without an answer.

    Args:
        images: the images.
        rows: positions in the table of the images to describe, int64 [n].
        question: what is asked about each.
        store: what is answered already.
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
    """List every task of some images (positions int64 [n]), answered or not. Copies of an image share theirs."""
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
    """Yield `digest(id, identity)` for each image, ids S32 [n] and labels [n]; faster than one call of it each."""
    asked = {label: framed(identity) for label, identity in identities.items()}
    for image, label in zip(ids.tolist(), labels.tolist(), strict=True):
        yield hashlib.blake2b(framed(image) + asked[label], digest_size=16).hexdigest().encode()


class RequestMaker:
    """Makes the requests of tasks: reads and shrinks the picture, fills in the prompt.

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
        """Return a maker of some of the tasks, in the order of the numbers, int64 [n]."""
        return RequestMaker(self._images, self._question, self._tasks.part(numbers))

    def prompt(self, number: int) -> Prompt:
        """Return the prompt of a task."""
        return self._question.prompts[int(self._tasks.prompts[number])]

    def record(self, number: int) -> DescriptionRecord:
        """Return a record that says what a task asks; its outcome is still to be filled in."""
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
        """Return the request of a task. ImageError when a picture cannot be read, or is another one by now."""
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
        """Return the encoded picture of an image, or the frames of a clip; ImageError if it has changed by now."""
        if self._images.frames is not None:
            return self._images.read_frames(row)
        data = self._images.read(row)
        if not self._images.derived and image_id(data) != known_id:
            raise ImageError(f"{name}: the file has changed since it was checked; run the command again.")
        return [data]

    def choices(self, number: int) -> Choices | None:
        """Return the classes that a task's answer picks from; None if it is a description."""
        return self._question.values.listed if self.prompt(number).picks else None

    def outcome(self, number: int, reply: Reply) -> dict[str, Any]:
        """Return the fields of a task's record that a reply decides.

        Raises:
            RequestFailedError: the answer had to name a class and does not. It has no tokens: they are booked already.
        """
        choices = self.choices(number)
        return {
            "text": join_answers(reply.texts, self.prompt(number).join),
            "pick": choices and read_pick(choices, reply.texts[-1], self._sampling(number), reply.tokens),
            "served_model": reply.model,
            "finish_reason": reply.finish_reason,
        }

    def _sampling(self, number: int) -> Sampling:
        """Return the sampling of a task: each sample has a seed of its own, a retry may have another temperature."""
        sampling, sample = self._question.sampling, int(self._tasks.samples[number])
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + sample)
        retry_temperature = self._question.retry_temperature
        if retry_temperature is not None and self._tasks.again[number]:
            sampling = replace(sampling, temperature=retry_temperature)
        return sampling


def join_answers(texts: Iterable[str], between: str) -> str:
    """Join answers to one text, empty ones left out.

    >>> join_answers([" A cat. ", "", "It sleeps."], " ")
    'A cat. It sleeps.'
    """
    return between.join(text.strip() for text in texts if text.strip())


def read_pick(choices: Choices, answer: str, sampling: Sampling, tokens: Sequence[Token] = ()) -> str:
    """Return the class that an answer picks, as a record holds it. RequestFailedError if it names none of the list."""
    try:
        return choices.pick(answer, tokens).to_json()
    except ValueError:
        may_differ = sampling.temperature != 0 and sampling.seed is None
        raise RequestFailedError(NO_CHOICE, bounded(answer), retryable=may_differ) from None


async def feed(maker: RequestMaker, ahead: int) -> AsyncGenerator[Prepared]:
    """Yield all tasks in order, prepared in threads; about `ahead` of them are ready before they are asked for."""
    with closing(prepare_ahead(maker, ahead)) as blocks:
        for block in blocks:
            for prepared in await asyncio.wrap_future(block):
                yield prepared


def prepare_ahead(maker: RequestMaker, ahead: int) -> Generator[Future[list[Prepared]]]:
    """Prepare all tasks in threads, and yield blocks of them in order. Memory holds about `ahead` pictures."""
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
    """Return the request of a task, or the reason why its picture cannot be read."""
    try:
        return maker.request(number)
    except ImageError as error:
        return error
