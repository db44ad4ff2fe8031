"""Outcomes of earlier scans: small Parquet parts that are whole or absent, merged when a scan ends."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gpt4image.console import say
from gpt4image.files import atomic_write

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
