"""Conversations under way: what was answered is durable at once, and another process goes on from there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt4image.core.errors import StoreError
from gpt4image.descriptions.store.shards import RecordWriter, is_closed, remove_part

FILE_BYTES = 8 * 1024 * 1024


"""Size at which a file is written anew without the conversations that have ended."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer to one question of a conversation that has no outcome yet. It was paid for.

    Attributes:
        key: the description that the conversation is to give.
        number: number of the question, from 0.
        text: what was said.
        model: the model as it was asked for.
        served_model: the model as the server named it.
        finish_reason: why the answer ended.
        tokens_in: tokens read, None where they are not counted.
        tokens_out: tokens written, likewise.
        cost: US dollars, None where no price is known.
        created: when, ISO 8601 in UTC.
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
    """Conversations of one process. What an outcome was recorded for is no longer kept.

    Args:
        folder: folder of the files.
        turns: answers to conversations that were begun before and have no outcome.
    """

    def __init__(self, folder: Path, turns: Iterable[Turn] = ()) -> None:
        self._folder, self._most = folder, FILE_BYTES
        self._before = group_turns(turns)
        self._live: dict[str, list[Turn]] = {}
        self._writer: RecordWriter | None = None

    def begun(self, key: str) -> list[Turn]:
        """Answers to the first questions about a description that were given before, as far as there are any."""
        return chain(self._before.get(key, ()))

    def take(self, key: str) -> list[Turn]:
        """All that was paid before for a description without an outcome, once: whoever takes it records it with one."""
        return self._before.pop(key, [])

    def keep(self, turn: Turn) -> None:
        """Keep an answer. It outlives this process at once. StoreError when it cannot be written."""
        if self._writer is None:
            self._writer = RecordWriter(self._folder)
        self._writer.write(turn)
        self._live.setdefault(turn.key, []).append(turn)
        if self._writer.size > self._most:
            self._write_anew(self._writer)

    def ended(self, key: str) -> None:
        """Note that there is an outcome."""
        self._live.pop(key, None)

    def sync(self) -> None:
        """Have the system bring what was kept to the disk; from any thread."""
        writer = self._writer
        if writer is not None:
            writer.sync()

    def close(self) -> None:
        """Finish; nothing stays behind where every conversation has ended."""
        if self._writer is not None:
            self._writer.close()
            if not self._live:
                remove_part(self._writer.path)
            self._writer = None

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _write_anew(self, old: RecordWriter) -> None:
        """Leave out what has ended. Where there is no room for that the old file stays: all is in it."""
        try:
            self._writer = write_turns(self._folder, [turn for kept in self._live.values() for turn in kept])
        except (OSError, StoreError):
            self._most *= 2
            return
        self._most = max(FILE_BYTES, 2 * self._writer.size)
        old.close()
        remove_part(old.path)


def group_turns(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    """Answers by description."""
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(turn.key, []).append(turn)
    return found


def chain(turns: Iterable[Turn]) -> list[Turn]:
    """A conversation's answers in the order of the questions; where it was begun again, those of the last time."""
    found: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: (turn.created, turn.number)):
        if turn.number == 0:
            found = [turn]
        elif len(found) == turn.number:
            found.append(turn)
    return found


def read_turns(files: Iterable[Path]) -> list[Turn]:
    """What files hold, each answer once. A last line that was cut off is left out."""
    found: dict[Turn, None] = {}
    for path in files:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:  # its process has written it anew, or ended
            continue
        for line in lines:
            try:
                found[Turn(**json.loads(line))] = None
            except (ValueError, TypeError):
                continue
    return list(found)


def turn_files(folder: Path) -> list[Path]:
    """All files of conversations."""
    return sorted(folder.glob("*.jsonl"))


def open_turns(turns: Iterable[Turn], outcomes: Mapping[str, str]) -> list[Turn]:
    """Answers that no outcome has taken up; `outcomes` holds the time of each key's latest one."""
    return [turn for turn in turns if outcomes.get(turn.key, "") < turn.created]


def write_turns(folder: Path, turns: Sequence[Turn]) -> RecordWriter:
    """A new file that holds some answers already, on the disk."""
    writer = RecordWriter(folder)
    try:
        for turn in turns:
            writer.write(turn)
        writer.sync()
    except (OSError, StoreError):
        writer.close()
        remove_part(writer.path)
        raise
    return writer


def compact_turns(folder: Path, outcomes: Mapping[str, str]) -> None:
    """Put what is no longer written to into one file, without the conversations that have ended.

    A process killed in between leaves answers twice, which are read once.
    """
    by_file = {path: read_turns([path]) for path in turn_files(folder) if is_closed(path)}
    left = open_turns({turn: None for turns in by_file.values() for turn in turns}, outcomes)
    if len(by_file) == 1 and len(left) == sum(map(len, by_file.values())):
        return
    if left:
        write_turns(folder, left).close()
    for path in by_file:
        remove_part(path)
