"""Tables from users (CSV, TSV, JSON Lines, Parquet and Arrow), all read by the same rules.

Image lists, metadata, descriptions and exported sets go through `Table`, so a file that works as one of them works as
the others. Text files are UTF-8, or UTF-16 with a byte order mark. The delimiter of a CSV file is the one of comma,
semicolon and tab that its first line holds most often. Column names are matched case-insensitively.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt4image.core.errors import DataError
from gpt4image.core.files import check_fetched

# Column names by meaning; if a table has several of them, the first is used.
PATH_COLUMNS = ("path", "file_name", "filename", "image", "file", "image_path", "file_path", "filepath")
ID_COLUMNS = ("id", "image_id")
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name")
SPLIT_COLUMNS = ("split", "subset", "partition")
TEXT_COLUMNS = ("text", "description", "caption")

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
ARROW_SUFFIXES = (".parquet", ".arrow")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, *ARROW_SUFFIXES)

# How Python, pandas, R, databases and spreadsheets write missing values as text.
_MISSING = (
    "nan NaN NAN -nan -NaN None <NA> NaT NA N/A n/a #N/A #NA #NULL! #VALUE! #REF! null NULL <null> (null) [NULL] \\N"
)
MISSING = frozenset(_MISSING.split())

Row = dict[str, Any]

_LONGEST_FIELD = 2**30  # the csv module's own limit, 128 KiB, is less than some descriptions
_BATCH_ROWS = 4096
_STRINGS = ("string", "large_string", "string_view")
_ESCAPED = re.compile("[\udc80-\udcff]")  # what the error handler "surrogateescape" makes of undecodable bytes


def is_table(path: Path) -> bool:
    """Whether a file has the suffix of a table, in any case."""
    return path.suffix.casefold() in TABLE_SUFFIXES


def is_missing(value: object) -> bool:
    """Whether a cell is missing: None, NaN, blank, or a spelling of a missing value."""
    if isinstance(value, str):
        return not value.strip() or value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def compose(text: str) -> str:
    """Return a text with composed characters (NFC): macOS writes decomposed ones, which look the same."""
    return unicodedata.normalize("NFC", text)


def pick_column(columns: Sequence[str], wanted: str | None, known: Sequence[str], option: str = "") -> str | None:
    """Return the column that the user names, else the first known name (in any case), else None.

    Raises:
        DataError: the user names a column that the table does not have; `option` says how it was named.
    """
    if wanted in columns:
        return wanted
    folded = {column.strip().casefold(): column for column in reversed(columns)}
    if wanted is None:
        return next((folded[name] for name in known if name in folded), None)
    if wanted.strip().casefold() not in folded:
        raise DataError(f"{option} {wanted!r} does not exist. Columns: {', '.join(columns)}.")
    return folded[wanted.strip().casefold()]


@dataclass(frozen=True)
class Table:
    """A table file. It is read as a stream, so it may be larger than memory.

    Attributes:
        path: the file.
        error: type of the errors about it.
    """

    path: Path
    error: type[DataError] = DataError

    def __post_init__(self) -> None:
        if not is_table(self.path):
            raise self.error(f"{self.path}: tables must be {', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}.")

    @property
    def is_arrow(self) -> bool:
        """Whether the file is Parquet or Arrow, with typed columns, rather than text."""
        return self.path.suffix.casefold() in ARROW_SUFFIXES

    @property
    def is_csv(self) -> bool:
        """Whether the file is CSV or TSV, whose values are all strings."""
        return self.path.suffix.casefold() in CSV_SUFFIXES

    @property
    def unit(self) -> str:
        """Unit of row numbers: lines in a text file, where a field may span several."""
        return "row" if self.is_arrow else "line"

    def where(self, number: int) -> str:
        """Name a row in messages."""
        return f"{self.path}, {self.unit} {number}"

    def columns(self) -> list[str]:
        """Return the names of the columns: those of the first row, in a JSON Lines file."""
        if self.is_arrow:
            return list(self.schema().names)
        return next((list(row) for _, row in self.rows()), [])

    def schema(self) -> pa.Schema:
        """Return the schema of a Parquet or Arrow file."""
        return self._open_arrow()[0]

    def holds_bytes(self) -> bool:
        """Whether a column holds bytes, alone or beside a path as in image columns of `datasets`."""
        return self.is_arrow and any(_is_bytes(field.type) or pa.types.is_struct(field.type) for field in self.schema())

    def string_columns(self) -> list[str]:
        """Return the names of the text columns of a Parquet or Arrow file, dictionary-encoded ones included."""
        return [field.name for field in self.schema() if str(_decoded(field.type)) in _STRINGS]

    def rows(self, columns: Collection[str] | None = None, nested: Collection[str] = ()) -> Iterator[tuple[int, Row]]:
        """Yield (number, row), as `where` numbers them; values of CSV files are strings, "" where a field is empty.

        Args:
            columns: names of the columns to read from a Parquet or Arrow file; None for all but bytes and nested
                values. Text files always yield all their columns.
            nested: names of columns, in any case, that are read although their values are nested.

        Raises:
            DataError: the file or a row is broken; the message names it.
        """
        if self.is_arrow:
            return self._arrow_rows(columns, {name.strip().casefold() for name in nested})
        return self._csv_rows() if self.is_csv else self._json_rows()

    def _csv_rows(self) -> Iterator[tuple[int, Row]]:
        csv.field_size_limit(_LONGEST_FIELD)
        lines = self._lines()
        first = next(lines, "")
        tabs = self.path.suffix.casefold() == ".tsv"
        delimiter = "\t" if tabs else max(",;\t", key=re.sub('"[^"]*"', "", first).count)
        reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader)]
            # Blank names are pandas indices and empty columns of spreadsheets.
            repeated = [name for name, count in Counter(header).items() if name and count > 1]
            if repeated:
                raise self.error(f"{self.where(1)} has two columns named {repeated[0]!r}. Rename one of them.")
            for fields in reader:
                if len(fields) > len(header):
                    raise self.error(
                        f"{self.where(reader.line_num)} has {len(fields)} fields, but the header has {len(header)}."
                    )
                if fields:
                    # Spreadsheets omit empty fields at the end of a row.
                    yield reader.line_num, dict(zip_longest(header, fields))
        except csv.Error as error:
            raise self.error(f"{self.where(reader.line_num)} is malformed: {error}.") from None

    def _json_rows(self) -> Iterator[tuple[int, Row]]:
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self.error(f"{self.where(number)} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise self.error(f"{self.where(number)} is not a JSON object but {type(row).__name__}.")
            yield number, row

    def _lines(self) -> Iterator[str]:
        """Yield lines with their line ends, because a CSV field may contain line breaks."""
        try:
            check_fetched(self.path, self.error)
            with self.path.open("rb") as file:
                mark = file.read(2)
                file.seek(0)
                encoding = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
                # Escaping undecodable bytes shows which line they are in; "strict" would fail a buffer too early.
                text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
                for number, line in enumerate(text, 1):
                    if not line.isascii() and _ESCAPED.search(line):
                        raise self.error(f"{self.where(number)} is not UTF-8 text. Save the file as UTF-8.")
                    yield line
        except (OSError, UnicodeError) as error:
            raise self.error(f"{self.path} cannot be read: {error}.") from None

    def _arrow_rows(self, columns: Collection[str] | None, nested: Collection[str]) -> Iterator[tuple[int, Row]]:
        schema, read = self._open_arrow()
        if columns is None:
            names = [field.name for field in schema if _is_plain(field) or field.name.strip().casefold() in nested]
        else:
            names = [name for name in schema.names if name in columns]
        number = 0
        try:
            for batch in read(names):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (OSError, pa.ArrowException) as error:
            raise self.error(f"{self.path}, after row {number}: cannot be read: {error}.") from None

    def _open_arrow(self) -> tuple[pa.Schema, Callable[[list[str]], Iterator[pa.RecordBatch]]]:
        """Return the schema, and a function that yields batches of some columns."""
        kind = self.path.suffix[1:].capitalize()
        try:
            check_fetched(self.path, self.error)
            if kind == "Parquet":
                file = pq.ParquetFile(self.path)
                return file.schema_arrow, lambda names: file.iter_batches(_BATCH_ROWS, columns=names)
            source = pa.memory_map(str(self.path))
            try:
                stream = pa.ipc.open_stream(source)  # as `datasets` writes
            except pa.ArrowInvalid:
                stream = pa.ipc.open_file(source)
                batches = map(stream.get_batch, range(stream.num_record_batches))
            else:
                batches = iter(stream)
            return stream.schema, lambda names: (batch.select(names) for batch in batches)
        except (OSError, pa.ArrowException) as error:
            raise self.error(f"{self.path} cannot be read as {kind}: {error}.") from None


def _decoded(dtype: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values (a pandas category), else the type itself."""
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype


def _is_plain(field: pa.Field) -> bool:
    return not (_is_bytes(field.type) or pa.types.is_nested(field.type))


def _is_bytes(dtype: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(kind(dtype) for kind in kinds)
