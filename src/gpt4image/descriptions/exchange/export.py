"""Export descriptions: Parquet or JSON Lines files that `datasets` loads, and a dataset card."""

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

from gpt4image.core.console import progress
from gpt4image.core.errors import ConfigError, DescriptionError, ImageError
from gpt4image.core.format import counted
from gpt4image.descriptions.description_set import ImageLookup
from gpt4image.descriptions.exchange.card import DatasetFacts, SetStatistics, SplitSize, write_dataset_card
from gpt4image.descriptions.exchange.rows import Column, chosen_columns, shared_schema
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.images.scan import image_id
from gpt4image.images.table import SPLITS, ImageTable

GROUP_ROWS = 4096
GROUP_BYTES = 32 * 2**20
"""A row group is written when it reaches either limit, which bounds memory when images are included."""


class ShardWriter:
    """Write the rows of one split to Parquet files of about `shard_bytes` each.

    Attributes:
        rows: number of rows so far.
        size: their bytes in memory.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.rows = self.size = 0
        self._folder, self._split, self._schema, self._shard_bytes = folder, split, schema, shard_bytes
        self._pending: list[pa.Table] = []
        self._drafts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table)
        self.rows += table.num_rows
        self.size += table.nbytes
        pending_rows = sum(part.num_rows for part in self._pending)
        pending_bytes = sum(part.nbytes for part in self._pending)
        if pending_rows >= GROUP_ROWS or pending_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> list[Path]:
        """Write the remaining rows and rename the files, whose names contain their number."""
        self._flush()
        self.close()
        names = [f"{self._split}-{i:05}-of-{len(self._drafts):05}.parquet" for i in range(len(self._drafts))]
        return [draft.rename(self._folder / name) for draft, name in zip(self._drafts, names, strict=True)]

    def close(self) -> None:
        """Close the open file, if any."""
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
"""Size of a Parquet file, the shard size of the Hugging Face Hub."""

IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class DatasetSummary:
    """Result of an export.

    Attributes:
        folder: the new dataset.
        texts: number of texts.
        images: number of images with a text.
        orphan_texts: texts left out because their image is not in the image set.
        failures: failed requests.
        dropped: texts left out because a check dropped them.
        trials: texts left out because they are trials.
    """

    folder: Path
    texts: int
    images: int
    orphan_texts: int
    failures: int
    dropped: int
    trials: int

    def line(self) -> str:
        """Summarise the export in one line."""
        left_out = (
            [f"{counted(self.orphan_texts, 'text')} of images that are not in the image set"]
            if self.orphan_texts
            else []
        )
        left_out += [counted(self.failures, "failed request")] if self.failures else []
        left_out += [f"{counted(self.dropped, 'text')} dropped by describe check"] if self.dropped else []
        left_out += [f"{counted(self.trials, 'trial text')}"] if self.trials else []
        tail = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{counted(self.texts, 'text')} of {counted(self.images, 'image')} in {self.folder}{tail}"


def export_descriptions(
    store: DescriptionStore,
    images: ImageTable,
    out: Path | str,
    *,
    images_inside: bool = False,
    with_cost: bool = False,
    prompts: Sequence[Prompt] = (),
    findings: Mapping[str, int] | None = None,
    shard_bytes: int = SHARD_BYTES,
    repo: str | None = None,
) -> DatasetSummary:
    """Write the descriptions of an image set as a dataset.

    `datasets.load_dataset(str(out))` loads it: `data/SPLIT-*.parquet` and the dataset card `README.md`. Without the
    images, `metadata.jsonl` holds the same rows in the image-folder layout: put next to the images, it makes them a
    dataset with texts. Texts marked to be dropped are left out.

    Args:
        store: the descriptions.
        images: the images they belong to.
        out: folder for the dataset; it must be empty or not exist.
        images_inside: include the image files in the Parquet files; an image is repeated for each of its texts.
        with_cost: include the cost of each text.
        prompts: custom prompts, whose wording the card shows; it knows the built-in ones.
        findings: findings of the last check for the card, title and number of texts.
        shard_bytes: size of a Parquet file.
        repo: the repository on the Hub, USER/NAME, that the card should name.

    Raises:
        ConfigError: the folder is not empty, or clips should be included.
        DescriptionError: there is no text to export.
        ImageError: an image to include is unreadable or has changed.
    """
    out = Path(out)
    check_new_folder(out)
    if images_inside and images.frames is not None:
        raise ConfigError("Clips cannot be included as images: leave out images_inside (--images-inside).")
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        statistics = SetStatistics(ImageLookup(images))
        columns = chosen_columns(with_cost=with_cost, images_inside=images_inside)
        with SetWriter(draft, columns, shard_bytes) as writer, progress("Export") as meter:
            for table in shared_tables(store, statistics, images_inside=images_inside):
                writer.add(table)
                meter.advance(table.num_rows)
            splits = writer.finish()
        with_trials = count_texts(store, trials=True)
        trials = with_trials - count_texts(store)
        statistics.dropped = count_texts(store, dropped=True) - with_trials
        check_not_empty(statistics, store, images)
        write_dataset_card(
            draft / "README.md", DatasetFacts(statistics, columns, splits, prompts, findings or {}, repo)
        )
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    left_out = statistics.orphan_texts, statistics.failures.total(), statistics.dropped
    return DatasetSummary(out, statistics.texts, statistics.with_text, *left_out, trials)


def count_texts(store: DescriptionStore, **included: bool) -> int:
    """Count the texts of a store; `included` goes to `current_batches`."""
    return sum(batch["error"].null_count for batch in store.current_batches(**included))


def check_new_folder(out: Path) -> None:
    """Raise `ConfigError` unless the folder is empty or does not exist."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty. Name a new folder, or delete this one.")


