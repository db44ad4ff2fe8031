"""Tasks of this run that are not in a batch: new ones and those waiting for the next batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gpt4image.describe.batch.folder import BatchFolder, BatchTask, read_lines, sorted_keys
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store.conversations import Conversations
from gpt4image.descriptions.store.description_store import contains
from gpt4image.descriptions.store.latest import KEY_TYPE, find_sorted


class Pending:
    """Tasks that have not been put into a batch.

    Args:
        maker: the tasks of this run.
        folder: the folder of batches.
        answered: keys that the store has answers for, S32, sorted.
        conversations: answers from outside the batch interface.
    """

    def __init__(
        self, maker: RequestMaker, folder: BatchFolder, answered: np.ndarray, conversations: Conversations
    ) -> None:
        self._maker, self._folder, self._conversations = maker, folder, conversations
        held = np.union1d(folder.held_keys(), answered)
        folder.prune(folder.all_waiting(), held)  # after a kill they may be in two places
        taken = np.union1d(held, folder.waiting_keys())
        self._new = np.flatnonzero(~contains(taken, maker.keys))  # indices of tasks, int64
        self._waiting: dict[Path, int] = {}  # number of this run's tasks by file
        for path in folder.all_waiting():
            self.recount(path)

    def __len__(self) -> int:
        return len(self._new) + sum(self._waiting.values())

    def recount(self, path: Path) -> None:
        """Recount the tasks of this run in a file."""
        self._waiting[path] = len(self._lines(path)) if path.exists() else 0

    def take(self, most: int) -> tuple[np.ndarray, Iterator[BatchTask]]:
        """Return tasks for the next batch, waiting ones first. They stay pending until `drop`.

        Returns:
            Their indices in the maker, int64 [n], and the tasks in the same order.
        """
        lines: dict[int, bytes] = {}
        for path, count in self._waiting.items():
            if count and len(lines) < most:
                lines |= self._lines(path)
        numbers = np.asarray([*lines, *self._new[: max(0, most - len(lines))]], dtype=np.int64)[:most]
        return numbers, (self._task(number, lines) for number in numbers.tolist())

    def _task(self, number: int, lines: dict[int, bytes]) -> BatchTask:
        if number in lines:
            return BatchTask.from_line(lines[number])
        return BatchTask.first(self._maker, number, self._conversations.begun(self._maker.keys[number].decode()))

    def drop(self, keys: Iterable[str]) -> None:
        """Remove tasks that are now in a batch or have an outcome."""
        gone = sorted_keys(keys)
        files = [path for path, count in self._waiting.items() if count]
        self._folder.prune(files, gone)
        for path in files:
            self.recount(path)
        self._new = self._new[~contains(gone, self._maker.keys[self._new])]

    def put_back(self, keys: Iterable[str]) -> None:
        """Restart tasks of this run; tasks of other runs are left alone."""
        numbers = self._numbers(list(keys))
        self._new = np.concatenate([self._new, numbers[numbers >= 0]])

    def _lines(self, path: Path) -> dict[int, bytes]:
        """Return the lines of this run's tasks in a file, by index."""
        rows = list(read_lines(path))
        numbers = self._numbers([key for key, _ in rows]).tolist()
        return {number: line for number, (_, line) in zip(numbers, rows, strict=True) if number >= 0}

    def _numbers(self, keys: list[str]) -> np.ndarray:
        """Return the indices of keys in the maker, int64 [n]; -1 if it lacks one."""
        return find_sorted(self._maker.keys, np.asarray(keys, dtype=KEY_TYPE))
