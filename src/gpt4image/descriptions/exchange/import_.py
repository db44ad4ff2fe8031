"""Import an exported set or any table of texts into a description store, so that nothing is described again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpt4image.core.console import progress
from gpt4image.core.errors import DescriptionError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.tables import Table
from gpt4image.descriptions.exchange.rows import KNOWN, has_provenance, read_shared_rows, shared_files
from gpt4image.descriptions.readers import IdLookup, OrphanPolicy, match_texts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.conversations import Turn, group_turns
from gpt4image.descriptions.store.description_store import Spent, contains
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import payment_of
from gpt4image.descriptions.store.shards import BATCH_ROWS, now, to_batch
from gpt4image.images.table import ImageTable

IMPORTED = "imported"
"""Model and prompt recorded for texts of unknown origin."""


MOST_SHOWN = 5


@dataclass(frozen=True)
class ImportSummary:
    """Result of an import.

    Attributes:
        added: texts added to the store.
        known: texts that the store already had, or that are marked for retry.
        orphans: texts that match no image.
        empty: rows of a plain table without a text.
        ignored: unused columns.
        by_end: texts of caption files that were matched by the end of the path.
    """

    added: int
    known: int
    orphans: int
    empty: int
    ignored: tuple[str, ...]
    by_end: int = 0

    def line(self) -> str:
        """Summarise the import in one line."""
        parts = [f"{counted(self.added, 'text')} imported"]
        parts += [f"{self.known:,} already known"] if self.known else []
        parts += [f"{self.orphans:,} that match no image left out"] if self.orphans else []
        parts += [f"{counted(self.empty, 'row')} without a text"] if self.empty else []
        parts += [f"{self.by_end:,} matched by the end of the path"] if self.by_end else []
        parts += [f"unused columns: {', '.join(self.ignored)}"] if self.ignored else []
        return "; ".join(parts)


def import_descriptions(
    source: Path | str,
    images: ImageTable,
    store: DescriptionStore,
    *,
    model: str | None = None,
    text_column: str | None = None,
    orphan_texts: OrphanPolicy = "fail",
) -> ImportSummary:
    """Import descriptions: all of them, or none if a row is invalid or the process is killed.

    Args:
        source: an exported folder, one of its files, or a plain table of texts keyed by image id or path (`.csv`,
            `.tsv`, `.jsonl`, `.parquet`), or captions of another tool (`descriptions.caption_files`). Rows with a key
            keep it, with their full provenance.
        images: the images they belong to, found by image id or, if a row has none, by path.
        store: the store to add to. Existing records stay; importing the same rows again adds nothing.
        model: the model that wrote the texts of a plain table, if known.
        text_column: text column of a plain table, unless it is called text, description or caption.
        orphan_texts: `fail` if a text matches no image, or `skip` it.

    Raises:
        DescriptionError: a file or row is invalid (the message names both), or texts match no image.
        BusyError: another import is running.
    """
    files = shared_files(Path(source))
    intake = Intake(images, store, model or IMPORTED, text_column, orphan_texts)
    with progress("Import") as meter:
        store.add_all(with_progress(intake.batches(files), meter.advance))
    return intake.summary(files)


def with_progress(batches: Iterator[pa.RecordBatch], advance: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """Yield the batches and report their rows as progress."""
    for batch in batches:
        yield batch
        advance(batch.num_rows)


class Intake:
    """Convert file rows to the records that a store lacks, without keeping texts in memory."""

    def __init__(
        self,
        images: ImageTable,
        store: DescriptionStore,
        model: str,
        text_column: str | None,
        orphan_texts: OrphanPolicy,
    ) -> None:
        self._images, self._store = images, store
        self._model, self._text_column, self._orphan_texts = model, text_column, orphan_texts
        self._lookup = IdLookup(images)
        self._seen: dict[bytes, int] = {}
        self._orphans: list[str] = []
        self._orphan_count = self._added = self._known = self._empty = self._by_end = 0

    def batches(self, files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
        """Yield the records that the store lacks, with payments for the open conversations that they complete.

        Raises:
            DescriptionError: a row is invalid, or texts match no image and are not to be skipped.
        """
        answered = self._store.keys().answered
        retried = {key: mark.created for key, mark in self._store.marks().items() if mark.verdict == "retry"}
        records, begun = self._records(files), group_turns(self._store.abandoned_turns())
        while rows := list(islice(records, BATCH_ROWS)):
            there = contains(answered, np.asarray([row.key for row in rows], dtype=KEY_TYPE)).tolist()
            void = (row.key in retried and retried[row.key] >= row.created for row in rows)
            fresh = [row for row, *known in zip(rows, there, void, strict=True) if not any(known)]
            self._added += len(fresh)
            self._known += len(rows) - len(fresh)
            if fresh:
                yield to_batch([*fresh, *payments_for(fresh, begun)])
        if self._orphan_count and self._orphan_texts == "fail":
            raise DescriptionError(self._orphan_message(files))

    def summary(self, files: Iterable[Path]) -> ImportSummary:
        """Summarise, once all batches are consumed."""
        names = dict.fromkeys(name for file in files if has_provenance(file) for name in Table(file).columns())
        ignored = tuple(name for name in names if name not in KNOWN)
        return ImportSummary(self._added, self._known, self._orphan_count, self._empty, ignored, self._by_end)

    def _records(self, files: Sequence[Path]) -> Iterator[DescriptionRecord]:
        for file in files:
            yield from self._shared(file) if has_provenance(file) else self._plain(file)

    def _shared(self, file: Path) -> Iterator[DescriptionRecord]:
        """Yield the records of a file whose rows have provenance."""
        for where, row in read_shared_rows(file):
            found = self._find(row.image_id or row.path or "", by_path=row.image_id is None)
            if found is not None and self._is_new(row.key, row.text, where):
                yield row.record(found)

    def _plain(self, file: Path) -> Iterator[DescriptionRecord]:
        """Yield records for the rows of a plain table or the captions of another tool."""
        created = now()
        for each in match_texts(file, self._text_column, self._lookup):
            text, found = each.text.encode("utf-8", "replace").decode(), each.image_id
            self._by_end += each.by_end
            if not text.strip():
                self._empty += 1
                continue
            if found is None:
                self._count_orphan(each.key)
                continue
            key = digest(found, text, self._model)
            if self._is_new(key, text, str(file)):
                yield DescriptionRecord(
                    key, found, text, describer=IMPORTED, model=self._model, prompt=IMPORTED, created=created
                )

    def _find(self, owner: str, *, by_path: bool) -> str | None:
        """Return the image id of a row, or None. Counts an orphan, unless its image was left out as unreadable."""
        found = self._lookup.by_path(owner) if by_path else self._lookup.by_id(owner)
        if found is None and not (by_path and self._lookup.was_rejected(owner)):
            self._count_orphan(owner)
        return found

    def _count_orphan(self, owner: str) -> None:
        self._orphan_count += 1
        self._orphans += [owner] if len(self._orphans) < MOST_SHOWN else []

    def _is_new(self, key: str, text: str, where: str) -> bool:
        """Return whether a key is new. DescriptionError if it occurred with a different text."""
        packed = bytes.fromhex(key)
        if packed not in self._seen:
            self._seen[packed] = hash(text)
            return True
        if self._seen[packed] != hash(text):
            raise DescriptionError(f"{where}: key {key} occurs twice, with different texts. Remove one of them.")
        self._known += 1
        return False

    def _orphan_message(self, files: Sequence[Path]) -> str:
        texts, shown = self._orphan_count + len(self._seen), ", ".join(map(repr, self._orphans))
        where = files[0] if len(files) == 1 else files[0].parent
        return (
            f"{where}: {self._orphan_count:,} of {texts:,} texts match no image in {self._images.source}, such "
            f"as {shown}. Images are found by id (the hash of their bytes) or, if a row has none, by path relative to "
            "the image set. To import the other texts, skip these (--skip-orphans)."
        )


def payments_for(
    records: Iterable[DescriptionRecord], begun: Mapping[str, Sequence[Turn]]
) -> Iterator[DescriptionRecord]:
    """Yield payments for open conversations whose description is imported, because no process will resume them."""
    for record in records:
        ended = [turn for turn in begun.get(record.key, ()) if turn.created <= record.created]
        if ended:
            paid = sum((Spent(turn.cost or 0.0, turn.tokens_in or 0, turn.tokens_out or 0) for turn in ended), Spent())
            asked = replace(record, text="", served_model="", finish_reason=None, seconds=0.0)
            yield payment_of(asked, "imported meanwhile", paid.tokens_in, paid.tokens_out, paid.cost, now())
