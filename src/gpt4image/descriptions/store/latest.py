"""Select the current record of each key, without keeping texts in memory.

An answer takes precedence over a failure, and a later record over an earlier one. A `retry` mark voids earlier answers:
they count only until a new answer arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.descriptions.store.records import Mark
from gpt4image.descriptions.store.shards import read_shard

KEY_TYPE = "S32"

# Sorts after every date.
AFTER_ALL = "~"


@dataclass(frozen=True)
class RecordStatus:
    """The properties that decide which records count; one array entry per record, [N].

    Attributes:
        keys: S32.
        created: timestamps as bytes that sort chronologically.
        answered: whether the record has a text, bool.
        void: whether a later `retry` mark voids the answer, bool.
        dropped: whether a later mark excludes the text, bool.
    """

    keys: np.ndarray
    created: np.ndarray
    answered: np.ndarray
    void: np.ndarray
    dropped: np.ndarray

    def latest(self, *, dropped: bool) -> np.ndarray:
        """Select the current record of each key, bool [N]. Payments have no key and are never selected."""
        # By key, then valid answers last, then answers, then by time: the last record of each key counts.
        order = np.lexsort((self.created, self.answered, self.answered & ~self.void, self.keys))
        ordered = self.keys[order]
        last = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]
        found = np.zeros(len(order), dtype=bool)
        found[order[last]] = True
        found &= self.keys != b""
        return found if dropped else found & ~self.dropped


EMPTY = RecordStatus(
    np.empty(0, KEY_TYPE), np.empty(0, np.bytes_), np.empty(0, bool), np.empty(0, bool), np.empty(0, bool)
)


def latest_batches(
    shards: Sequence[Path], marks: Mapping[str, Mark], *, dropped: bool, trials: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the current record of every key, in the order of the shards, which are read twice.

    Args:
        shards: the shards; rows added in the meantime are ignored.
        marks: the latest mark of each key.
        dropped: include records that a mark excludes.
        trials: include trials.
    """
    retried = {key: mark.created for key, mark in marks.items() if mark.verdict == "retry"}
    excluded = {key: mark.created for key, mark in marks.items() if mark.verdict in ("drop", "retry")}
    if not trials:
        excluded |= {key: AFTER_ALL for key, mark in marks.items() if mark.verdict == "trial"}
    statuses = [
        _concatenate([_status(batch, retried, excluded) for batch in read_shard(shard, ("key", "error", "created"))])
        for shard in shards
    ]
    latest = _concatenate(statuses).latest(dropped=dropped)
    start = 0
    for shard, status in zip(shards, statuses, strict=True):
        end = start + len(status.keys)
        for batch in read_shard(shard):
            wanted = latest[start : min(start + batch.num_rows, end)]
            start += len(wanted)
            if wanted.any():
                yield batch.slice(0, len(wanted)).filter(pa.array(wanted))


def _status(batch: pa.RecordBatch, retried: Mapping[str, str], excluded: Mapping[str, str]) -> RecordStatus:
    answered = np.asarray(pc.is_null(batch["error"]).to_numpy(zero_copy_only=False), dtype=bool)
    return RecordStatus(
        keys=to_keys(batch["key"]),
        created=to_bytes(batch["created"]),
        answered=answered,
        void=decided_later(batch, retried),
        dropped=answered & decided_later(batch, excluded),
    )


def _concatenate(statuses: Sequence[RecordStatus]) -> RecordStatus:
    names = ("keys", "created", "answered", "void", "dropped")
    return RecordStatus(*(np.concatenate([getattr(part, name) for part in (EMPTY, *statuses)]) for name in names))


def to_keys(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Convert a column of keys to S32 [N]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return to_bytes(column).astype(KEY_TYPE, copy=False)


def to_bytes(column: pa.Array) -> np.ndarray:
    """Convert a column of ASCII texts to fixed-width bytes, S [N]; without a copy if all have the same length."""
    lengths = pc.binary_length(column)
    width = pc.max(lengths).as_py() or 1
    if pc.all(pc.equal(lengths, width)).as_py():
        fixed = column.cast(pa.binary()).cast(pa.binary(width))
        return np.frombuffer(fixed.buffers()[1], f"S{width}", len(fixed), fixed.offset * width)
    return np.asarray([text.encode() for text in column.to_pylist()], dtype=np.bytes_)


def decided_later(batch: pa.RecordBatch, decided: Mapping[str, str]) -> np.ndarray:
    """Return which records are not newer than the decision about their key, bool [N]; `decided` maps keys to times."""
    if not decided:
        return np.zeros(batch.num_rows, dtype=bool)
    pairs = zip(batch["key"].to_pylist(), batch["created"].to_pylist(), strict=True)
    return np.asarray([key in decided and decided[key] >= created for key, created in pairs], dtype=bool)


def find_sorted(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the positions of ids [B] among ids in ascending order [N], int64 [B]; -1 for those that are missing."""
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1).astype(np.int64)
