"""Which record of each key counts, found out without holding a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.descriptions.store.records import Mark
from gpt4image.descriptions.store.shards import read_part

KEY_TYPE = "S32"


COLUMNS = ("key", "error", "created")


@dataclass(frozen=True)
class Standing:
    """What decides which of several records of a key counts; arrays of one entry a record, [N].

    Attributes:
        keys: S32.
        created: bytes that sort as times.
        answered: whether there is a text, bool.
        void: whether a later wish for another try has made it void, bool.
        dropped: whether a later mark leaves its text out, bool.
    """

    keys: np.ndarray
    created: np.ndarray
    answered: np.ndarray
    void: np.ndarray
    dropped: np.ndarray

    def chosen(self, *, dropped: bool) -> np.ndarray:
        """Which records count, bool [N]: an answer before a failure or a void answer, then the later one.

        Payments, which have no key, never do.
        """
        order = np.lexsort((self.created, self.answered, self.answered & ~self.void, self.keys))
        ordered = self.keys[order]
        last = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]
        found = np.zeros(len(order), dtype=bool)
        found[order[last]] = True
        found &= self.keys != b""
        return found if dropped else found & ~self.dropped


NOBODY = Standing(
    np.empty(0, KEY_TYPE), np.empty(0, np.bytes_), np.empty(0, bool), np.empty(0, bool), np.empty(0, bool)
)


def latest_batches(parts: Sequence[Path], marks: Mapping[str, Mark], *, dropped: bool) -> Iterator[pa.RecordBatch]:
    """The record of every key that counts, in the order of the parts. The parts are read twice.

    Args:
        parts: the parts; what is added to them meanwhile is left out.
        marks: the latest mark of each key.
        dropped: also records that were marked to be left out.
    """
    retried = {key: mark.created for key, mark in marks.items() if mark.verdict == "retry"}
    set_aside = {key: mark.created for key, mark in marks.items() if mark.verdict != "keep"}
    read = [read_standing(part, retried, set_aside) for part in parts]
    chosen = join_standings([NOBODY, *read]).chosen(dropped=dropped)
    start = 0
    for part, standing in zip(parts, read, strict=True):
        end = start + len(standing.keys)
        for batch in read_part(part):
            wanted = chosen[start : min(start + batch.num_rows, end)]
            start += len(wanted)
            if wanted.any():
                yield batch.slice(0, len(wanted)).filter(pa.array(wanted))


def read_standing(part: Path, retried: Mapping[str, str], set_aside: Mapping[str, str]) -> Standing:
    """The standing of all records of a part."""
    return join_standings([NOBODY, *(standing_of(batch, retried, set_aside) for batch in read_part(part, COLUMNS))])


def standing_of(batch: pa.RecordBatch, retried: Mapping[str, str], set_aside: Mapping[str, str]) -> Standing:
    """The standing of a batch's records."""
    answered = np.asarray(pc.is_null(batch["error"]).to_numpy(zero_copy_only=False), dtype=bool)
    return Standing(
        keys=to_keys(batch["key"]),
        created=np.asarray([text.encode() for text in batch["created"].to_pylist()], dtype=np.bytes_),
        answered=answered,
        void=decided_later(batch, retried),
        dropped=answered & decided_later(batch, set_aside),
    )


def join_standings(parts: Sequence[Standing]) -> Standing:
    """Several standings as one."""
    names = ("keys", "created", "answered", "void", "dropped")
    return Standing(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def to_keys(column: pa.Array) -> np.ndarray:
    """A column of keys as S32 [N]."""
    return np.asarray(column.to_pylist(), dtype=KEY_TYPE)


def decided_later(batch: pa.RecordBatch, decided: Mapping[str, str]) -> np.ndarray:
    """Which records are no younger than a decision about their key, bool [N]; `decided` holds times by key."""
    if not decided:
        return np.zeros(batch.num_rows, dtype=bool)
    pairs = zip(batch["key"].to_pylist(), batch["created"].to_pylist(), strict=True)
    return np.asarray([key in decided and decided[key] >= created for key, created in pairs], dtype=bool)
