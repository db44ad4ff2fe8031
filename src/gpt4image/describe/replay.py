"""A recorded set as a describer: replays recorded answers, without a server and without cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import DescribeError
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.exchange.rows import has_provenance, read_shared_rows, shared_files, store_folder
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.latest import to_keys
from gpt4image.descriptions.store.records import SCHEMA
from gpt4image.descriptions.store.shards import BATCH_ROWS, to_batch
from gpt4image.llm.base import (
    CUT_OFF_THINKING,
    NOT_RECORDED,
    ONLY_THOUGHT,
    DescribeRequest,
    OnAnswer,
    Reply,
    RequestFailedError,
)
from gpt4image.llm.thinking import strip_thinking

ORDER = ("image_id", "prompt_hash", "sample", "created", "key")
COLUMNS = (*ORDER, "text", "model", "served_model", "prompt", "finish_reason", "tokens_in", "tokens_out")


class ReplayDescriber:
    """Answers from a recorded set.

    It finds an answer by image, prompt and sample number, regardless of sampling and picture size. A conversation is
    replayed as a single text.

    Args:
        recording: an exported folder, one of its files, or a work directory.
        model: the recorded model; optional if there is only one.
        prompts: the prompts that will be asked, for `check`.

    Raises:
        DescriptionError: the recording is broken (the message names file and row).
        DescribeError: it has no answers, or none of that model; the message lists the models.
    """

    name = "replay"
    max_concurrency = 64

    def __init__(self, recording: Path | str, *, model: str | None = None, prompts: Sequence[Prompt] = ()) -> None:
        self.place, self._prompts = str(recording), prompts
        answers = read_answers(Path(recording))
        self.model = choose_model(pc.unique(answers["model"]).to_pylist(), model, self.place)
        answers = answers.filter(pc.equal(answers["model"], self.model))
        self._answers = answers.sort_by([(name, "ascending") for name in ORDER])  # [N]
        image_ids, hashes = (self._answers[name].to_pylist() for name in ("image_id", "prompt_hash"))
        self._recorded: dict[str, str] = dict(zip(hashes, self._answers["prompt"].to_pylist(), strict=True))
        # Image and prompt together, S64 [N], in the order of the answers: samples of a question are adjacent.
        self._questions = np.asarray([image + prompt for image, prompt in zip(image_ids, hashes, strict=True)], "S64")
        keys = to_keys(self._answers["key"])
        self._by_key = np.argsort(keys, kind="stable")  # positions of the answers, int64 [N]
        self._keys = keys[self._by_key]  # S32 [N], sorted

    async def check(self) -> None:
        """Check that the prompts were recorded. Otherwise DescribeError names the recorded ones."""
        for prompt in self._prompts:
            self._require(prompt.hash, f"{prompt.name!r} as it is now")

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer | None = None) -> Reply:
        """Return the recorded answer."""
        self._require(request.prompt_hash, f"of hash {request.prompt_hash}")
        row = self._find(request)
        if row is None:
            raise RequestFailedError(NOT_RECORDED, f"{request.name}, sample {request.sample}", retryable=False)
        found: dict[str, Any] = self._answers.slice(row, 1).to_pylist()[0]
        text = strip_thinking(found["text"])
        if found["text"] and not text:
            reason = ONLY_THOUGHT if found["finish_reason"] == "stop" else CUT_OFF_THINKING
            raise RequestFailedError(reason, f"recorded: {found['text'][:200]}", retryable=False)
        return Reply(
            texts=(text,),
            finish_reason=found["finish_reason"],
            tokens_in=found["tokens_in"],
            tokens_out=found["tokens_out"],
            model=found["served_model"] or self.model,
        )

    async def close(self) -> None:
        """Do nothing, because no file is open."""

    def _find(self, request: DescribeRequest) -> int | None:
        """Find the answer with the same key, else the prompt's answer with the same sample number."""
        same = int(np.searchsorted(self._keys, np.bytes_(request.key)))
        if same < len(self._keys) and self._keys[same].decode() == request.key:
            return int(self._by_key[same])
        question = np.bytes_(request.image_id + request.prompt_hash)
        first, end = (int(np.searchsorted(self._questions, question, side)) for side in ("left", "right"))
        return first + request.sample if first + request.sample < end else None

    def _require(self, prompt_hash: str, called: str) -> None:
        """Raise DescribeError unless a prompt was recorded; a changed text makes it another prompt."""
        if prompt_hash not in self._recorded:
            prompts = sorted(self._recorded.items())
            recorded = ", ".join(f"{name} ({known or 'hash not known'})" for known, name in prompts)
            raise DescribeError(
                f"{self.place} has no answer of {self.model} to the prompt {called}. Recorded: {recorded}. Use one of "
                "these, unchanged: prompts (--prompts), prompt_file (--prompt-file)."
            )


def choose_model(recorded: list[str], wanted: str | None, place: str) -> str:
    """Return the model to replay. If it is ambiguous, DescribeError lists the recorded ones."""
    if not recorded:
        raise DescribeError(f"{place} has no answers. Name a set exported by gpt4image, or a work directory.")
    if wanted is None and len(recorded) > 1:
        raise DescribeError(
            f"{place} has answers of several models: {', '.join(sorted(recorded))}. Name one as model (--model)."
        )
    if wanted is not None and wanted not in recorded:
        raise DescribeError(f"{place}: {unknown_name('model', wanted, recorded)}")
    return wanted or recorded[0]


def read_answers(place: Path) -> pa.Table:
    """Read all answers of a recording, [N] with COLUMNS."""
    folder = store_folder(place)
    batches = stored_answers(folder) if folder else shared_answers(place)
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    table = pa.Table.from_batches([batch.select(COLUMNS) for batch in batches], schema)
    # 64-bit offsets: sorting joins the chunks of a column, and all texts together may exceed 2 GiB.
    return table.set_column(COLUMNS.index("text"), "text", table["text"].cast(pa.large_string()))


def stored_answers(folder: Path) -> Iterator[pa.RecordBatch]:
    """Yield the current answers of a store, without failures."""
    for batch in DescriptionStore(folder).current_batches(trials=True):
        yield batch.filter(batch["error"].is_null())


def shared_answers(place: Path) -> Iterator[pa.RecordBatch]:
    """Yield the answers of a shared set."""
    records = shared_records(place)
    while rows := list(islice(records, BATCH_ROWS)):
        yield to_batch(rows)


def shared_records(place: Path) -> Iterator[DescriptionRecord]:
    """Yield the records of a shared set. DescribeError for rows that do not record their question."""
    for file in shared_files(place):
        if not has_provenance(file):
            raise DescribeError(
                f"{file} does not record which questions its texts answer, so they cannot be replayed: import them."
            )
        for where, row in read_shared_rows(file):
            if row.image_id is None:
                raise DescribeError(f"{where}: has no image_id, which is needed to find answers.")
            yield row.record(row.image_id)
