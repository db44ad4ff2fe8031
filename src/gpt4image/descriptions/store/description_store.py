"""All descriptions ever paid for, and what has become of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import BusyError
from gpt4image.core.files import exclusive
from gpt4image.descriptions.store.conversations import (
    Conversations,
    Turn,
    compact_turns,
    open_turns,
    read_turns,
    turn_files,
)
from gpt4image.descriptions.store.latest import KEY_TYPE, decided_later, latest_batches, to_keys
from gpt4image.descriptions.store.records import (
    RECORD_FIELDS,
    DescriptionRecord,
    Mark,
    Verdict,
    record_from,
    record_line,
)
from gpt4image.descriptions.store.shards import (
    RecordWriter,
    add_part,
    is_closed,
    list_parts,
    merge_parts,
    now,
    read_part,
)


class DescriptionStore:
    """The descriptions of a work directory.

    Every process writes into a part of its own; parts are whole after `kill -9` at any moment. Nothing is ever
    changed: a later record of the same key, or a mark, counts more than an earlier record.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._parts = self.folder / "parts"
        self._marks = self.folder / "marks.jsonl"
        self._turns = self.folder / "turns"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever described here."""
        return not list_parts(self._parts)

    def writer(self) -> RecordWriter:
        """A new part to write to; use it as a context manager."""
        return RecordWriter(self._parts)

    def conversations(self) -> Conversations:
        """Conversations that were begun, to go on with and to add to; use it as a context manager."""
        return Conversations(self._turns, self._open_turns())

    def abandoned_turns(self) -> list[Turn]:
        """Answers to conversations without an outcome that no process has under way."""
        turns = read_turns(path for path in turn_files(self._turns) if is_closed(path))
        return open_turns(turns, self._outcomes(turns))

    def add_all(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Add many records at once, all of them or, where `batches` raises or the process is killed, none.

        Args:
            batches: records with the columns of `SCHEMA`; nobody else adds any while they are read.

        Returns:
            How many there were.

        Raises:
            BusyError: another process is adding records to the store.
        """
        with exclusive(self.folder / "add.lock", f"adding descriptions to {self.folder}"):
            return add_part(batches, self._parts)

    def keys(self) -> KeyStates:
        """Which keys are answered and which failed, 32 bytes each. Marks are taken into account."""
        answered, failed = [np.empty(0, KEY_TYPE)], [np.empty(0, KEY_TYPE)]
        retried = {key: mark.created for key, mark in self.marks().items() if mark.verdict == "retry"}
        for batch in self._batches(("key", "error", "created")):
            keys = to_keys(batch["key"])
            good = np.asarray(pc.is_null(batch["error"]).to_numpy(zero_copy_only=False), dtype=bool)
            counts = ~decided_later(batch, retried) & (keys != b"")
            answered.append(keys[good & counts])
            failed.append(keys[~good & counts])
        done = np.unique(np.concatenate(answered))
        return KeyStates(done, np.setdiff1d(np.concatenate(failed), done))

    def records(self) -> Iterator[DescriptionRecord]:
        """Every record, failures, replaced ones and payments included, part by part."""
        for batch in self._batches():
            yield from map(record_from, batch.to_pylist())

    def current(self, *, dropped: bool = False) -> list[DescriptionRecord]:
        """The latest record of every key that counts: its answer, or its failure where it has none.

        Args:
            dropped: also those that were marked to be left out.

        Returns:
            Records in the order of image id, prompt, model and sample.
        """
        batches = self.current_batches(dropped=dropped)
        found = (record_from(values) for batch in batches for values in batch.to_pylist())
        return sorted(found, key=lambda r: (r.image_id, r.prompt, r.prompt_hash, r.model, r.sample, r.key))

    def current_batches(self, *, dropped: bool = False) -> Iterator[pa.RecordBatch]:
        """What `current` returns, batch by batch in no particular order: texts are never all in memory."""
        parts = list_parts(self._parts)
        yield from latest_batches(parts, self.marks(), dropped=dropped)

    def payments(self) -> Iterator[DescriptionRecord]:
        """Money that was spent without an outcome."""
        for batch in self._batches(tuple(name for name in RECORD_FIELDS if name != "text")):
            yield from map(record_from, batch.filter(pc.equal(batch["key"], "")).to_pylist())

    def spent(self, model: str | None = None) -> Spent:
        """What all calls so far have cost, failures, payments and conversations under way included.

        Args:
            model: of that model alone.
        """
        spent = Spent()
        for batch in self._batches(("model", "cost", "tokens_in", "tokens_out")):
            rows = batch if model is None else batch.filter(pc.equal(batch["model"], model))
            spent += Spent(total(rows["cost"]), int(total(rows["tokens_in"])), int(total(rows["tokens_out"])))
        for turn in self._open_turns():
            if model is None or turn.model == model:
                spent += Spent(turn.cost or 0.0, turn.tokens_in or 0, turn.tokens_out or 0)
        return spent

    def failures(self) -> Counter[str]:
        """Reasons of the keys that failed and have no answer, with their counts."""
        return Counter(record.error for record in self.current() if record.error is not None)

    def mark(self, keys: Iterable[str], verdict: Verdict, reason: str) -> int:
        """Decide about descriptions; returns how many."""
        lines = [record_line(Mark(key, verdict, reason, now())) for key in keys]
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "marks.lock", f"the marks in {self.folder}", wait=True):
            torn = self._marks.exists() and not self._marks.read_bytes().endswith(b"\n")
            with self._marks.open("ab") as file:
                file.write((b"\n" if torn else b"") + b"".join(lines))
        return len(lines)

    def marks(self) -> dict[str, Mark]:
        """The latest mark of each key."""
        if not self._marks.exists():
            return {}
        found: dict[str, Mark] = {}
        with self._marks.open("rb") as file:
            for line in file:
                try:
                    mark = Mark(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # the end of a killed process's writing
                found[mark.key] = mark
        return found

    def compact(self) -> None:
        """Put what is no longer written to into one Parquet part; skipped while another process does so."""
        if not self._parts.exists() and not self._turns.exists():
            return
        try:
            with exclusive(self.folder / "compact.lock", f"the descriptions in {self.folder}"):
                self._remove_replaced()
                closed = [part for part in list_parts(self._parts) if is_closed(part)]
                if any(part.suffix == ".jsonl" for part in closed):
                    merge_parts(closed, self._parts)
                if turn_files(self._turns):
                    compact_turns(self._turns, self._outcomes(read_turns(turn_files(self._turns))))
        except BusyError:
            return

    def _remove_replaced(self) -> None:
        live = set(list_parts(self._parts))
        for part in [*self._parts.glob("*.jsonl"), *self._parts.glob("*.parquet")]:
            if part not in live:
                part.unlink(missing_ok=True)

    def _open_turns(self) -> list[Turn]:
        turns = read_turns(turn_files(self._turns))
        return open_turns(turns, self._outcomes(turns))

    def _outcomes(self, turns: Sequence[Turn]) -> dict[str, str]:
        """When the latest outcome was written of each description that answers are kept for, if there is one."""
        found: dict[str, str] = {}
        if not turns:
            return found
        keys = pa.array({turn.key for turn in turns}, pa.string())
        for batch in self._batches(("key", "created")):
            rows = batch.filter(pc.is_in(batch["key"], keys))
            for key, created in zip(rows["key"].to_pylist(), rows["created"].to_pylist(), strict=True):
                found[key] = max(found.get(key, ""), created)
        return found

    def _batches(self, columns: Sequence[str] = RECORD_FIELDS) -> Iterator[pa.RecordBatch]:
        for part in list_parts(self._parts):
            yield from read_part(part, columns)


@dataclass(frozen=True)
class KeyStates:
    """What is known of keys.

    Attributes:
        answered: keys with an answer, sorted, S32.
        failed: keys that failed and have no answer, sorted, S32.
    """

    answered: np.ndarray
    failed: np.ndarray

    def pending(self, keys: np.ndarray, *, retry_failed: bool) -> np.ndarray:
        """Which of the keys (S32 [N]) are still to be asked, bool [N]."""
        todo = ~contains(self.answered, keys)
        return todo if retry_failed else todo & ~contains(self.failed, keys)


@dataclass(frozen=True)
class Spent:
    """Money in US dollars, and tokens."""

    cost: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cost + other.cost, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out)


def contains(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which of the keys [N] are among sorted values, bool [N]."""
    if not len(values):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(values, keys), len(values) - 1)
    return np.asarray(values[at] == keys)


def total(column: pa.Array) -> float:
    """Sum of a column, 0 where it is empty."""
    return pc.sum(column).as_py() or 0
