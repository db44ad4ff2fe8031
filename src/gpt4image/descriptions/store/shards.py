"""Shards of the description store: JSON Lines files for appending, and the Parquet files they are compacted into.

Invariants:

- Only the process that created a JSON Lines shard writes to it, holding the shard's lock. A shard whose lock is free is
  closed and never changes again.
- A record is written with a single `write` call; a torn last line belongs to a killed process and is skipped.
- A Parquet shard appears by an atomic rename. Its metadata names the shards it replaces, so they no longer count, even
  if a killed process did not delete them.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as json_reader
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gpt4image.core.console import say
from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write
from gpt4image.descriptions.store.records import (
    RECORD_FIELDS,
    SCHEMA,
    DescriptionRecord,
    StoredRow,
    plain_values,
    record_line,
)

REPLACES = b"gpt4image.replaces"
"""Metadata key of a Parquet shard: names of the shards whose records it contains."""

BATCH_ROWS = 4096

SMALL_BYTES = 4 * 1024 * 1024
"""Maximum size of a shard that is cheap to rewrite."""

IDENTIFYING = ("key", "image_id", "created")

OPTIONAL = ("error", "tokens_in", "tokens_out", "cost", "finish_reason", "pick")
REQUIRED = tuple(name for name in RECORD_FIELDS if name not in OPTIONAL)
"""Fields that are never null."""

UNREPRESENTABLE = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""Errors for rows whose values do not fit the columns, such as an integer above 2**63."""


def now() -> str:
    """Return the current time, ISO 8601 in UTC with microseconds, so that the texts sort chronologically."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_shard(folder: Path, suffix: str) -> Path:
    """Return a unique path for a shard; names sort chronologically."""
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.{suffix}"


class RecordWriter:
    """Append records to a new shard. When `write` returns, the complete record is in the file.

    Args:
        folder: folder of the shards.

    Attributes:
        path: the shard.
        size: its size in bytes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = new_shard(folder, "jsonl")
        self._lock = FileLock(lock_path(self.path))
        self._lock.acquire()
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            self._lock.release()
            raise StoreError(
                f"{self.path} cannot be written ({error}). Free some space and run the same command again."
            ) from None
        self.size = 0
        self._closed = False
        self._sync_lock = threading.Lock()  # `sync` runs in a thread beside the event loop; `close` must wait for it

    def write(self, *records: StoredRow) -> None:
        """Append records, all or none. They survive a crash of this process, and of the machine after the next `sync`.

        Raises:
            StoreError: the write failed, for example because the disk is full; earlier records stay intact.
        """
        lines = b"".join(map(record_line, records))
        try:
            written = os.write(self._file, lines)
            if written < len(lines):
                raise OSError("the disk is full")
        except OSError as error:
            os.ftruncate(self._file, self.size)
            raise StoreError(
                f"{self.path} cannot be written ({error}). Earlier answers are kept; free some space and run the same "
                "command again."
            ) from None
        self.size += len(lines)

    def sync(self) -> None:
        """Flush to the disk; safe to call from any thread, and after `close`."""
        with self._sync_lock:
            if not self._closed:
                os.fsync(self._file)

    def close(self) -> None:
        """Flush and close the shard; an empty one is deleted."""
        self.sync()
        with self._sync_lock:
            os.close(self._file)
            self._closed = True
        self._lock.release()
        if not self.size:
            remove_shard(self.path)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_path(shard: Path) -> Path:
    """Return the lock file that the shard's writer holds."""
    return shard.with_suffix(".lock")


def remove_shard(shard: Path) -> None:
    """Delete a shard and its lock file."""
    shard.unlink(missing_ok=True)
    lock_path(shard).unlink(missing_ok=True)


def is_closed(shard: Path) -> bool:
    """Return whether no process writes to the shard any more."""
    if shard.suffix == ".parquet":
        return True
    lock = FileLock(lock_path(shard))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    lock.release()
    return True


def list_shards(folder: Path) -> list[Path]:
    """List all shards by name, except those that a Parquet shard replaces."""
    shards = sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")])
    replaced = {name for shard in shards if shard.suffix == ".parquet" for name in replaced_by(shard)}
    return [shard for shard in shards if shard.name not in replaced]


def replaced_by(shard: Path) -> list[str]:
    """Return the names of the shards that a Parquet shard replaces. StoreError names a damaged file."""
    try:
        metadata = pq.read_metadata(shard).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise damaged_shard(shard, error) from None
    names: list[str] = json.loads(metadata.get(REPLACES, b"[]"))
    return names


def damaged_shard(shard: Path, error: Exception) -> StoreError:
    """Return the error for an unreadable shard."""
    return StoreError(
        f"{shard} is damaged ({error}). Restore it from a backup, or delete it to have its images described again."
    )


def read_shard(shard: Path, columns: Sequence[str] = RECORD_FIELDS) -> Iterator[pa.RecordBatch]:
    """Read some columns of a shard in batches. StoreError names a file damaged beyond a torn last line."""
    try:
        if shard.suffix == ".jsonl":
            yield from _read_lines(shard, columns)
        else:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                    yield _with_later_columns(batch, columns)
    except FileNotFoundError:
        raise StoreError(f"{shard} disappeared while it was being read. Run the command again.") from None
    except (OSError, pa.ArrowException) as error:
        raise damaged_shard(shard, error) from None


