"""Atomic writes, locks, on-disk layouts and resumable arrays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gpt4image.core.errors import BusyError, StoreError

if TYPE_CHECKING:
    import numpy as np


def digest(*parts: bytes | str) -> str:
    """128-bit BLAKE2b hash of the parts as 32 hex digits; part boundaries count.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def hash_file(path: Path) -> str:
    """128-bit BLAKE2b hash of a file's bytes as 32 hex digits. StoreError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well, and leaves it alone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file atomically."""
    import numpy as np

    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def replace_folder(new: Path, old: Path) -> None:
    """Move the finished folder `new` to `old`, which it replaces."""
    if old.exists():
        shutil.rmtree(old)
    new.rename(old)


@dataclass(frozen=True)
class Layout:
    """Base of the on-disk layouts: a folder whose files have fixed names.

    >>> class RunLayout(Layout):
    ...     settings = File("settings.json")
    >>> RunLayout(Path("runs/baseline-0")).settings.as_posix()
    'runs/baseline-0/settings.json'

    Attributes:
        folder: the folder that holds the files.
    """

    folder: Path


class File:
    """A file of a `Layout`; reading the attribute gives its path.

    Args:
        name: path relative to the layout's folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, layout: Layout, owner: type[Layout]) -> Path:
        return layout.folder / self.name


class Sibling(File):
    """A file or folder beside the folder of a `Layout`, named like it.

    Args:
        name: suffix of the folder's name.
    """

    def __get__(self, layout: Layout, owner: type[Layout]) -> Path:
        return layout.folder.with_name(layout.folder.name + self.name)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Read a JSON file; StoreError names the file when it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"{path} does not exist. Run the step that writes it; gpt4image compare runs them all."
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Delete it and run the step that writes it again.") from None


@contextmanager
def exclusive(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. A killed process lets go of it.

    Args:
        path: the lock file.
        what: what it guards, in words.
        wait: wait while another process holds it.

    Raises:
        BusyError: another process holds it and we do not wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BusyError(f"Another process is at work on {what} ({path} is locked). Wait for it, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


class FillingArray:
    """A `.npy` file that is filled chunk by chunk and can be interrupted at any moment.

    The rows lie in `<name>.partial`, one byte a chunk in `<name>.done` says which of them are written, and the
    file gets its own name when all are. A chunk is marked after its rows are flushed, so a process killed in
    between writes it again. `<name>.plan` says what the rows are, for the partial and the finished file alike.

    Args:
        path: the finished `.npy` file.
        shape: shape of the whole array, not empty; the first axis is the one that fills up.
        dtype: element type, as numpy spells it.
        chunk: rows written at a time.
        plan: text that identifies the content; a file of another plan is discarded.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, chunk: int, plan: str) -> None:
        self.path, self.shape, self.chunk = path, shape, chunk
        self.chunks = -(-shape[0] // chunk)
        self._partial, self._done_path, self._plan_path = (
            path.with_name(path.name + suffix) for suffix in (".partial", ".done", ".plan")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps([plan, shape, dtype, chunk])
        if not (self._plan_path.exists() and self._plan_path.read_text() == header):
            self._start(header)
        self.finished = path.exists()
        if not self.finished:
            self._open(dtype)

    def _start(self, header: str) -> None:
        for path in (self._plan_path, self.path, self._partial, self._done_path):
            path.unlink(missing_ok=True)
        with atomic_write(self._plan_path) as file:
            file.write(header.encode())

    def _open(self, dtype: str) -> None:
        import numpy as np

        if not (self._done_path.exists() and self._partial.exists()):
            np.lib.format.open_memmap(self._partial, mode="w+", dtype=dtype, shape=self.shape).flush()
            with atomic_write(self._done_path) as file:
                file.write(bytes(self.chunks))
        self._array = np.lib.format.open_memmap(self._partial, mode="r+")
        self._done = np.memmap(self._done_path, mode="r+", dtype=np.uint8, shape=(self.chunks,))

    @property
    def remaining(self) -> list[int]:
        """Numbers of the chunks that are still to be written."""
        return [] if self.finished else [number for number, done in enumerate(self._done.tolist()) if not done]

    def rows(self, chunk: int) -> slice:
        """Rows that belong to a chunk."""
        return slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.shape[0]))

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Store a chunk's rows, durably."""
        self._array[self.rows(chunk)] = values
        self._array.flush()
        self._done[chunk] = 1
        self._done.flush()

    def finish(self) -> None:
        """Give the file its own name. StoreError when chunks are missing."""
        if self.finished:
            return
        if self.remaining:
            raise StoreError(f"{self.path}: {len(self.remaining)} of {self.chunks} chunks were not written.")
        del self._array, self._done
        self._partial.replace(self.path)
        self._done_path.unlink()
        self.finished = True


def fill_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    chunk: int,
    plan: str,
    compute: Callable[[slice], np.ndarray],
) -> Iterator[int]:
    """Fill `path` with `compute(rows)` chunk by chunk, yielding the number of rows that are done so far.

    Nothing is yielded where nothing is left to do.
    """
    array = FillingArray(path, shape, dtype, chunk, plan)
    remaining = array.remaining
    if not remaining:
        array.finish()
        return
    done = shape[0] - sum(array.rows(number).stop - array.rows(number).start for number in remaining)
    yield done
    for number in remaining:
        rows = array.rows(number)
        array.write(number, compute(rows))
        done += rows.stop - rows.start
        yield done
    array.finish()
