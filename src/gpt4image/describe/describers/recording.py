"""What models have answered before, found again by image and prompt. Texts lie in Arrow memory, not in objects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.describe.sharing.rows import has_provenance, read_shared_rows, shared_files, store_folder
from gpt4image.describe.store import DescriptionRecord, DescriptionStore
from gpt4image.describe.store.latest import to_keys
from gpt4image.describe.store.parts import BATCH_ROWS, to_batch
from gpt4image.describe.store.records import SCHEMA
from gpt4image.errors import DescribeError
from gpt4image.seams import unknown_name

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
