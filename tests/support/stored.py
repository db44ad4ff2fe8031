"""A store filled as describing fills it: several prompts, samples, failures, dropped texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpt4image.describe.question import Question
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.llm.base import Sampling

CREATED = "2026-02-03T04:05:06.000007+00:00"


def ask(model: str, prompts: Sequence[str] = ("plain", "questions"), samples: int = 1) -> Question:
    """Return a question to a model."""
    sampling = Sampling(max_tokens=100, temperature=0.5 if samples > 1 else None)
    return Question(
        model, tuple(load_prompts(prompts)), PromptValues(("blue", "green", "red")), sampling, samples=samples
    )


def answers(images, question: Question, store: DescriptionStore, rows=None) -> list[DescriptionRecord]:
    """Return a record for every task without an answer, each with a text of its own."""
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    maker = RequestMaker(images, question, plan_tasks(images, rows, question, store))
    return [answered(maker.record(number)) for number in range(len(maker))]


def answered(record: DescriptionRecord) -> DescriptionRecord:
    return replace(
        record,
        text=f'{record.prompt} {record.sample} of {record.model}\n"sees" {record.image_id}\u2028\x00é',
        describer="openai",
        served_model=f"{record.model}-2026",
        tokens_in=800,
        tokens_out=None if record.key[0] == "0" else 60,
        cost=0.25,
        finish_reason="stop",
        seconds=1.537,
        created=CREATED,
    )


def fill(folder: Path, images, *questions: Question, rows=None) -> DescriptionStore:
    """Return the store of a work directory, with an answer to every task."""
    store = DescriptionStore(folder / "descriptions")
    for question in questions:
        with store.writer() as writer:
            for record in answers(images, question, store, rows):
                writer.write(record)
    return store


def shared_rows(folder: Path) -> list[dict]:
    """Return the rows of an exported set's `metadata.jsonl`."""
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().split(b"\n") if line]