def _with_later_columns(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Return the columns of a batch, with nulls for columns that its version did not have."""
    missing = [name for name in columns if name not in batch.schema.names]
    for name in missing:
        batch = batch.append_column(SCHEMA.field(name), pa.nulls(batch.num_rows, SCHEMA.field(name).type))
    return batch.select(list(columns)) if missing else batch


def _read_lines(shard: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    damaged = 0
    with shard.open("rb") as file:
        while lines := list(islice(file, BATCH_ROWS)):
            # All columns, so that the same lines are skipped for any selection.
            batch = _parse_intact(lines)
            if batch is None:
                batch = _parse_one_by_one(lines)
                # A torn last line is not damage: its writer was killed or is still running.
                torn = not lines[-1].endswith(b"\n") and _row_of(lines[-1]) is None
                damaged += len(lines) - batch.num_rows - torn
            if batch.num_rows:
                yield batch.select(list(columns))
    if damaged:
        say(f"{shard}: skipped {damaged:,} damaged lines; their images count as not described.", style="yellow")


def _parse_intact(lines: Sequence[bytes]) -> pa.RecordBatch | None:
    """Parse lines together, several times faster than one by one; None if a line is not as this version writes it.

    Only lines with all fields and the right types are accepted, for which both ways give the same result.
    """
    options = json_reader.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="error")
    data = b"".join(lines)
    try:
        data.decode()  # the parser accepts invalid UTF-8
        table = json_reader.read_json(
            pa.BufferReader(data), json_reader.ReadOptions(use_threads=False, block_size=len(data) + 1), options
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    complete = table.num_rows == len(lines) and not any(table[name].null_count for name in REQUIRED)
    ascii_only = (pc.string_is_ascii(table[name]) for name in IDENTIFYING)
    finite = (
        pc.is_finite(table[name]) for name in ("cost", "seconds")
    )  # a number that is too large is read as infinite
    if not complete or not all(pc.all(column).as_py() is not False for column in (*ascii_only, *finite)):
        return None
    return table.select(RECORD_FIELDS).combine_chunks().to_batches()[0]


def _parse_one_by_one(lines: Iterable[bytes]) -> pa.RecordBatch:
    """Parse the lines that contain a record."""
    rows = [row for line in lines if (row := _row_of(line)) is not None]
    try:
        return to_batch(rows)
    except UNREPRESENTABLE:
        return to_batch(row for row in rows if _is_representable(row))


def _row_of(line: bytes) -> DescriptionRecord | None:
    """Return the record in a line; None if there is none, or its identifying fields are not text."""
    try:
        row = DescriptionRecord(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    identifying = [getattr(row, name) for name in IDENTIFYING]
    return row if all(isinstance(value, str) and value.isascii() for value in identifying) else None


def _is_representable(row: DescriptionRecord) -> bool:
    try:
        to_batch([row])
    except UNREPRESENTABLE:
        return False
    return True


def to_batch(rows: Iterable[DescriptionRecord]) -> pa.RecordBatch:
    """Convert records to a batch with the columns of `SCHEMA`."""
    return pa.RecordBatch.from_pylist([plain_values(row) for row in rows], schema=SCHEMA)


def worth_merging(closed: Iterable[Path]) -> list[Path]:
    """Choose the shards to merge: JSON Lines shards, small Parquet ones, and those no larger than all smaller together.

    So a large shard is not rewritten for a few new records, and the number of shards grows logarithmically.
    """
    sizes = {shard: shard.stat().st_size for shard in closed}
    chosen = [shard for shard in sizes if shard.suffix == ".jsonl"]
    if chosen:
        for shard in sorted(sizes.keys() - set(chosen), key=lambda shard: sizes[shard]):
            if sizes[shard] > max(SMALL_BYTES, sum(sizes[smaller] for smaller in chosen)):
                break
            chosen.append(shard)
    return chosen


def merge_shards(shards: Sequence[Path], folder: Path) -> None:
    """Merge closed shards into one Parquet shard and delete them. Memory use does not grow with the records.

    A process killed midway leaves either only the old shards, or both, and the new one names those it replaces.
    """
    names = json.dumps([shard.name for shard in shards]).encode()
    schema = SCHEMA.with_metadata({REPLACES: names})
    with (
        atomic_write(new_shard(folder, "parquet")) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for shard in shards:
            for batch in read_shard(shard):
                writer.write_batch(batch)
    for shard in shards:
        remove_shard(shard)


def add_shard(batches: Iterator[pa.RecordBatch], folder: Path) -> int:
    """Write records to one Parquet shard, which appears when all are written.

    Args:
        batches: the records; if the iterator raises, the folder stays as it was.
        folder: folder of the shards. Only one process at a time may add to it.

    Returns:
        The number of records.
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
        draft.replace(new_shard(folder, "parquet"))
    finally:
        draft.unlink(missing_ok=True)
    return rows
