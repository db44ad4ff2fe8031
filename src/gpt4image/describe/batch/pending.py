"""Tasks of this run that are in no batch: new ones, and those that wait for one with something already paid for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt4image.describe.batch.jobs import Asked, BatchFolder, read_asked, sorted_keys
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.conversations import Conversations
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.latest import KEY_TYPE


@dataclass(frozen=True)
class Load:
    """Tasks for the next batch.

    Attributes:
        numbers: their numbers in the maker, int64 [n].
        begun: lines of those that were asked before, by number.
        files: where these wait.
        conversations: what was answered elsewhere before.
    """

    numbers: np.ndarray
    begun: dict[int, bytes]
    files: tuple[Path, ...]
    conversations: Conversations

    def asked(self, maker: RequestMaker) -> Iterator[Asked]:
        """The tasks."""
        for number in self.numbers.tolist():
            line = self.begun.get(number)
            begun = self.conversations.begun(maker.keys[number].decode())
            yield Asked.first(maker, number, begun) if line is None else Asked.from_line(line)


class Pending:
    """What is still to be put into batches.

    Args:
        maker: the tasks of this run.
        folder: what is known of batches.
        answered: keys that the store has an answer to, S32, sorted.
        conversations: what was answered elsewhere before.
    """

    def __init__(
        self, maker: RequestMaker, folder: BatchFolder, answered: np.ndarray, conversations: Conversations
    ) -> None:
        self._maker, self._folder, self._conversations = maker, folder, conversations
        held = np.union1d(folder.held_keys(), answered)
        folder.prune(folder.waiting(), held)
        taken = np.union1d(held, folder.waiting_keys())
        self._new = np.flatnonzero(~contains(taken, maker.keys))
        self._ours: dict[Path, int] = {}
        self.survey(folder.waiting())

    def __len__(self) -> int:
        return len(self._new) + sum(self._ours.values())

    def survey(self, files: Iterable[Path]) -> None:
        """Count again how many tasks of this run wait in some files."""
        for path in files:
            self._ours[path] = len(self._waiting_in(path)) if path.exists() else 0

    def take(self, most: int) -> Load:
        """Tasks for the next batch, those that were asked before first. They stay pending until `drop`."""
        begun: dict[int, bytes] = {}
        files: list[Path] = []
        for path in (path for path, count in self._ours.items() if count):
            if len(begun) < most:
                begun |= self._waiting_in(path)
                files.append(path)
        numbers = np.asarray([*begun, *self._new[: max(0, most - len(begun))]], dtype=np.int64)
        return Load(numbers[:most], begun, tuple(files), self._conversations)

    def drop(self, load: Load, keys: Iterable[str]) -> None:
        """Some tasks of a load are in a batch now, or have an outcome."""
        gone = sorted_keys(keys)
        self._folder.prune(load.files, gone)
        self.survey(load.files)
        self._new = self._new[~contains(gone, self._maker.keys[self._new])]

    def put_back(self, keys: Iterable[str]) -> None:
        """Tasks are to be asked from the start; those of another run are left to it."""
        numbers = self._numbers(list(keys))
        self._new = np.concatenate([self._new, numbers[numbers >= 0]])

    def _waiting_in(self, path: Path) -> dict[int, bytes]:
        """Lines of the tasks of this run that wait in a file, by number."""
        rows = list(read_asked(path))
        numbers = self._numbers([key for key, _ in rows]).tolist()
        return {number: line for number, (_, line) in zip(numbers, rows, strict=True) if number >= 0}

    def _numbers(self, keys: list[str]) -> np.ndarray:
        """Numbers of keys in the maker, int64 [N]; -1 where it has none."""
        wanted, known = np.asarray(keys, dtype=KEY_TYPE), self._maker.keys
        if not len(known):
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, at, -1).astype(np.int64)
