"""All descriptions that were paid for, and decisions about them."""

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
from gpt4image.descriptions.store.latest import KEY_TYPE, decided_later, find_sorted, latest_batches, to_keys
from gpt4image.descriptions.store.records import (
    RECORD_FIELDS,
    DescriptionRecord,
    Mark,
    MarkKind,
    record_from,
    record_line,
)
from gpt4image.descriptions.store.shards import (
    RecordWriter,
    add_shard,
    is_closed,
    list_shards,
    merge_shards,
    now,
    read_shard,
    worth_merging,
)


class DescriptionStore:
    """The descriptions of a work directory.

    Each process only appends records, and only to its own shard, so the store is intact after `kill -9` at any moment.
    If a key has several records, `latest` decides which one counts; later marks override that.

    Args:
        folder: the store's folder: `parts/` (shards), `turns/` (open conversations), `marks.jsonl`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._shards = self.folder / "parts"
        self._marks = self.folder / "marks.jsonl"
        self._turns = self.folder / "turns"

    @property
    def is_empty(self) -> bool:
        """Whether the store has no records."""
        return not list_shards(self._shards)

    def writer(self) -> RecordWriter:
        """Create a shard to write to; use it as a context manager."""
        return RecordWriter(self._shards)

    def conversations(self) -> Conversations:
        """Return the open conversations; use it as a context manager."""
        return Conversations(self._turns, self._open_turns())

    def abandoned_turns(self) -> list[Turn]:
        """Return the turns of open conversations that no running process is working on."""
        turns = read_turns(path for path in turn_files(self._turns) if is_closed(path))
        return open_turns(turns, self._outcomes(turns))

    def add_all(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Add many records atomically: all of them or, if `batches` raises or the process is killed, none.

        Args:
            batches: records with the columns of `SCHEMA`.

        Returns:
            The number of records.

        Raises:
            BusyError: another process is adding records to the store.
        """
        with exclusive(self.folder / "add.lock", f"adding descriptions to {self.folder}"):
            return add_shard(batches, self._shards)

    def keys(self) -> KeyStates:
        """Return the answered and the failed keys, taking `retry` marks into account."""
        answered, failed = [np.empty(0, KEY_TYPE)], [np.empty(0, KEY_TYPE)]
        reasons = [np.empty(0, object)]
        retried = {key: mark.created for key, mark in self.marks().items() if mark.verdict == "retry"}
        for batch in self._batches(("key", "error", "created")):
            keys = to_keys(batch["key"])
            good = np.asarray(pc.is_null(batch["error"]).to_numpy(zero_copy_only=False), dtype=bool)
            counts = ~decided_later(batch, retried) & (keys != b"")
            answered.append(keys[good & counts])
            failed.append(keys[~good & counts])
            reasons.append(np.asarray(batch["error"].filter(pa.array(~good & counts)).to_pylist(), dtype=object))
        done = sort_distinct(np.concatenate(answered))
        without, at = np.unique(np.concatenate(failed), return_index=True)
        left = ~contains(done, without)
        return KeyStates(done, without[left], np.concatenate(reasons)[at][left])

    def records(self) -> Iterator[DescriptionRecord]:
        """Yield every record, including failures, superseded ones and payments."""
        for batch in self._batches():
            yield from map(record_from, batch.to_pylist())

    def current(self, *, dropped: bool = False, trials: bool = False) -> list[DescriptionRecord]:
        """Return the current record of every key: its answer or, if it has none, its failure.

        Args:
            dropped: include texts that a mark excludes, and trials.
            trials: include trials: texts of a prompt that was never run in full.

        Returns:
            Records sorted by image id, prompt, model and sample.
        """
        batches = self.current_batches(dropped=dropped, trials=trials)
        found = (record_from(values) for batch in batches for values in batch.to_pylist())
        return sorted(found, key=lambda r: (r.image_id, r.prompt, r.prompt_hash, r.model, r.sample, r.key))

    def current_batches(self, *, dropped: bool = False, trials: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the same as `current`, but in unsorted batches, without keeping all texts in memory."""
        yield from latest_batches(list_shards(self._shards), self.marks(), dropped=dropped, trials=dropped or trials)

    def trial_keys(self) -> np.ndarray:
        """Return the keys marked as trials, S32, sorted."""
        return np.unique(
            np.asarray([key for key, mark in self.marks().items() if mark.verdict == "trial"], dtype=KEY_TYPE)
        )

    def run_questions(self) -> set[tuple[str, ...]]:
        """Return model, prompt hash and settings of everything that was asked, except trials."""
        columns, trials = ("model", "prompt_hash", "settings"), pa.array(self.trial_keys().astype(str), pa.string())
        found: set[tuple[str, ...]] = set()
        for batch in self._batches(("key", *columns)):
            no_trial = pc.invert(pc.or_(pc.is_in(batch["key"], trials), pc.equal(batch["key"], "")))
            distinct = pa.Table.from_batches([batch.filter(no_trial)]).group_by(columns).aggregate([])
            found.update(zip(*(distinct[column].to_pylist() for column in columns), strict=True))
        return found

    def payments(self) -> Iterator[DescriptionRecord]:
        """Yield the payments: money spent on tasks without an outcome."""
        for batch in self._batches(tuple(name for name in RECORD_FIELDS if name != "text")):
            yield from map(record_from, batch.filter(pc.equal(batch["key"], "")).to_pylist())

    def spent(self, model: str | None = None) -> Spent:
        """Add up the cost of all calls so far, including failures, payments and open conversations.

        Args:
            model: count only this model.
        """
        spent = Spent()
        for batch in self._batches(("model", "cost", "tokens_in", "tokens_out")):
            rows = batch if model is None else batch.filter(pc.equal(batch["model"], model))
            spent += Spent(
                column_sum(rows["cost"]), int(column_sum(rows["tokens_in"])), int(column_sum(rows["tokens_out"]))
            )
        for turn in self._open_turns():
            if model is None or turn.model == model:
                spent += Spent(turn.cost or 0.0, turn.tokens_in or 0, turn.tokens_out or 0)
        return spent

    def failures(self) -> Counter[str]:
        """Count the keys that failed and have no answer, by reason."""
        return Counter(record.error for record in self.current() if record.error is not None)

    def mark(self, keys: Iterable[str], verdict: MarkKind, reason: str) -> int:
        """Mark descriptions and return their number."""
        lines = [record_line(Mark(key, verdict, reason, now())) for key in keys]
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "marks.lock", f"the marks in {self.folder}", wait=True):
            torn = self._marks.exists() and not self._marks.read_bytes().endswith(b"\n")
            with self._marks.open("ab") as file:
                file.write((b"\n" if torn else b"") + b"".join(lines))
        return len(lines)

    def marks(self) -> dict[str, Mark]:
        """Return the latest mark of each key."""
        if not self._marks.exists():
            return {}
        found: dict[str, Mark] = {}
        with self._marks.open("rb") as file:
            for line in file:
                try:
                    mark = Mark(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # torn by a kill
                found[mark.key] = mark
        return found

    def compact(self) -> None:
        """Merge closed shards into Parquet shards; does nothing while another process does so."""
        if not self._shards.exists() and not self._turns.exists():
            return
        try:
            with exclusive(self.folder / "compact.lock", f"the descriptions in {self.folder}"):
                self._remove_replaced()
                closed = [shard for shard in list_shards(self._shards) if is_closed(shard)]
                if merged := worth_merging(closed):
                    merge_shards(merged, self._shards)
                if turn_files(self._turns):
                    compact_turns(self._turns, self._outcomes(read_turns(turn_files(self._turns))))
        except BusyError:
            return

    def _remove_replaced(self) -> None:
        live = set(list_shards(self._shards))
        for shard in [*self._shards.glob("*.jsonl"), *self._shards.glob("*.parquet")]:
            if shard not in live:
                shard.unlink(missing_ok=True)

    def _open_turns(self) -> list[Turn]:
        turns = read_turns(turn_files(self._turns))
        return open_turns(turns, self._outcomes(turns))

    def _outcomes(self, turns: Sequence[Turn]) -> dict[str, str]:
        """Map the key of each finished conversation to the time of its latest record."""
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
        for shard in list_shards(self._shards):
            yield from read_shard(shard, columns)


@dataclass(frozen=True)
class KeyStates:
    """The state of all tasks by key.

    Attributes:
        answered: keys with an answer, sorted, S32 [N].
        failed: keys that failed and have no answer, sorted, S32 [M].
        reasons: why each of these failed, str [M].
    """

    answered: np.ndarray
    failed: np.ndarray
    reasons: np.ndarray

    def pending(self, keys: np.ndarray, *, retry_failed: bool) -> np.ndarray:
        """Return which of the keys, S32 [N], have not been described yet, bool [N]."""
        todo = ~contains(self.answered, keys)
        return todo if retry_failed else todo & ~contains(self.failed, keys)


@dataclass(frozen=True)
class Spent:
    """US dollars and tokens."""

    cost: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cost + other.cost, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out)


def sort_distinct(keys: np.ndarray) -> np.ndarray:
    """Sort keys [N] and drop repeated ones, S32 [M]; several times faster than `np.unique`, which hashes texts."""
    ordered = np.sort(keys)
    return np.asarray(ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]])


def contains(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return which of the keys [N] are among sorted values, bool [N]."""
    return np.asarray(find_sorted(values, keys) >= 0)


def column_sum(column: pa.Array) -> float:
    """Sum a column; 0 if it is empty."""
    return pc.sum(column).as_py() or 0
