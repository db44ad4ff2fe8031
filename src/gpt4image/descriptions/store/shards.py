"""Parts of the description store: files that grow line by line, and Parquet files made of them."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gpt4image.core.console import say
from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write
from gpt4image.descriptions.store.records import (
    RECORD_FIELDS,
    SCHEMA,
    DescriptionRecord,
    Row,
    plain_values,
    record_line,
)

REPLACES = b"gpt4image.replaces"


"""Metadata key of a Parquet part: the parts whose records it holds."""


BATCH_ROWS = 4096


def now() -> str:
    """The time, ISO 8601 in UTC with microseconds, so that texts sort as times."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_part(folder: Path, suffix: str) -> Path:
    """A part that nobody else has; names sort as the times at which they were made."""
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.{suffix}"


class RecordWriter:
    """Appends records to a part of its own. A record is in the file when `write` returns, whole or not at all.

    Args:
        folder: folder of the parts.

    Attributes:
        path: the part.
        size: bytes in it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = new_part(folder, "jsonl")
        self._lock = FileLock(lock_path(self.path))
        self._lock.acquire()
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            self._lock.release()
            raise StoreError(
                f"{self.path} cannot be written ({error}). Make room, and give the same command again."
            ) from None
        self.size = 0
        self._on_its_way = threading.Lock()
        self._closed = False

    def write(self, *records: Row) -> None:
        """Append records, all or none. They outlive this process at once, and the machine after the next `sync`.

        Raises:
            StoreError: it cannot be written, as on a full disk; what was written before is whole.
        """
        lines = b"".join(map(record_line, records))
        try:
            written = os.write(self._file, lines)
            if written < len(lines):
                raise OSError("the disk is full")
        except OSError as error:
            os.ftruncate(self._file, self.size)
            raise StoreError(
                f"{self.path} cannot be written ({error}). What was answered before is kept: make room, and give the "
                "same command again."
            ) from None
        self.size += len(lines)

    def sync(self) -> None:
        """Have the system bring what was written to the disk, from any thread; once it is closed all of it is there."""
        with self._on_its_way:
            if not self._closed:
                os.fsync(self._file)

    def close(self) -> None:
        """Finish the part; an empty one is removed."""
        self.sync()
        with self._on_its_way:
            os.close(self._file)
            self._closed = True
        self._lock.release()
        if not self.size:
            remove_part(self.path)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_path(part: Path) -> Path:
    """Lock that a part's writer holds."""
    return part.with_suffix(".lock")


def remove_part(part: Path) -> None:
    """Delete a part and its lock."""
    part.unlink(missing_ok=True)
    lock_path(part).unlink(missing_ok=True)


def is_closed(part: Path) -> bool:
    """Whether no process writes to a part any more."""
    if part.suffix == ".parquet":
        return True
    lock = FileLock(lock_path(part))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    lock.release()
    return True


def list_parts(folder: Path) -> list[Path]:
    """All parts in the order of their names, without those whose records another part has taken over."""
    parts = sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")])
    replaced = {name for part in parts if part.suffix == ".parquet" for name in replaced_by(part)}
    return [part for part in parts if part.name not in replaced]


def replaced_by(part: Path) -> list[str]:
    """Names of the parts whose records a Parquet part has taken over. StoreError names a damaged file."""
    try:
        metadata = pq.read_metadata(part).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise damaged_part(part, error) from None
    names: list[str] = json.loads(metadata.get(REPLACES, b"[]"))
    return names


def damaged_part(part: Path, error: Exception) -> StoreError:
    """What is raised for a part that cannot be read."""
    return StoreError(
        f"{part} is damaged ({error}). Bring it back from a backup, or delete it to have its images described again."
    )


def read_part(part: Path, columns: Sequence[str] = RECORD_FIELDS) -> Iterator[pa.RecordBatch]:
    """Some columns of a part, in batches. StoreError names a file that is damaged beyond a cut-off last line."""
    try:
        if part.suffix == ".jsonl":
            yield from read_lines(part, columns)
        else:
            with pq.ParquetFile(part) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=list(columns))
    except FileNotFoundError:
        raise StoreError(f"{part} has gone while it was read: run the command again.") from None
    except (OSError, pa.ArrowException) as error:
        raise damaged_part(part, error) from None


def read_lines(part: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a part that grows by lines. Lines that are not whole records are left out and counted."""
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    rows: list[DescriptionRecord] = []
    damaged = 0
    with part.open("rb") as file:
        for line in file:
            try:
                rows.append(DescriptionRecord(**json.loads(line)))
            except (ValueError, TypeError):
                damaged += line.endswith(b"\n")  # a last line without end is a killed process's, or one in the making
            if len(rows) == BATCH_ROWS:
                yield to_batch(rows, schema)
                rows = []
    if rows:
        yield to_batch(rows, schema)
    if damaged:
        say(f"{part}: {damaged:,} damaged lines are left out; their images count as not described.", style="yellow")


def to_batch(rows: Iterable[DescriptionRecord], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """Records as a batch with the columns of the schema."""
    return pa.RecordBatch.from_pylist([plain_values(row) for row in rows], schema=schema)


def merge_parts(parts: Sequence[Path], folder: Path) -> None:
    """Put the records of closed parts into one Parquet part, then delete them. Memory does not grow with the records.

    A process killed in between leaves either the old parts, or both with the new one saying what it replaces.
    """
    names = json.dumps([part.name for part in parts]).encode()
    schema = SCHEMA.with_metadata({REPLACES: names})
    with (
        atomic_write(new_part(folder, "parquet")) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for part in parts:
            for batch in read_part(part):
                writer.write_batch(batch)
    for part in parts:
        remove_part(part)


def add_part(batches: Iterator[pa.RecordBatch], folder: Path) -> int:
    """Put records into one Parquet part that is there when all are written, and not before.

    Args:
        batches: the records; what it raises leaves the folder as it was.
        folder: folder of the parts. One process at a time may add to it.

    Returns:
        How many records there were.
    """
    first = next(batches, None)
    if first is None:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    draft, rows = folder / "added.draft", 0
    try:
        with draft.open("wb") as file:
            with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for batch in chain([first], batches):
                    writer.write_batch(batch)
                    rows += batch.num_rows
            file.flush()
            os.fsync(file.fileno())
        draft.replace(new_part(folder, "parquet"))
    finally:
        draft.unlink(missing_ok=True)
    return rows
