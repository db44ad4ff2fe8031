"""Batches against the stub server, in this process or in another one that can be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import openai

from gpt4image import load_images
from gpt4image.core.console import command_output
from gpt4image.describe.batch.run import BatchSettings, run_batches
from gpt4image.describe.question import Question
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.llm.base import Sampling
from gpt4image.llm.batch_api import OVER, BatchServer
from gpt4image.llm.budget import Budget
from gpt4image.llm.credentials import ApiKey
from gpt4image.llm.prices import Price
from support.forks import start_forked
from support.stub_scenario import MODEL, Entry

IMAGES = 36
QUICK: dict[str, Any] = {"first_pause": 0.02, "longest_pause": 0.1, "create_seconds": 0.5, "down_seconds": 60.0}
PRICE = Price(1.0, 5.0, batch=0.5)


def store_of(work: Path) -> DescriptionStore:
    return DescriptionStore(work / "descriptions")


def state_of(work: Path) -> Path:
    return work / "descriptions" / "batches"


def make_maker(
    image_set: Path, work: Path, prompts: Sequence[str] = ("plain",), model: str = MODEL, *, retry_failed: bool = False
) -> RequestMaker:
    """Return all images of a set as requests, without those that have an outcome."""
    images = load_images(image_set, work=work, validation_share=0.2, test_share=0.2)
    strategies = tuple(load_prompts(prompts))
    question = Question(model, strategies, PromptValues(images.classes), Sampling(max_tokens=50))
    tasks = plan_tasks(images, np.arange(len(images)), question, store_of(work), retry_failed=retry_failed)
    return RequestMaker(images, question, tasks)


def batched(
    image_set: Path,
    work: Path,
    url: str,
    prompts: Sequence[str] = ("plain",),
    *,
    model: str = MODEL,
    key: ApiKey | None = None,
    dollars: float | None = None,
    retry_failed: bool = False,
    **settings: Any,
) -> Tally:
    store, maker = store_of(work), make_maker(image_set, work, prompts, model, retry_failed=retry_failed)
    budget = Budget(dollars, PRICE, store.spent(model).cost, 50 * 3, batch=True)
    with store.writer() as writer:
        patience = BatchSettings(**{**QUICK, **settings})
        return run_batches(maker, BatchServer(model, url, key), store, writer, state_of(work), budget, patience)


def records(work: Path) -> list[DescriptionRecord]:
    """Return all records in the order written."""
    return list(store_of(work).records())


def leftovers(work: Path) -> list[str]:
    """Return the files of batches that are left, apart from the lock."""
    state = state_of(work)
    return [str(path.relative_to(state)) for path in state.rglob("*") if path.is_file() and path.name != "lock"]


def settle(url: str) -> None:
    """Finish every batch at the server, even ones that nobody waits for; check that no file is left."""
    with openai.OpenAI(base_url=url, api_key="none") as api:
        for batch in api.batches.list(limit=100):
            while api.batches.retrieve(batch.id).status not in OVER:
                time.sleep(0.02)
        assert not api.files.list().data


def count(log: Sequence[Entry], endpoint: str) -> int:
    return sum(entry.endpoint == endpoint for entry in log)


def client(image_set: Path, work: Path, url: str, options: dict[str, Any]) -> None:
    """Run `batched` and write what the user sees to a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
    work.mkdir(parents=True, exist_ok=True)
    with (work / "seen.txt").open("ab") as seen:
        os.dup2(seen.fileno(), 2)
        with command_output():
            batched(image_set, work, url, **options)


def start_client(image_set: Path, work: Path, url: str, **options: Any) -> BaseProcess:
    """Start a process that runs `batched`; it starts fast because its libraries are loaded already."""
    return start_forked(client, image_set, work, url, options)
