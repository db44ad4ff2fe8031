"""Open conversations: every answer is saved immediately, so that another process can resume at the next question.

Each process appends its turns to its own file. A turn counts as open until the store holds a record of its key that is
at least as new (`open_turns`); finished conversations are dropped when a file is rewritten or compacted. After a kill,
turns may be in two files, so they are read as a set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt4image.core.errors import StoreError
from gpt4image.descriptions.store.shards import RecordWriter, is_closed, remove_shard

FILE_BYTES = 8 * 1024 * 1024
"""Size at which a file is rewritten without the finished conversations."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The paid answer to one question of a conversation without an outcome.

    Attributes:
        key: the task that the conversation belongs to.
        number: number of the question, from 0.
        text: the answer.
        model: the model as requested.
        served_model: the model as the server named it.
        finish_reason: why the model stopped.
        tokens_in: prompt tokens, None if not reported.
        tokens_out: completion tokens, None if not reported.
        cost: US dollars, None if the price is unknown.
        created: ISO 8601 in UTC.
    """

    key: str
    number: int
    text: str
    model: str
    served_model: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None
    created: str


class Conversations:
    """The open conversations of one process.

    Args:
        folder: folder of the conversation files.
        turns: turns of earlier processes whose conversations are still open.
    """

    def __init__(self, folder: Path, turns: Iterable[Turn] = ()) -> None:
        self._folder, self._rewrite_at = folder, FILE_BYTES
        self._before = group_turns(turns)
        self._live: dict[str, list[Turn]] = {}
        self._writer: RecordWriter | None = None

    def begun(self, key: str) -> list[Turn]:
        """Return the answers of an earlier process to the first questions of a task."""
        return chain(self._before.get(key, ()))

    def take(self, key: str) -> list[Turn]:
        """Return and forget all turns that an earlier process paid for; the caller records them with the outcome."""
        return self._before.pop(key, [])

    def keep(self, turn: Turn) -> None:
        """Store an answer so that it survives this process. StoreError if it cannot be written."""
        if self._writer is None:
            self._writer = RecordWriter(self._folder)
        self._writer.write(turn)
        self._live.setdefault(turn.key, []).append(turn)
        if self._writer.size > self._rewrite_at:
            self._rewrite(self._writer)

    def ended(self, key: str) -> None:
        """Drop a conversation whose outcome is recorded."""
        self._live.pop(key, None)

    def sync(self) -> None:
        """Flush to the disk; safe to call from any thread."""
        writer = self._writer
        if writer is not None:
            writer.sync()

    def close(self) -> None:
        """Close the file, and delete it if every conversation has ended."""
        if self._writer is not None:
            self._writer.close()
            if not self._live:
                remove_shard(self._writer.path)
            self._writer = None

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _rewrite(self, old: RecordWriter) -> None:
        """Drop the finished conversations. If the disk is full, keep the old file, which is complete."""
        try:
            self._writer = write_turns(self._folder, [turn for kept in self._live.values() for turn in kept])
        except (OSError, StoreError):
            self._rewrite_at *= 2
            return
        self._rewrite_at = max(FILE_BYTES, 2 * self._writer.size)
        old.close()
        remove_shard(old.path)


def group_turns(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    """Group turns by key."""
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(turn.key, []).append(turn)
    return found


def chain(turns: Iterable[Turn]) -> list[Turn]:
    """Return a conversation's answers in the order of the questions; after a restart, only those since then."""
    found: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: (turn.created, turn.number)):
        if turn.number == 0:
            found = [turn]
        elif len(found) == turn.number:
            found.append(turn)
    return found


def read_turns(files: Iterable[Path]) -> list[Turn]:
    """Read the turns in some files, each once, skipping torn lines."""
    found: dict[Turn, None] = {}
    for path in files:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:  # its process has rewritten it or ended
            continue
        for line in lines:
            try:
                found[Turn(**json.loads(line))] = None
            except (ValueError, TypeError):
                continue
    return list(found)


def turn_files(folder: Path) -> list[Path]:
    """List the conversation files."""
    return sorted(folder.glob("*.jsonl"))


def open_turns(turns: Iterable[Turn], outcomes: Mapping[str, str]) -> list[Turn]:
    """Select the turns without an outcome; `outcomes` maps each key to the time of its latest record."""
    return [turn for turn in turns if outcomes.get(turn.key, "") < turn.created]


def write_turns(folder: Path, turns: Sequence[Turn]) -> RecordWriter:
    """Create a file with some turns in it, flushed to the disk."""
    writer = RecordWriter(folder)
    try:
        for turn in turns:
            writer.write(turn)
        writer.sync()
    except (OSError, StoreError):
        writer.close()
        remove_shard(writer.path)
        raise
    return writer


def compact_turns(folder: Path, outcomes: Mapping[str, str]) -> None:
    """Merge the closed files into one, without the finished conversations."""
    by_file = {path: read_turns([path]) for path in turn_files(folder) if is_closed(path)}
    left = open_turns({turn: None for turns in by_file.values() for turn in turns}, outcomes)
    if len(by_file) == 1 and len(left) == sum(map(len, by_file.values())):
        return
    if left:
        write_turns(folder, left).close()
    for path in by_file:
        remove_shard(path)
