"""A describe job: the images, the question, the describers, and the store for the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.files import exclusive
from gpt4image.describe.batch.folder import keys_under_way
from gpt4image.describe.batch.run import run_batches
from gpt4image.describe.clients import Session
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.question import Question, read_extra_body, read_prompts, read_values
from gpt4image.describe.runner import Ledger, RunSettings, run_tasks
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker, Tasks, all_tasks, plan_tasks
from gpt4image.describe.workers.run_folder import wait_for_workers
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.records import record_from
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.llm.base import Sampling
from gpt4image.llm.batch_api import BatchServer
from gpt4image.llm.budget import Budget
from gpt4image.llm.credentials import key_for


@dataclass(frozen=True)
class DescribeJob:
    """Everything that describing needs; created by `open_job`.

    Attributes:
        images: the images.
        rows: positions of the images to describe in the table, int64 [n].
        question: what is asked.
        store: the descriptions so far.
        session: the describers.
        options: the user's settings.
        confused: labels of the classes that each class is confused with, by label, for prompts that name them.
    """

    images: ImageTable
    rows: np.ndarray
    question: Question
    store: DescriptionStore
    session: Session
    options: DescribeOptions
    confused: Mapping[int, tuple[int, ...]] | None = None

    # Selecting tasks.

    def unanswered(self) -> Tasks:
        """List the tasks without an answer, including those in a batch."""
        retry = self.options.retry_failed
        return plan_tasks(self.images, self.rows, self.question, self.store, retry_failed=retry)

    def plan(self) -> Tasks:
        """List the tasks to ask now: those without an answer, except in batches, where they are already paid for."""
        return self._outside_batches(self.unanswered())

    def first(self, count: int) -> Tasks:
        """List the first tasks, answered or not: always the same ones, an even mixture of all classes."""
        return self._outside_batches(all_tasks(self.images, self.rows, self.question)).part(slice(count))

    @property
    def batch_folder(self) -> Path:
        """Folder with the state of batches."""
        return self.store.folder / "batches"

    def _outside_batches(self, tasks: Tasks) -> Tasks:
        if not self.batch_folder.exists():
            return tasks
        free = ~contains(keys_under_way(self.batch_folder), tasks.keys)
        return replace(tasks.part(free), in_batches=int((~free).sum()))

    # Running them.

    def run(
        self,
        tasks: Tasks,
        title: str = "Describe",
        budget: Budget | None = None,
        writer: RecordWriter | None = None,
    ) -> Tally:
        """Describe tasks in this process.

        Args:
            tasks: the tasks.
            title: title of the progress line.
            budget: the budget. Default: what is left of the user's budget.
            writer: writes the records and is closed at the end. Default: a new one.
        """
        if not len(tasks) and writer is None:
            return Tally(0)
        settings = RunSettings(image_seconds=self.options.image_seconds)
        with writer or self.store.writer() as records, self.store.conversations() as conversations:
            maker = RequestMaker(self.images, self.question, tasks)
            ledger = Ledger(maker, records, budget or self.budget(), conversations)
            return run_tasks(maker, self.session.describers, ledger, self.session.loop, settings, title=title)

    def run_in_batches(self, tasks: Tasks) -> Tally:
        """Describe tasks through a vendor's batch interface; collect the batches that are already under way too.

        Raises:
            DescribeError: no request can succeed, or the server is gone. Batches under way continue at the server.
            KeyboardInterrupt: the user stopped the job. Batches under way continue at the server.
        """
        place = self.session.describers[0].place
        server = BatchServer(self.question.model, place, key_for(place, self.options.key_env))
        budget = self.budget(batch=True)
        maker = RequestMaker(self.images, self.question, tasks)
        with self.store.writer() as writer:
            return run_batches(maker, server, self.store, writer, self.batch_folder, budget)

    def run_trial(self, tasks: Tasks, title: str) -> Tally:
        """Describe the tasks that have no answer, including failed ones.

        Texts of a question that was never run in full are trials: they are only displayed until it is. They are marked
        first, so that no kill turns a trial into training data.
        """
        missing = tasks.part(self.store.keys().pending(tasks.keys, retry_failed=True))
        maker, run_before = RequestMaker(self.images, self.question, missing), self.store.run_questions()
        asked = map(maker.record, range(len(missing)))
        new = [each.key for each in asked if (each.model, each.prompt_hash, each.settings) not in run_before]
        if new:
            self.store.mark(new, "trial", "trial")
        return self.run(missing, title)

    def trials(self) -> list[str]:
        """Return the keys of this job's tasks that are marked as trials."""
        trials = self.store.trial_keys()
        if not len(trials):  # listing all tasks takes a while
            return []
        ours = all_tasks(self.images, self.rows, self.question).keys
        return [key.decode() for key in ours[contains(trials, ours)].tolist()]

    def count_trials(self) -> None:
        """Turn the trials among this job's tasks into descriptions, because the job is now run in full."""
        if trials := self.trials():
            self.store.mark(trials, "keep", "run in full")

    def budget(self, *, batch: bool = False) -> Budget:
        """Return the user's budget, including what was spent on this model according to the store."""
        return self.budget_of(self.options.budget, self.store.spent(self.question.model).cost, batch=batch)

    def budget_of(self, dollars: float | None, spent: float, *, batch: bool = False) -> Budget:
        """Return a budget of some dollars, part of which is spent."""
        turns, most_out = max(len(prompt.turns) for prompt in self.question.prompts), self.options.max_tokens
        if batch:  # a batch asks and pays for one question of a conversation at a time
            return Budget(dollars, self.session.price, spent, most_out * turns, batch=True)
        return Budget(dollars, self.session.price, spent, most_out, turns=turns)

    def records_of(self, tasks: Tasks) -> list[DescriptionRecord]:
        """Return the existing records of some tasks."""
        keys = pa.array([key.decode() for key in tasks.keys.tolist()], pa.string())
        found = (batch.filter(pc.is_in(batch["key"], keys)) for batch in self.store.current_batches(dropped=True))
        return [record_from(values) for batch in found for values in batch.to_pylist()]


