"""A recorded set as a describer: what was answered once is answered again, without a server and without cost."""

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
from gpt4image.descriptions.prompts import Strategy
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.latest import to_keys
from gpt4image.descriptions.store.records import SCHEMA
from gpt4image.descriptions.store.shards import BATCH_ROWS, to_batch
from gpt4image.llm.base import DescribeRequest, OnAnswer, Reply, RequestFailedError

ORDER = ("image_id", "prompt_hash", "sample", "created", "key")


COLUMNS = (*ORDER, "text", "model", "served_model", "prompt", "finish_reason", "tokens_in", "tokens_out")


class Recording:
    """The answers of one model.

    Args:
        place: an exported folder, one of its files, or a work directory.
        model: the model; may be left out where there is one.

    Attributes:
        place: where it lies.
        model: the model.
        prompts: names of the recorded prompts by hash.

    Raises:
        DescriptionError: a file is broken (file and row are named).
        DescribeError: it holds no answer, or not of that model; the message lists the models.
    """

    def __init__(self, place: Path, model: str | None = None) -> None:
        self.place = place
        answers = read_answers(place)
        self.model = choose_model(pc.unique(answers["model"]).to_pylist(), model, place)
        answers = answers.filter(pc.equal(answers["model"], self.model))
        self._answers = answers.sort_by([(name, "ascending") for name in ORDER])
        named = zip(self._answers["prompt_hash"].to_pylist(), self._answers["prompt"].to_pylist(), strict=True)
        self.prompts: dict[str, str] = dict(named)
        self._questions = to_questions(self._answers["image_id"], self._answers["prompt_hash"])
        keys = to_keys(self._answers["key"])
        self._by_key = np.argsort(keys, kind="stable")
        self._keys = keys[self._by_key]

    def __len__(self) -> int:
        return int(self._answers.num_rows)

    def find(self, key: str, image_id: str, prompt_hash: str, sample: int) -> dict[str, Any] | None:
        """The answer to exactly what is asked, else the one of that place among the answers to the prompt.

        Args:
            key: what is asked.
            image_id: the image.
            prompt_hash: the prompt.
            sample: number of the sample.

        Returns:
            The fields of a record, None where nothing was recorded.
        """
        same = int(np.searchsorted(self._keys, np.bytes_(key)))
        if same < len(self) and self._keys[same].decode() == key:
            return self._answer(int(self._by_key[same]))
        question = np.bytes_(image_id + prompt_hash)
        first, end = (int(np.searchsorted(self._questions, question, side)) for side in ("left", "right"))
        return self._answer(first + sample) if first + sample < end else None

    def _answer(self, row: int) -> dict[str, Any]:
        found: dict[str, Any] = self._answers.slice(row, 1).to_pylist()[0]
        return found


def to_questions(image_ids: pa.ChunkedArray, prompt_hashes: pa.ChunkedArray) -> np.ndarray:
    """Image and prompt together, S64 [N]."""
    pairs = zip(image_ids.to_pylist(), prompt_hashes.to_pylist(), strict=True)
    return np.asarray([image_id + prompt_hash for image_id, prompt_hash in pairs], dtype="S64")


def choose_model(recorded: list[str], wanted: str | None, place: Path) -> str:
    """The model to replay. DescribeError lists those that were recorded where it is not clear."""
    if not recorded:
        raise DescribeError(f"{place} holds no answers. Name a set that gpt4image has exported, or a work directory.")
    if wanted is None and len(recorded) > 1:
        raise DescribeError(
            f"{place} holds answers of several models: {', '.join(sorted(recorded))}. Name one: --model."
        )
    if wanted is not None and wanted not in recorded:
        raise DescribeError(f"{place}: {unknown_name('model', wanted, recorded)}")
    return wanted or recorded[0]


def read_answers(place: Path) -> pa.Table:
    """All answers of a recording."""
    folder = store_folder(place)
    batches = stored_answers(folder) if folder else shared_answers(place)
    table = pa.Table.from_batches([batch.select(COLUMNS) for batch in batches], part_of(SCHEMA))
    return table.set_column(COLUMNS.index("text"), "text", table["text"].cast(pa.large_string()))


def part_of(schema: pa.Schema) -> pa.Schema:
    """The columns that a recording has."""
    return pa.schema([schema.field(name) for name in COLUMNS])


def stored_answers(folder: Path) -> Iterator[pa.RecordBatch]:
    """Answers of a store that count, failures left out."""
    for batch in DescriptionStore(folder).current_batches():
        yield batch.filter(batch["error"].is_null())


def shared_answers(place: Path) -> Iterator[pa.RecordBatch]:
    """Answers of a shared set."""
    records = shared_records(place)
    while rows := list(islice(records, BATCH_ROWS)):
        yield to_batch(rows)


def shared_records(place: Path) -> Iterator[DescriptionRecord]:
    """Records of a shared set. DescribeError for rows that do not say what they answer."""
    for file in shared_files(place):
        if not has_provenance(file):
            raise DescribeError(f"{file} does not say what its texts answer, so they cannot be replayed: import them.")
        for number, row in read_shared_rows(file):
            if row.image_id is None:
                raise DescribeError(f"{file}, row {number}: has no image_id, by which answers are found.")
            yield row.record(row.image_id)


NOT_RECORDED = "not recorded"


MAX_CONCURRENCY = 64


class ReplayDescriber:
    """Answers from a recorded set.

    An answer is found by image, prompt and number of the sample, whatever the sampling and the size of the picture
    were. The answers of a conversation come as the one text that was made of them.

    Args:
        recording: an exported folder, one of its files, or a work directory.
        model: the recorded model; may be left out where there is one.
        strategies: the prompts that are going to be asked, for `check`.

    Raises:
        DescriptionError: the recording is broken (file and row are named).
        DescribeError: it holds no answer, or not of that model; the message lists the models.
    """

    name = "replay"

    def __init__(self, recording: Path | str, *, model: str | None = None, strategies: Sequence[Strategy] = ()) -> None:
        self._recording = Recording(Path(recording), model)
        self._strategies = strategies
        self.model, self.place, self.max_concurrency = self._recording.model, str(recording), MAX_CONCURRENCY

    async def check(self) -> None:
        """Find out whether the prompts were recorded. DescribeError names those that were."""
        for strategy in self._strategies:
            self._require(strategy.hash, f"{strategy.name!r} as it is now")

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer | None = None) -> Reply:
        """The recorded answer."""
        self._require(request.prompt_hash, f"of hash {request.prompt_hash}")
        found = self._recording.find(request.key, request.image_id, request.prompt_hash, request.sample)
        if found is None:
            raise RequestFailedError(NOT_RECORDED, f"{request.name}, sample {request.sample}", retryable=False)
        return Reply(
            texts=(found["text"],),
            finish_reason=found["finish_reason"],
            tokens_in=found["tokens_in"],
            tokens_out=found["tokens_out"],
            model=found["served_model"] or self.model,
        )

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _require(self, prompt_hash: str, called: str) -> None:
        """DescribeError unless a prompt was recorded; another text under the same name is another prompt."""
        prompts = self._recording.prompts
        if prompt_hash not in prompts:
            recorded = ", ".join(f"{name} ({known or 'hash not known'})" for known, name in sorted(prompts.items()))
            raise DescribeError(
                f"{self.place} holds no answer of {self.model} to the prompt {called}. Recorded: {recorded}. Ask one "
                "of these in the words that were recorded: --prompts NAME, --prompt-file FILE."
            )
