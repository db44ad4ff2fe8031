"""Read, hash and decode every image once, and remember the outcome."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gpt4image.core.console import progress, say
from gpt4image.core.errors import ImageError
from gpt4image.core.files import atomic_write
from gpt4image.images.decode import check
from gpt4image.images.sources.listing import Listing
from gpt4image.images.table import ImageReader

PART_ROWS = 2048


PART_SECONDS = 10.0


_SCHEMA = pa.schema({"key": pa.binary(16), "id": pa.string(), "reason": pa.string()})


class ScanCache:
    """What is known of images by their keys. One process at a time holds it; others wait for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / ".lock")
        self._rows: list[tuple[bytes, str | None, str | None]] = []
        self._written = time.monotonic()

    def __enter__(self) -> ScanCache:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=2)
        except Timeout:
            say(f"Waiting for another process that reads images into {self._folder}.")
            self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
            if kind is None:
                self._merge()
        finally:
            self._lock.release()

    def look_up(self, keys: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Ids and reasons for keys, both null where nothing is known."""
        known = self._known()
        places = pc.index_in(keys, value_set=known["key"].combine_chunks())
        return known["id"].combine_chunks().take(places), known["reason"].combine_chunks().take(places)

    def add(self, key: bytes, identity: str | None, reason: str | None) -> None:
        """Remember an outcome; it is on disk within `PART_ROWS` outcomes or `PART_SECONDS`."""
        self._rows.append((key, identity, reason))
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._written > PART_SECONDS:
            self._flush()

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _known(self) -> pa.Table:
        tables = [_SCHEMA.empty_table()]
        for part in self._parts():
            try:
                tables.append(pq.read_table(part, schema=_SCHEMA))
            except (pa.ArrowInvalid, OSError):  # damaged by something else: its images are read again
                part.unlink(missing_ok=True)
        return pa.concat_tables(tables)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            self._write(pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA))
        self._rows = []
        self._written = time.monotonic()

    def _write(self, table: pa.Table) -> None:
        with atomic_write(self._folder / f"{uuid.uuid4().hex}.parquet") as file:
            pq.write_table(table, file)

    def _merge(self) -> None:
        parts = self._parts()
        if len(parts) > 1:
            self._write(self._known())
            for part in parts:
                part.unlink()


BLOCK = 32  # images a task: long enough to hide the cost of a task, short enough to share the end of the work evenly


Outcome = tuple[int, str | None, str | None, bool]  # position, id, reason, whether it will be the same next time


def scan(listing: Listing, work: Path | None, max_pixels: int, workers: int | None = None) -> pa.Table:
    """Hash and decode the images of a listing, those excepted whose outcome is known from an earlier scan.

    Args:
        listing: what to read.
        work: the work directory that remembers outcomes, None for none.
        max_pixels: the largest width x height that is decoded.
        workers: number of threads; None for one a processor.

    Returns:
        A row for each of the listing's, with the columns `id` (null where the image is bad) and `reason` (null
        where it is good).
    """
    if work is None:
        return _scan(listing, None, max_pixels, workers)
    with ScanCache(work / "images" / f"scan-{max_pixels}") as cache:
        return _scan(listing, cache, max_pixels, workers)


def _scan(listing: Listing, cache: ScanCache | None, max_pixels: int, workers: int | None) -> pa.Table:
    keys = listing.rows["key"].combine_chunks()
    ids, reasons = cache.look_up(keys) if cache else (pa.nulls(len(keys), pa.string()),) * 2
    unknown = pc.and_(pc.is_null(ids), pc.is_null(reasons))
    missing = np.flatnonzero(np.asarray(unknown.to_numpy(zero_copy_only=False)))
    if not len(missing):
        return pa.table({"id": ids, "reason": reasons})
    new_ids = np.full(len(missing), b"", "S32")
    new_reasons: dict[int, str] = {}
    with progress("Reading images", len(missing)) as meter:
        for number, identity, reason, lasting in _outcomes(listing, missing, max_pixels, workers):
            if identity is not None:
                new_ids[number] = identity.encode()
            if reason is not None:
                new_reasons[number] = reason
            if cache and lasting:
                cache.add(keys[int(missing[number])].as_py(), identity, reason)
            meter.advance()
    found = _id_array(new_ids, new_reasons)
    told = pa.array([new_reasons.get(number) for number in range(len(missing))], pa.string())
    return pa.table(
        {"id": pc.replace_with_mask(ids, unknown, found), "reason": pc.replace_with_mask(reasons, unknown, told)}
    )


def _id_array(ids: np.ndarray, reasons: dict[int, str]) -> pa.Array:
    bad = np.zeros(len(ids), bool)
    bad[list(reasons)] = True
    return pa.array(ids, mask=bad).cast(pa.string())


def _outcomes(listing: Listing, missing: np.ndarray, max_pixels: int, workers: int | None) -> Iterator[Outcome]:
    """Outcomes in the order of `missing`; a bounded number of images is under way."""
    paths, rows, reader = listing.rows["path"].combine_chunks(), listing.rows["row"].to_numpy(), listing.reader

    def block(start: int) -> list[Outcome]:
        numbers = range(start, min(start + BLOCK, len(missing)))
        places = [int(missing[number]) for number in numbers]
        return [
            (number, *examine(reader, paths[place].as_py(), int(rows[place]), max_pixels))
            for number, place in zip(numbers, places, strict=True)
        ]

    threads = workers or available_processors()
    starts = iter(range(0, len(missing), BLOCK))
    with ThreadPoolExecutor(threads) as pool:
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


def examine(reader: ImageReader, path: str, row: int, max_pixels: int) -> tuple[str | None, str | None, bool]:
    """Id and fault of one image, and whether the outcome will be the same next time."""
    try:
        data = reader.read(path, row)
    except ImageError as error:
        return None, _reason(error, path), False
    try:
        check(data, path, max_pixels)
    except ImageError as error:
        return None, _reason(error, path), True
    return image_id(data), None, True


def image_id(data: bytes) -> str:
    """Id of an image: the 128-bit BLAKE2b hash of its encoded bytes, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _reason(error: ImageError, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
