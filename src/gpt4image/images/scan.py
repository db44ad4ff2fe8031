"""Read, hash and decode every image once, and cache the results across processes and restarts."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gpt4image.core.console import progress, say
from gpt4image.core.errors import ImageError
from gpt4image.core.files import atomic_write
from gpt4image.images.clips import unpack_frames
from gpt4image.images.decode import check
from gpt4image.images.sources.listing import Listing
from gpt4image.images.table import ImageReader

# Outcomes are written to disk after this many outcomes or seconds, the most that a killed scan has to repeat.
PART_ROWS = 2048
PART_SECONDS = 10.0

BLOCK = 32  # images per task: enough to hide the cost of a task, few enough to balance the end of the work

Outcome = tuple[str | None, str | None, bool]  # id, reason, whether it will be the same next time

_SCHEMA = pa.schema({"key": pa.binary(16), "id": pa.string(), "reason": pa.string()})


def scan(listing: Listing, work: Path | None, max_pixels: int, workers: int | None = None) -> pa.Table:
    """Hash and decode the images of a listing, except those with a cached result.

    Args:
        listing: the images, N of them.
        work: the work directory that remembers outcomes, None for none.
        max_pixels: the largest width x height that is decoded.
        workers: number of threads; None for one a processor.

    Returns:
        N rows in the listing's order, with the columns `id` (null if the image is bad) and `reason` (null if it is
        good).
    """
    # Outcomes depend on the limit and on which frames of a clip are read, so each of these has a cache of its own.
    frames = f"-{listing.frames.name.replace(' ', '-')}" if listing.frames else ""
    with open_cache(work / "images" / f"scan-{max_pixels}{frames}") if work else nullcontext() as cache:
        keys = listing.rows["key"].combine_chunks()
        ids, reasons = cache.look_up(keys) if cache else (pa.nulls(len(keys), pa.string()),) * 2
        unknown = pc.and_(pc.is_null(ids), pc.is_null(reasons))
        missing = listing.rows.filter(unknown)
        found: list[Outcome] = []
        with progress("Reading images", len(missing)) as meter:
            looked_at = examine_clip if listing.frames else examine
            outcomes = _outcomes(missing, listing.reader, max_pixels, workers or available_processors(), looked_at)
            for key, outcome in zip(missing["key"], outcomes, strict=True):
                found.append(outcome)
                identity, reason, lasting = outcome
                if cache and lasting:
                    cache.add(key.as_py(), identity, reason)
                meter.advance()
        new_ids, new_reasons = (pa.array([outcome[column] for outcome in found], pa.string()) for column in (0, 1))
        return pa.table(
            {
                "id": pc.replace_with_mask(ids, unknown, new_ids),
                "reason": pc.replace_with_mask(reasons, unknown, new_reasons),
            }
        )


def _outcomes(
    rows: pa.Table, reader: ImageReader, max_pixels: int, threads: int, examine: Callable[..., Outcome]
) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the rows; a bounded number of blocks is under way."""

    def block(start: int) -> list[Outcome]:
        part = rows.slice(start, BLOCK)
        pairs = zip(part["path"].to_pylist(), part["row"].to_pylist(), strict=True)
        return [examine(reader, path, row, max_pixels) for path, row in pairs]

    starts = iter(range(0, len(rows), BLOCK))
    with ThreadPoolExecutor(threads) as pool:
        # Four blocks per thread: no thread waits for the consumer, and few encoded images are in memory.
        running: deque[Future[list[Outcome]]] = deque(
            pool.submit(block, start) for start in islice(starts, threads * 4)
        )
        try:
            while running:
                outcomes = running.popleft().result()
                running.extend(pool.submit(block, start) for start in islice(starts, 1))
                yield from outcomes
        finally:
            pool.shutdown(cancel_futures=True)


def examine(reader: ImageReader, path: str, row: int, max_pixels: int) -> Outcome:
    """Return the id or the fault of one image, and whether the result can be cached."""
    read = False
    try:
        data = reader.read(path, row)
        read = True
        check(data, path, max_pixels)
    except ImageError as error:
        # A file that could not be read may be readable next time; one that was read and is damaged remains so.
        return None, str(error.args[0]).removeprefix(f"{path}: "), read
    return image_id(data), None, True


def examine_clip(reader: ImageReader, path: str, row: int, max_pixels: int) -> Outcome:
    """Return the id or the fault of one clip, likewise; a fault of a frame is a fault of the clip."""
    read = False
    try:
        data = reader.read(path, row)
        read = True
        identity, frames = unpack_frames(data, path)
        for frame in frames:
            check(frame, path, max_pixels)
    except ImageError as error:
        return None, str(error.args[0]).removeprefix(f"{path}: "), read
    return identity, None, True


def image_id(data: bytes) -> str:
    """Return the id of an image: the 128-bit BLAKE2b hash of its encoded bytes, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_cache(folder: Path) -> Iterator[ScanCache]:
    """Open a cache of outcomes. One process at a time holds it, others wait; what it learns survives an error."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=2)
    except Timeout:
        say(f"Waiting for another process that reads images into {folder}.")
        lock.acquire()
    cache = ScanCache(folder)
    try:
        try:
            yield cache
        finally:
            cache.flush()
        cache.merge()
    finally:
        lock.release()


class ScanCache:
    """Outcomes by key, in Parquet files that are written while the scan runs and merged at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[bytes, str | None, str | None]] = []
        self._written = time.monotonic()

    def look_up(self, keys: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return ids and reasons for keys, shape [N] each, both null for an unknown key."""
        # An unknown key gets a null position, and taking a null position gives null.
        known = self._read()
        places = pc.index_in(keys, value_set=known["key"].combine_chunks())
        return known["id"].combine_chunks().take(places), known["reason"].combine_chunks().take(places)

    def add(self, key: bytes, identity: str | None, reason: str | None) -> None:
        """Remember an outcome."""
        self._rows.append((key, identity, reason))
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._written > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the outcomes that are only in memory."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            self._write(pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA))
        self._rows = []
        self._written = time.monotonic()

    def merge(self) -> None:
        """Make one file of all."""
        parts = self._parts()
        if len(parts) > 1:
            # If the process is killed before the parts are deleted, outcomes exist twice, which does no harm.
            self._write(self._read())
            for part in parts:
                part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _read(self) -> pa.Table:
        tables = [_SCHEMA.empty_table()]
        for part in self._parts():
            try:
                tables.append(pq.read_table(part, schema=_SCHEMA))
            except (pa.ArrowInvalid, OSError):  # damaged by another program: its images are read again
                part.unlink(missing_ok=True)
        return pa.concat_tables(tables)

    def _write(self, table: pa.Table) -> None:
        with atomic_write(self._folder / f"{uuid.uuid4().hex}.parquet") as file:
            pq.write_table(table, file)
