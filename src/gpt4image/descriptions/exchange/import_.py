"""Descriptions in: a shared set, or any table of texts, taken into a store so that nothing is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpt4image.core.console import counted, progress
from gpt4image.core.errors import DescriptionError
from gpt4image.core.files import digest
from gpt4image.core.tables import Table
from gpt4image.descriptions.exchange.rows import KNOWN, has_provenance, read_shared_rows, shared_files
from gpt4image.descriptions.readers import IdLookup, OrphanPolicy, read_keyed_texts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.conversations import Turn, group_turns
from gpt4image.descriptions.store.description_store import Spent, contains
from gpt4image.descriptions.store.latest import KEY_TYPE
from gpt4image.descriptions.store.records import payment_of
from gpt4image.descriptions.store.shards import BATCH_ROWS, now, to_batch
from gpt4image.images.table import ImageTable

IMPORTED = "imported"


"""Model and prompt of texts that do not say theirs."""


MOST_SHOWN = 5


@dataclass(frozen=True)
class ImportSummary:
    """What was imported.

    Attributes:
        added: texts that are now in the store.
        known: texts that were there already, or are to be written again.
        orphans: texts that fit no image.
        empty: rows of a plain table that have no text.
        ignored: columns that mean nothing to a store.
    """

    added: int
    known: int
    orphans: int
    empty: int
    ignored: tuple[str, ...]

    def line(self) -> str:
        """The account in one line."""
        parts = [f"{counted(self.added, 'text')} imported"]
        parts += [f"{self.known:,} known already"] if self.known else []
        parts += [f"{self.orphans:,} that fit no image left out"] if self.orphans else []
        parts += [f"{counted(self.empty, 'row')} without a text"] if self.empty else []
        parts += [f"columns not used: {', '.join(self.ignored)}"] if self.ignored else []
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
    """Take descriptions into a store: all of them, or none where a row is broken or the process is killed.

    Args:
        source: an exported folder, one of its files, or a plain table of texts keyed by image id or path (`.csv`,
            `.tsv`, `.jsonl`, `.parquet`). Rows with a key keep it and all they say of their origin.
        images: the images they belong to, found by image id, and by path where a row has no id.
        store: where they go. What it has is kept; importing the same again adds nothing.
        model: model of the texts of a plain table, where it is known.
        text_column: the plain table's text column, where it is not called text, description or caption.
        orphan_texts: `fail` when a text fits no image, or `skip` it.

    Raises:
        DescriptionError: a file or row is broken (both are named), or texts fit no image.
        BusyError: another import is under way.
    """
    files = shared_files(Path(source))
    intake = Intake(images, store, model or IMPORTED, text_column, orphan_texts)
    with progress("Import") as meter:
        store.add_all(follow(intake.batches(files), meter.advance))
    return intake.summary(files)


def follow(batches: Iterator[pa.RecordBatch], advance: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """The same batches, counted as they pass."""
    for batch in batches:
        yield batch
        advance(batch.num_rows)


class Intake:
    """Turns the rows of files into records that a store lacks. No text stays in memory.

    Args:
        images: the images.
        store: the store.
        model: model of texts that do not say theirs.
        text_column: text column of plain tables, None for the usual names.
        orphan_texts: what to do about texts that fit no image.
    """

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
        self._orphan_count = self._added = self._known = self._empty = 0

    def batches(self, files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
        """Records that the store lacks, every row checked, and what was paid for conversations that they put an end to.

        Raises:
            DescriptionError: a row is broken, or texts fit no image and are not to be skipped.
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
        """The account, once all batches are taken."""
        names = dict.fromkeys(name for file in files if has_provenance(file) for name in Table(file).columns())
        ignored = tuple(name for name in names if name not in KNOWN)
        return ImportSummary(self._added, self._known, self._orphan_count, self._empty, ignored)

    def _records(self, files: Sequence[Path]) -> Iterator[DescriptionRecord]:
        for file in files:
            yield from self._shared(file) if has_provenance(file) else self._plain(file)

    def _shared(self, file: Path) -> Iterator[DescriptionRecord]:
        """Records of a file whose rows say where they come from."""
        for where, row in read_shared_rows(file):
            found = self._find(row.image_id or row.path or "", by_path=row.image_id is None)
            if found is not None and self._is_new(row.key, row.text, where):
                yield row.record(found)

    def _plain(self, file: Path) -> Iterator[DescriptionRecord]:
        """Records of a table of texts."""
        created = now()
        for owner, given, by_path in read_keyed_texts(file, self._text_column):
            text = given.encode("utf-8", "replace").decode()
            if not text.strip():
                self._empty += 1
                continue
            found = self._find(owner, by_path=by_path)
            if found is None:
                continue
            key = digest(found, text, self._model)
            if self._is_new(key, text, str(file)):
                yield DescriptionRecord(
                    key, found, text, describer=IMPORTED, model=self._model, prompt=IMPORTED, created=created
                )

    def _find(self, owner: str, *, by_path: bool) -> str | None:
        """The image of a row. None where there is none, which counts unless the image was left out as unreadable."""
        found = self._lookup.by_path(owner) if by_path else self._lookup.by_id(owner)
        if found is None and not (by_path and self._lookup.was_rejected(owner)):
            self._orphan_count += 1
            self._orphans += [owner] if len(self._orphans) < MOST_SHOWN else []
        return found

    def _is_new(self, key: str, text: str, where: str) -> bool:
        """Whether a key comes for the first time. DescriptionError when it came with another text."""
        packed = bytes.fromhex(key)
        if packed not in self._seen:
            self._seen[packed] = hash(text)
            return True
        if self._seen[packed] != hash(text):
            raise DescriptionError(f"{where}: key {key} stands here twice, with different texts. Take one of them out.")
        self._known += 1
        return False

    def _orphan_message(self, files: Sequence[Path]) -> str:
        texts, shown = self._orphan_count + len(self._seen), ", ".join(map(repr, self._orphans))
        where = files[0] if len(files) == 1 else files[0].parent
        return (
            f"{where}: {self._orphan_count:,} of {texts:,} texts fit no image of {self._images.source}, such "
            f"as {shown}. Images are found by id, the hash of their bytes, or where a row has none by path relative to "
            "the image set. To import the others: --skip-orphans."
        )


def payments_for(
    records: Iterable[DescriptionRecord], begun: Mapping[str, Sequence[Turn]]
) -> Iterator[DescriptionRecord]:
    """What was paid here for descriptions that come from elsewhere: once they are there, nobody takes it up."""
    for record in records:
        ended = [turn for turn in begun.get(record.key, ()) if turn.created <= record.created]
        if ended:
            paid = sum((Spent(turn.cost or 0.0, turn.tokens_in or 0, turn.tokens_out or 0) for turn in ended), Spent())
            asked = replace(record, text="", served_model="", finish_reason=None, seconds=0.0)
            yield payment_of(asked, "imported meanwhile", paid.tokens_in, paid.tokens_out, paid.cost, now())
