"""What is asked about which image: every task has a key, and the store knows which keys are answered."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import digest
from gpt4image.descriptions.prompts import PromptValues, Strategy
from gpt4image.descriptions.store.description_store import DescriptionStore
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.images.scan import available_processors, image_id
from gpt4image.images.table import ImageTable
from gpt4image.llm.base import DescribeRequest, Sampling
from gpt4image.llm.picture import prepare_picture

if TYPE_CHECKING:
    pass


KEY_BLOCK = 4096

UNREADABLE = "unreadable picture"
"""Why a task fails whose picture cannot be read."""


@dataclass(frozen=True)
class Question:
    """All that decides the answers; what is not in here changes speed alone.

    Attributes:
        model: the model as it is asked for.
        strategies: ways of asking.
        values: what stands in their placeholders.
        sampling: how answers are drawn.
        samples: answers to each strategy.
        max_side: longest side in pixels of the pictures sent; None sends them as large as they are.
        retry_temperature: temperature of another try; that of `sampling` when not given.
    """

    model: str
    strategies: tuple[Strategy, ...]
    values: PromptValues
    sampling: Sampling
    samples: int = 1
    max_side: int | None = 768
    retry_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {self.samples}.")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ConfigError(
                f"{self.samples} samples at temperature 0 are {self.samples} times the same: set --temperature above 0."
            )
        if self.max_side is not None and self.max_side < 1:
            raise ConfigError(f"max_side must be at least 1, not {self.max_side}.")
        self.values.check(self.strategies)

    @cached_property
    def settings(self) -> str:
        """Sampling and picture size as JSON."""
        return settings_json(self.sampling, self.max_side)

    def identity(self, strategy: Strategy, label: int, sample: int) -> str | None:
        """What is asked about an image of a class; None where the strategy needs a class and there is none."""
        values = self.values.of(label)
        if not strategy.placeholders <= values.keys():
            return None
        used = {name: values[name] for name in sorted(strategy.placeholders)}
        return json.dumps([self.model, strategy.hash, used, self.settings, sample])


def settings_json(sampling: Sampling, max_side: int | None) -> str:
    """Sampling and picture size as JSON."""
    return json.dumps({**sampling.to_dict(), "max_side": max_side}, sort_keys=True)


@dataclass(frozen=True)
class Tasks:
    """Descriptions that are still to be written, in an order that depends on their keys alone.

    Attributes:
        keys: what is asked, S32 [N], sorted: an even mixture of all classes.
        rows: positions in the image table, int64 [N].
        strategies: positions in the question's strategies, int16 [N].
        samples: number of the sample, int16 [N].
        again: whether it was asked before, bool [N].
        done: number of tasks that are answered already.
        failed: number of tasks that failed before and are not tried again.
        without_class: number of tasks that need a class which the image does not have.
    """

    keys: np.ndarray
    rows: np.ndarray
    strategies: np.ndarray
    samples: np.ndarray
    again: np.ndarray
    done: int = 0
    failed: int = 0
    without_class: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, chosen: np.ndarray | slice) -> Tasks:
        """Some of the tasks."""
        columns = ("keys", "rows", "strategies", "samples", "again")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def shard(self, rank: int, shards: int) -> Tasks:
        """This worker's share, the same whatever is done already."""
        numbers = np.asarray([int(key[:8], 16) for key in self.keys.tolist()], dtype=np.int64)
        return self.part(numbers % shards == rank)


def plan_tasks(
    images: ImageTable, rows: np.ndarray, question: Question, store: DescriptionStore, *, retry_failed: bool = False
) -> Tasks:
    """Find out what is still to be written.

    Args:
        images: the images.
        rows: positions in the table of the images to describe, int64 [n].
        question: what is asked about each.
        store: what is answered already.
        retry_failed: try again what failed before.
    """
    wanted, without_class = all_tasks(images, rows, question)
    states = store.keys()
    pending = states.pending(wanted.keys, retry_failed=retry_failed)
    known = {*states.failed.tolist(), *(key.encode() for key, m in store.marks().items() if m.verdict == "retry")}
    todo = wanted.part(pending)
    again = np.asarray([key in known for key in todo.keys.tolist()], dtype=bool)
    failed = 0 if retry_failed else int(np.isin(wanted.keys, states.failed).sum())
    done = len(wanted) - len(todo) - failed
    return replace(todo, again=again, done=done, failed=failed, without_class=without_class)