def check_not_empty(statistics: SetStatistics, store: DescriptionStore, images: ImageTable) -> None:
    """Raise `DescriptionError` if nothing was exported."""
    if not statistics.texts:
        raise DescriptionError(
            f"{store.folder} holds no text of any image in {images.source} "
            f"({counted(statistics.orphan_texts, 'text')} of other images, "
            f"{counted(statistics.failures.total(), 'failed request')}). Write some: gpt4image describe."
        )


def shared_tables(store: DescriptionStore, statistics: SetStatistics, *, images_inside: bool) -> Iterator[pa.Table]:
    """Yield all texts joined to path, label and split of their images, adding them to the statistics."""
    lookup = statistics.lookup
    for batch in store.current_batches():
        failed = batch["error"].is_valid()
        statistics.failures.update(batch["error"].filter(failed).to_pylist())
        texts = pa.Table.from_batches([batch.filter(pc.invert(failed))])
        rows = lookup.find(texts["image_id"])
        statistics.orphan_texts += int((rows < 0).sum())
        texts, rows = texts.filter(pa.array(rows >= 0)), rows[rows >= 0]
        if not len(rows):
            continue
        statistics.add(texts, rows)
        for name, values in lookup.facts(rows).items():
            texts = texts.append_column(name, values)
        yield from with_images(texts, rows, lookup.images) if images_inside else [texts]


def with_images(texts: pa.Table, rows: np.ndarray, images: ImageTable) -> Iterator[pa.Table]:
    """Add the image files to the texts, a few at a time."""
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        part = texts.slice(start, IMAGES_AT_ONCE)
        owners = zip(rows[start : start + IMAGES_AT_ONCE].tolist(), part["image_id"].to_pylist(), strict=True)
        yield part.append_column("image", pa.array([read_image(images, row, wanted) for row, wanted in owners]))


def read_image(images: ImageTable, row: int, wanted: str) -> dict[str, Any]:
    """Return an image as `datasets` stores it. ImageError if it is no longer the one that was described."""
    data, path = images.read(row), images.path(row)
    if image_id(data) != wanted:
        raise ImageError(f"{path}: the file changed while the command ran; run it again.")
    return {"bytes": data, "path": path}


class SetWriter:
    """Write the data files of a dataset. A context manager that always closes the files."""

    def __init__(self, folder: Path, columns: Sequence[Column], shard_bytes: int) -> None:
        self._data, self._schema = folder / "data", shared_schema(columns)
        self._data.mkdir(parents=True)
        self._shards = {split: ShardWriter(self._data, split, self._schema, shard_bytes) for split in SPLITS}
        images_inside = "image" in self._schema.names
        self._lines = None if images_inside else (folder / "metadata.jsonl").open("wb")

    def add(self, texts: pa.Table) -> None:
        """Write rows that have at least the columns of the dataset, in any order."""
        texts = texts.select(self._schema.names).cast(self._schema)
        for split, shard in self._shards.items():
            part = texts.filter(pc.equal(texts["split"], split))
            if part.num_rows:
                shard.add(part)
        if self._lines is not None:
            self._lines.write(b"".join(map(metadata_line, texts.to_pylist())))

    def finish(self) -> dict[str, SplitSize]:
        """Complete the files; returns the size of every split that has rows."""
        made = {split: (shard.finish(), shard) for split, shard in self._shards.items() if shard.rows}
        return {
            split: SplitSize(shard.rows, shard.size, sum(file.stat().st_size for file in files))
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
    """Encode a row for the image-folder layout, in which the path comes first and is called `file_name`."""
    named = {"file_name": row.pop("path"), **row}
    return json.dumps(named, ensure_ascii=False).encode() + b"\n"
