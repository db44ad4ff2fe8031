"""Parquet files of a limited size, named as `datasets` expects them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 4096
GROUP_BYTES = 32 * 2**20
"""Rows are written in groups that reach one of these, so that memory stays bounded with images inside."""


class ShardWriter:
    """Writes the rows of one split.

    Args:
        folder: where the files go.
        split: the split's name.
        schema: the columns.
        shard_bytes: size at which the next file begins.

    Attributes:
        rows: rows so far.
        size: their size in memory, in bytes.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.rows = self.size = 0
        self._folder, self._split, self._schema, self._shard_bytes = folder, split, schema, shard_bytes
        self._pending: list[pa.Table] = []
        self._drafts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Take rows in."""
        self._pending.append(table)
        self.rows += table.num_rows
        self.size += table.nbytes
        pending_rows = sum(part.num_rows for part in self._pending)
        pending_bytes = sum(part.nbytes for part in self._pending)
        if pending_rows >= GROUP_ROWS or pending_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> list[Path]:
        """Write what is left and give the files their names, which say how many there are."""
        self._flush()
        self.close()
        names = [f"{self._split}-{i:05}-of-{len(self._drafts):05}.parquet" for i in range(len(self._drafts))]
        return [draft.rename(self._folder / name) for draft, name in zip(self._drafts, names, strict=True)]

    def close(self) -> None:
        """Close the file that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._pending:
            return
        group = pa.concat_tables(self._pending)
        self._pending = []
        writer = self._writer or self._open()
        writer.write_table(group, row_group_size=group.num_rows)
        if self._drafts[-1].stat().st_size >= self._shard_bytes:
            self.close()

    def _open(self) -> pq.ParquetWriter:
        draft = self._folder / f"{self._split}-{len(self._drafts):05}.draft"
        self._drafts.append(draft)
        self._writer = pq.ParquetWriter(draft, self._schema, compression="zstd")
        return self._writer