def all_tasks(images: ImageTable, rows: np.ndarray, question: Question) -> tuple[Tasks, int]:
    """Every task of some images, copies of an image once, and the number of those that lack a class."""
    ids, labels = images.ids[rows].tolist(), images.labels[rows].tolist()
    keys, places, strategies, samples, without_class = [], [], [], [], 0
    for number, strategy in enumerate(question.strategies):
        for sample in range(question.samples):
            identities = {label: question.identity(strategy, label, sample) for label in set(labels)}
            asked = [identities[label] for label in labels]
            there = [place for place, identity in enumerate(asked) if identity is not None]
            without_class += len(asked) - len(there)
            found = [digest(ids[place], asked[place] or "") for place in there]
            keys.append(np.asarray(found, dtype=KEY_TYPE))
            places.append(rows[there])
            strategies.append(np.full(len(there), number, dtype=np.int16))
            samples.append(np.full(len(there), sample, dtype=np.int16))
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    at, strategy_of, sample_of = (np.concatenate(column)[first] for column in (places, strategies, samples))
    return Tasks(unique, at, strategy_of, sample_of, np.zeros(len(unique), dtype=bool)), without_class


class RequestMaker:
    """Makes requests of tasks: reads and shrinks the picture, fills in the prompt.

    Args:
        images: the images.
        question: what is asked.
        tasks: the tasks.
    """

    def __init__(self, images: ImageTable, question: Question, tasks: Tasks) -> None:
        self._images, self._question, self._tasks = images, question, tasks
        self._ids, self._labels = images.ids, images.labels

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def keys(self) -> np.ndarray:
        """Keys of the tasks, S32 [N]."""
        return self._tasks.keys

    def part(self, numbers: np.ndarray) -> RequestMaker:
        """A maker of some of the tasks, in the order of the numbers (int64 [n])."""
        return RequestMaker(self._images, self._question, self._tasks.part(numbers))

    def strategy(self, number: int) -> Strategy:
        """How a task is asked."""
        return self._question.strategies[int(self._tasks.strategies[number])]

    def record(self, number: int) -> DescriptionRecord:
        """What is known of a task before it is asked."""
        question, tasks = self._question, self._tasks
        strategy = self.strategy(number)
        return DescriptionRecord(
            key=tasks.keys[number].decode(),
            image_id=self._ids[tasks.rows[number]].decode(),
            model=question.model,
            prompt=strategy.name,
            prompt_hash=strategy.hash,
            sample=int(tasks.samples[number]),
            settings=settings_json(self._sampling(number), question.max_side),
        )

    def request(self, number: int) -> DescribeRequest:
        """The request of a task. ImageError when the picture cannot be had."""
        question, tasks = self._question, self._tasks
        row = int(tasks.rows[number])
        name = self._images.path(row)
        strategy = self.strategy(number)
        system, turns = strategy.fill(question.values.of(int(self._labels[row])))
        data, known_id = self._images.read(row), self._ids[row].decode()
        if image_id(data) != known_id:
            raise ImageError(f"{name}: the file has changed since it was checked; run the command again.")
        picture = prepare_picture(data, name, question.max_side, self._images.max_pixels)
        return DescribeRequest(
            key=tasks.keys[number].decode(),
            image_id=known_id,
            name=name,
            picture=picture,
            system=system,
            turns=turns,
            sampling=self._sampling(number),
            prompt_hash=strategy.hash,
            sample=int(tasks.samples[number]),
        )

    def join(self, number: int, texts: tuple[str, ...]) -> str:
        """The answers of a task's conversation as one text."""
        return join_answers(texts, self.strategy(number).join)

    def _sampling(self, number: int) -> Sampling:
        sampling, sample = self._question.sampling, int(self._tasks.samples[number])
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + sample)
        retry_temperature = self._question.retry_temperature
        if retry_temperature is not None and self._tasks.again[number]:
            sampling = replace(sampling, temperature=retry_temperature)
        return sampling


def join_answers(texts: Iterable[str], between: str) -> str:
    """Answers as one text, empty ones left out.

    >>> join_answers([" A cat. ", "", "It sleeps."], " ")
    'A cat. It sleeps.'
    """
    return between.join(text.strip() for text in texts if text.strip())


def blocks(size: int, block: int = KEY_BLOCK) -> Iterator[range]:
    """Numbers 0 to size - 1 in blocks."""
    for start in range(0, size, block):
        yield range(start, min(start + block, size))


def picture_pixels(maker: RequestMaker, number: int) -> int:
    """Width x height of a task's picture as it is sent; 0 where it cannot be read."""
    try:
        picture = maker.request(number).picture
    except ImageError:
        return 0
    return picture.width * picture.height


def longest_side(maker: RequestMaker, number: int) -> int:
    """Longest side in pixels of a task's picture; 0 where it cannot be read."""
    try:
        picture = maker.request(number).picture
    except ImageError:
        return 0
    return max(picture.width, picture.height)


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