def open_job(
    images: ImageTable,
    store: DescriptionStore,
    session: Session,
    options: DescribeOptions,
    confused: Mapping[int, tuple[int, ...]] | None = None,
    *,
    pictures: bool = True,
) -> DescribeJob:
    """Put a job together.

    Args:
        images: the images.
        store: the descriptions so far.
        session: the describers.
        options: the user's settings.
        confused: labels of the classes that each class is confused with, by label, for prompts that name them.
        pictures: whether the images are sent.

    Raises:
        ConfigError: an invalid prompt, placeholder or setting.
    """
    extra_body = None if options.extra_body is None else read_extra_body(options.extra_body)
    question = Question(
        model=session.model,
        prompts=read_prompts(options),
        values=read_values(images, options, confused),
        sampling=Sampling(options.max_tokens, options.temperature, options.top_p, options.seed, extra_body),
        samples=options.samples,
        max_side=options.max_side or None,
        retry_temperature=options.retry_temperature,
        pictures=pictures,
        frames=images.frames,
    )
    splits = set(options.splits)
    if "train" in splits and not images.is_labelled[images.split("validation")].all():
        splits.add("validation")  # text labels judge these images
    rows = np.concatenate([images.split(split) for split in SPLITS if split in splits])
    return DescribeJob(images, rows, question, store, session, options, confused)


def describe_lock(store: DescriptionStore) -> Path:
    """Return the lock of the process that controls what is written to a store."""
    return store.folder / "describe.lock"


@contextmanager
def hold_store(store: DescriptionStore) -> Iterator[None]:
    """Keep other processes from describing into the same store; compact it before and after.

    Raises:
        BusyError: another process describes into it. Workers left behind by a killed process are waited for.
    """
    with exclusive(describe_lock(store), f"the descriptions in {store.folder}"):
        wait_for_workers(store)
        store.compact()
        try:
            yield
        finally:
            store.compact()
