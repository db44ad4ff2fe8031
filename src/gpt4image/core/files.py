"""Atomic writes, locks, on-disk layouts and resumable arrays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gpt4image.core.errors import BusyError, Gpt4ImageError, StoreError

if TYPE_CHECKING:
    import numpy as np


def digest(*parts: bytes | str) -> str:
    """Return the 128-bit BLAKE2b hash of the parts as 32 hex digits; part boundaries count.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    return digest_of(parts)


def digest_of(parts: Iterable[bytes | str]) -> str:
    """Return the digest of parts that need not all be in memory."""
    return start_digest(parts).hexdigest()


def digests(first: Sequence[str], last: Iterable[bytes | str]) -> Iterator[str]:
    """Yield `digest(*first, part)` for each last part, several times faster than separate calls.

    >>> list(digests(["a"], ["b", b"c"])) == [digest("a", "b"), digest("a", b"c")]
    True
    """
    hasher = start_digest(first)
    for each in last:
        copy = hasher.copy()
        copy.update(framed(each))
        yield copy.hexdigest()


def start_digest(parts: Iterable[bytes | str]) -> hashlib.blake2b:
    """Return a hasher that has seen some parts; a copy of it can be given further ones, each `framed`."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(framed(part))
    return hasher


def framed(part: bytes | str) -> bytes:
    """Return a part of a digest after its length in bytes."""
    data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    return len(data).to_bytes(8, "little") + data


def hash_file(path: Path) -> str:
    """Return the 128-bit BLAKE2b hash of a file's bytes as 32 hex digits. StoreError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` if the block ends without an exception."""
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
    """Read a JSON file; StoreError names the file if it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist. Run the step that writes it; gpt4image compare runs all.") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Delete it and run the step that writes it again.") from None


def stand_in(data: bytes) -> str:
    """Return what a file is if its first bytes show a stand-in, such as a Git LFS pointer; else an empty text.

    >>> stand_in(b"version https://git-lfs.github.com/spec/v1"), stand_in(b"path,label")
    ('a Git LFS pointer: run git lfs pull', '')
    """
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "a Git LFS pointer: run git lfs pull" if start.startswith(b"version https://git-lfs") else ""


def check_fetched(path: Path, error: type[Gpt4ImageError]) -> None:
    """Raise `error` if a file is a web page or a Git LFS pointer instead of the expected file."""
    with path.open("rb") as file:
        if kind := stand_in(file.read(512)):
            raise error(f"{path} is {kind}.")


def read_brought_json(path: Path, error: type[Gpt4ImageError], **options: Any) -> Any:  # noqa: ANN401 - any JSON
    """Read a JSON file from the user; `error` is raised if it is not JSON. `options` go to `json.loads`."""
    try:
        check_fetched(path, error)
        return json.loads(path.read_text("utf-8-sig"), **options)
    except (OSError, ValueError, RecursionError) as fault:
        raise error(f"{path} cannot be read as JSON: {fault}") from None


@contextmanager
def exclusive(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file; the operating system releases it if the process is killed.

    Args:
        path: the lock file.
        what: what it protects, for the message.
        wait: whether to wait while another process holds it.

    Raises:
        BusyError: another process holds it, and `wait` is off.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise BusyError(f"Another process is using {what} ({path} is locked). Wait for it, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


class ResumableArray:
    """A `.npy` file that is written chunk by chunk and survives `kill -9` at any moment.

    Files: `<name>.partial` holds the rows, `<name>.done` one byte per chunk that is 1 once its rows are written, and
    `<name>.plan` the identity of the content. The partial file gets its final name when all chunks are written.

    Invariant: a chunk is marked only after its rows are flushed, so that a marked chunk is always complete; a chunk
    that was written but not marked is written again, with the same values.

    Args:
        path: the finished `.npy` file.
        shape: shape of the whole array, not empty; chunks divide the first axis.
        dtype: element type, as numpy spells it.
        chunk: rows per chunk.
        plan: text that identifies the content; a file with a different plan is discarded.
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
        """Numbers of the chunks that are not written yet."""
        return [] if self.finished else [number for number, done in enumerate(self._done.tolist()) if not done]

    def rows(self, chunk: int) -> slice:
        """Return the rows of a chunk."""
        return slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.shape[0]))

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Write a chunk's rows and mark the chunk."""
        self._array[self.rows(chunk)] = values
        self._array.flush()
        self._done[chunk] = 1
        self._done.flush()

    def finish(self) -> None:
        """Give the file its final name. StoreError if chunks are missing."""
        if self.finished:
            return
        if self.remaining:
            raise StoreError(f"{self.path}: {len(self.remaining)} of {self.chunks} chunks are missing.")
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
    """Fill `path` with `compute(rows)` chunk by chunk; yield the number of rows done so far, if any were missing."""
    array = ResumableArray(path, shape, dtype, chunk, plan)
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
