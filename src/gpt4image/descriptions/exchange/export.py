"""Descriptions out: Parquet and JSON Lines that `datasets` loads, and a data card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt4image.core.console import counted, progress
from gpt4image.core.errors import ConfigError, DescriptionError, ImageError
from gpt4image.descriptions.description_set import ImageLookup
from gpt4image.descriptions.exchange.card import Account, CardFacts, SplitFiles, write_card
from gpt4image.descriptions.exchange.rows import Column, chosen_columns, shared_schema
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.images.scan import image_id
from gpt4image.images.table import SPLITS, ImageTable

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


SHARD_BYTES = 500_000_000


"""Size of a Parquet file, the one that the Hugging Face hub shards by."""


IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        folder: where it lies.
        texts: number of texts.
        images: number of images that have one.
        strangers: texts left out because their image is not in the image set.
        failures: requests without an answer.
        dropped: texts left out because checking them had them dropped.
    """

    folder: Path
    texts: int
    images: int
    strangers: int
    failures: int
    dropped: int

    def line(self) -> str:
        """The account in one line."""
        left_out = [f"{counted(self.strangers, 'text')} of images that are not in the set"] if self.strangers else []
        left_out += [counted(self.failures, "failed request")] if self.failures else []
        left_out += [f"{counted(self.dropped, 'text')} that describe check has dropped"] if self.dropped else []
        tail = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{counted(self.texts, 'text')} of {counted(self.images, 'image')} in {self.folder}{tail}"


def export_descriptions(
    store: DescriptionStore,
    images: ImageTable,
    out: Path | str,
    *,
    images_inside: bool = False,
    with_cost: bool = False,
    strategies: Sequence[Prompt] = (),
    findings: Mapping[str, int] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ExportSummary:
    """Write the descriptions of an image set as a data set of its own.

    `datasets.load_dataset(str(out))` loads it: `data/SPLIT-*.parquet`, and `README.md`, the data card. Without the
    images, `metadata.jsonl` says the same in the image-folder layout: laid beside the images, it makes them a data set
    with texts. Texts that were marked to be left out are left out.

    Args:
        store: the descriptions.
        images: the images they belong to.
        out: folder for the set. It must not exist, or be empty.
        images_inside: put the image files into the Parquet files, so that the set is complete by itself; an image
            with several texts is there as often.
        with_cost: also say what each text has cost.
        strategies: prompts of one's own whose texts the card shows; built-in ones are known.
        findings: what checking the texts has found, title and count, for the card.
        shard_bytes: size at which the next Parquet file begins.

    Raises:
        ConfigError: the folder holds something.
        DescriptionError: there is no text to export.
        ImageError: an image that was to go in cannot be read or has changed.
    """
    out = Path(out)
    check_target(out)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        account = Account(ImageLookup(images))
        columns = chosen_columns(with_cost=with_cost, images_inside=images_inside)
        with SetWriter(draft, columns, shard_bytes) as writer, progress("Export") as meter:
            for table in shared_tables(store, account, images_inside=images_inside):
                writer.add(table)
                meter.advance(table.num_rows)
            splits = writer.finish()
        account.dropped = count_texts(store, dropped=True) - count_texts(store)
        check_account(account, store, images)
        write_card(draft / "README.md", CardFacts(account, columns, splits, strategies, findings or {}))
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    left_out = account.strangers, account.failures.total(), account.dropped
    return ExportSummary(out, account.texts, account.with_text, *left_out)


def count_texts(store: DescriptionStore, *, dropped: bool = False) -> int:
    """Number of texts that count; also of those that were marked to be left out."""
    return sum(batch["error"].null_count for batch in store.current_batches(dropped=dropped))


def check_target(out: Path) -> None:
    """ConfigError unless a folder is empty or not there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something already. Name a new folder, or delete this one.")


def check_account(account: Account, store: DescriptionStore, images: ImageTable) -> None:
    """DescriptionError when nothing was exported."""
    if not account.texts:
        raise DescriptionError(
            f"{store.folder} holds no text of an image of {images.source} ({counted(account.strangers, 'text')} of "
            f"other images, {counted(account.failures.total(), 'failed request')}). Write some: gpt4image describe."
        )


def shared_tables(store: DescriptionStore, account: Account, *, images_inside: bool) -> Iterator[pa.Table]:
    """All texts with what is known of their images, counted as they pass."""
    lookup = account.lookup
    for batch in store.current_batches():
        failed = batch["error"].is_valid()
        account.failures.update(batch["error"].filter(failed).to_pylist())
        texts = pa.Table.from_batches([batch.filter(pc.invert(failed))])
        rows = lookup.find(texts["image_id"])
        account.strangers += int((rows < 0).sum())
        texts, rows = texts.filter(pa.array(rows >= 0)), rows[rows >= 0]
        if not len(rows):
            continue
        account.add(texts, rows)
        for name, values in lookup.facts(rows).items():
            texts = texts.append_column(name, values)
        yield from with_images(texts, rows, lookup.images) if images_inside else [texts]


def with_images(texts: pa.Table, rows: np.ndarray, images: ImageTable) -> Iterator[pa.Table]:
    """The same texts with the files of their images, a few at a time."""
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        part = texts.slice(start, IMAGES_AT_ONCE)
        owners = zip(rows[start : start + IMAGES_AT_ONCE].tolist(), part["image_id"].to_pylist(), strict=True)
        yield part.append_column("image", pa.array([read_image(images, row, wanted) for row, wanted in owners]))


def read_image(images: ImageTable, row: int, wanted: str) -> dict[str, Any]:
    """An image as `datasets` stores it. ImageError when it is no longer the one that was described."""
    data, path = images.read(row), images.path(row)
    if image_id(data) != wanted:
        raise ImageError(f"{path}: the file has changed since it was checked; run the command again.")
    return {"bytes": data, "path": path}


class SetWriter:
    """Writes the files of a set but for its card. A context manager: files are closed whatever happens.

    Args:
        folder: where they go; it is made.
        columns: the columns.
        shard_bytes: size at which the next Parquet file begins.
    """

    def __init__(self, folder: Path, columns: Sequence[Column], shard_bytes: int) -> None:
        self._data, self._schema = folder / "data", shared_schema(columns)
        self._data.mkdir(parents=True)
        self._shards = {split: ShardWriter(self._data, split, self._schema, shard_bytes) for split in SPLITS}
        images_inside = "image" in self._schema.names
        self._lines = None if images_inside else (folder / "metadata.jsonl").open("wb")

    def add(self, texts: pa.Table) -> None:
        """Write rows; their columns are those of the set or more, in any order."""
        texts = texts.select(self._schema.names).cast(self._schema)
        for split, shard in self._shards.items():
            part = texts.filter(pc.equal(texts["split"], split))
            if part.num_rows:
                shard.add(part)
        if self._lines is not None:
            self._lines.write(b"".join(map(metadata_line, texts.to_pylist())))

    def finish(self) -> dict[str, SplitFiles]:
        """Give the files their names; what each split is made of, splits without a row left out."""
        made = {split: (shard.finish(), shard) for split, shard in self._shards.items() if shard.rows}
        return {
            split: SplitFiles(shard.rows, shard.size, sum(file.stat().st_size for file in files))
            for split, (files, shard) in made.items()
        }

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shard in self._shards.values():
            shard.close()
        if self._lines is not None:
            self._lines.close()


def metadata_line(row: dict[str, Any]) -> bytes:
    """A row in the image-folder layout: the path comes first, under the name that it has there."""
    named = {"file_name": row.pop("path"), **row}
    return json.dumps(named, ensure_ascii=False).encode() + b"\n"
