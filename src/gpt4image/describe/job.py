"""Describe an image set: what is to be asked, what it will cost, and having it done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import exclusive
from gpt4image.core.options import DescribeOptions
from gpt4image.describe.batch.jobs import keys_under_way
from gpt4image.describe.batch.run import run_batches
from gpt4image.describe.clients import Session, prompt_names
from gpt4image.describe.runner import RunSettings, run_tasks
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import Question, RequestMaker, Tasks, all_tasks, picture_pixels, plan_tasks
from gpt4image.describe.workers.run_folder import wait_for_workers
from gpt4image.descriptions.prompts import PromptValues, Strategy, load_strategies
from gpt4image.descriptions.prompts.values import speak
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.records import record_from
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.llm.base import Sampling
from gpt4image.llm.batch_api import BatchServer
from gpt4image.llm.budget import Budget
from gpt4image.llm.credentials import key_for

LOOKED_AT = 64


"""Descriptions among whose pictures those few are chosen, small and large alike."""


@dataclass(frozen=True)
class DescribeJob:
    """An image set, what is asked about it, and who answers.

    Attributes:
        images: the images.
        rows: positions in the table of those to describe, int64 [n].
        question: what is asked.
        store: what is answered.
        session: who answers.
        options: as the user gave them.
    """

    images: ImageTable
    rows: np.ndarray
    question: Question
    store: DescriptionStore
    session: Session
    options: DescribeOptions

    def plan(self) -> Tasks:
        """What is still to be written."""
        retry = self.options.retry_failed
        return plan_tasks(self.images, self.rows, self.question, self.store, retry_failed=retry)

    def first(self, count: int) -> Tasks:
        """The first tasks, answered or not: the same at every call, an even mixture of all classes."""
        return self.outside_batches(all_tasks(self.images, self.rows, self.question)[0]).part(slice(count))

    def spread(self, count: int) -> Tasks:
        """Some of the first tasks, their pictures as small and large as all are: the same at every call.

        What a picture costs goes by its size, so the few at the middles of equal shares, sorted by size, stand for all.
        """
        tasks = self.first(LOOKED_AT)
        maker = RequestMaker(self.images, self.question, tasks)
        order = np.argsort([picture_pixels(maker, number) for number in range(len(tasks))], kind="stable")
        chosen = ((np.arange(count) + 0.5) * len(tasks) / count).astype(np.int64) if len(tasks) > count else slice(None)
        return tasks.part(np.sort(order[chosen]))

    @property
    def batch_folder(self) -> Path:
        """What is known of batches under way."""
        return self.store.folder / "batches"

    def outside_batches(self, tasks: Tasks) -> Tasks:
        """Those of some tasks that no batch under way holds: the others are paid for."""
        if not self.batch_folder.exists():
            return tasks
        return tasks.part(~contains(keys_under_way(self.batch_folder), tasks.keys))

    def budget(self) -> Budget:
        """What may be spent, less what was."""
        return self.budget_of(self.options.budget, self.store.spent(self.question.model).cost)

    def budget_of(self, dollars: float | None, spent: float, *, batch: bool = False) -> Budget:
        """Some dollars, of which some are spent."""
        turns, most_out = max(len(strategy.turns) for strategy in self.question.strategies), self.options.max_tokens
        if batch:  # a batch asks one question of a conversation at a time, and pays for that alone
            return Budget(dollars, self.session.price, spent, most_out * turns, batch=True)
        return Budget(dollars, self.session.price, spent, most_out, turns=turns)

    def run(
        self,
        tasks: Tasks,
        title: str = "Describe",
        budget: Budget | None = None,
        writer: RecordWriter | None = None,
    ) -> Tally:
        """Have tasks described, and the writer closed."""
        if not len(tasks) and writer is None:
            return Tally(0)
        settings = RunSettings(image_seconds=self.options.image_seconds)
        with writer or self.store.writer() as part, self.store.conversations() as conversations:
            return run_tasks(
                RequestMaker(self.images, self.question, tasks),
                self.session.describers,
                part,
                budget or self.budget(),
                self.session.loop,
                settings,
                conversations=conversations,
                title=title,
            )

    def run_in_batches(self, tasks: Tasks) -> Tally:
        """Describe tasks through a vendor's batch interface; collect the batches that are already under way too.

        Raises:
            DescribeError: no request can succeed, or the server is gone. Batches under way continue at the server.
            KeyboardInterrupt: the user stopped the job. Batches under way continue at the server.
        """
        place = self.session.describers[0].place
        server = BatchServer(self.question.model, place, key_for(place, self.options.key_env))
        spent = self.store.spent(self.question.model).cost
        budget = self.budget_of(self.options.budget, spent, batch=True)
        maker = RequestMaker(self.images, self.question, tasks)
        with self.store.writer() as writer:
            return run_batches(maker, server, self.store, writer, self.batch_folder, budget)

    def run_missing(self, tasks: Tasks, title: str) -> int:
        """Have those of some tasks described that have no answer, failed ones again; returns their number."""
        missing = tasks.part(self.store.keys().pending(tasks.keys, retry_failed=True))
        if len(missing):
            self.run(missing, title)
        return len(missing)

    def records_of(self, tasks: Tasks) -> list[DescriptionRecord]:
        """The records of some tasks, as far as there are any."""
        keys = pa.array([key.decode() for key in tasks.keys.tolist()], pa.string())
        found = (batch.filter(pc.is_in(batch["key"], keys)) for batch in self.store.current_batches(dropped=True))
        return [record_from(values) for batch in found for values in batch.to_pylist()]


def read_strategies(options: DescribeOptions) -> tuple[Strategy, ...]:
    """The prompts that the options ask for. ConfigError when one is unknown or cannot be meant."""
    return tuple(load_strategies(prompt_names(options), options.prompt_file))


def read_values(
    images: ImageTable, options: DescribeOptions, neighbours: Mapping[int, tuple[int, ...]] | None
) -> PromptValues:
    """What stands in the prompts' placeholders. ConfigError when the file of class names does not fit.

    Args:
        images: the images.
        options: as the user gave them.
        neighbours: labels of the classes that each is confused with, by label.
    """
    names = {} if options.class_names is None else read_class_names(options.class_names)
    unknown = sorted(set(names) - set(images.classes))
    if unknown:
        raise ConfigError(f"{options.class_names}: {unknown[0]!r} is no class of {images.source}.")
    said = tuple(names.get(name, speak(name)) for name in images.classes)
    confused = (neighbours or {}).items()
    return PromptValues(said, {label: tuple(said[other] for other in others) for label, others in confused})


def read_class_names(path: Path) -> dict[str, str]:
    """Names of classes as prompts say them. ConfigError names the file when it cannot be meant."""
    try:
        names = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f'{path} must hold names by class, such as {{"n01440764": "tench"}}.')
    return names


def describe_lock(store: DescriptionStore) -> Path:
    """Lock of whoever decides what is written to a store."""
    return store.folder / "describe.lock"


@contextmanager
def hold_store(store: DescriptionStore) -> Iterator[None]:
    """Keep other processes from describing into the same store; put its parts together at the end.

    Raises:
        BusyError: another process describes into it. Workers that a process has left behind are waited for.
    """
    with exclusive(describe_lock(store), f"the descriptions in {store.folder}"):
        wait_for_workers(store)
        store.compact()
        try:
            yield
        finally:
            store.compact()


def open_job(
    images: ImageTable,
    store: DescriptionStore,
    session: Session,
    options: DescribeOptions,
    neighbours: Mapping[int, tuple[int, ...]] | None = None,
) -> DescribeJob:
    """Put a job together.

    Args:
        images: the images.
        store: what is answered already.
        session: who answers.
        options: what is asked.
        neighbours: labels of the classes that each is confused with, by label, for prompts that say them.

    Raises:
        ConfigError: a prompt, placeholder or setting that cannot be meant.
    """
    question = Question(
        model=session.model,
        strategies=read_strategies(options),
        values=read_values(images, options, neighbours),
        sampling=Sampling(options.max_tokens, options.temperature, options.top_p, options.seed),
        samples=options.samples,
        max_side=options.max_side or None,
        retry_temperature=options.retry_temperature,
    )
    rows = np.concatenate([images.split(split) for split in SPLITS if split in options.splits])
    return DescribeJob(images, rows, question, store, session, options)
