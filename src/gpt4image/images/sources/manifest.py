"""Tables that name image files: a list of them, or the metadata of a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from gpt4image.core.errors import DataError
from gpt4image.core.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, Table, pick_column
from gpt4image.images.sources.folders import FileReader, inspect_file, is_image_name, split_folders, walk
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder, read_label
from gpt4image.images.splits import require_split, split_named

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


def list_manifest(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that a table names by paths, absolute or relative to its folder.

    Raises:
        DataError: a row is broken, or there is no column of paths or of labels.
    """
    (file,) = files
    manifest = read_manifest(file, columns)
    if manifest.label is None:
        raise DataError(
            f"{file} has no label column ({', '.join(LABEL_COLUMNS)}). Columns: {', '.join(manifest.columns)}. "
            "Name it with label_column."
        )
    builder = ListingBuilder()
    scope = str(root.resolve())
    for row, value in enumerate(manifest.columns[manifest.path]):
        path = checked_path(value, manifest.where(row))
        found = inspect_file(root / path, path, scope)
        if found.fault:
            builder.reject(found.path, f"{found.fault} ({file.name} {manifest.place(row)})")
        else:
            builder.add(path, manifest.label_of(row), manifest.split_of(row) or "train", row, found.key)
    return builder.listing(ManifestReader(root, manifest.texts, (file,)))


def find_metadata(root: Path) -> list[Path]:
    """Return the metadata files of a folder: its own, else those of its split folders."""
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and split_named(path.name))]
    found = [path for folder in folders for name in METADATA_NAMES if (path := folder / name).is_file()]
    for first, second in pairwise(found):
        if first.parent == second.parent:
            raise DataError(f"{first.parent} holds both {first.name} and {second.name}. Keep one.")
    return [path for path in found if path.parent == root] or found


def list_metadata_folder(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that metadata files name by paths inside the folder.

    Labels come from a column, else from the class folders. Files that no row names are left out.

    Raises:
        DataError: a row is broken, or there is neither a label column nor a class folder.
    """
    manifests = [read_manifest(file, columns) for file in files]
    if len({manifest.label for manifest in manifests}) > 1:
        listed = "; ".join(f"{manifest.table.path}: {manifest.label or 'none'}" for manifest in manifests)
        raise DataError(f"The metadata files differ in their label column ({listed}). Give them the same one.")
    builder = ListingBuilder()
    named = {file.relative_to(root).as_posix() for file in files}
    divided = bool(split_folders(root))
    offset = 0
    for manifest in manifests:
        named |= _add_metadata_rows(builder, root, manifest, divided=divided, offset=offset)
        offset += len(manifest.numbers)
    for found in walk(root):
        if found.path not in named:
            reason = "no row of the metadata names it" if is_image_name(found.path) else "not an image"
            builder.ignore(found.path, found.fault or reason)
    if not builder.has_labels:
        raise DataError(
            f"{files[0]} has no label column and its images lie in no class folders. "
            "Add a column `label`, or name one with label_column."
        )
    texts = dict.fromkeys(text for manifest in manifests for text in manifest.texts)
    return builder.listing(ManifestReader(root, tuple(texts), tuple(files)))


def _add_metadata_rows(
    builder: ListingBuilder, root: Path, manifest: Manifest, *, divided: bool, offset: int
) -> set[str]:
    """Add the rows of one metadata file, counted from `offset`; return the paths of all files that it names."""
    file = manifest.table.path
    base = PurePosixPath(file.parent.relative_to(root).as_posix())
    scope = str(root.resolve())
    named = set()
    for row, value in enumerate(manifest.columns[manifest.path]):
        where = manifest.where(row)
        given = PurePosixPath(checked_path(value, where))
        note = f"({file.relative_to(root).as_posix()} {manifest.place(row)})"
        if given.is_absolute() or ".." in given.parts:
            builder.reject(str(given), f"the path leads out of the folder {note}")
            continue
        path = base / given
        found = inspect_file(root / path, str(path), scope)
        named.add(str(path))
        if found.fault:
            builder.reject(found.path, f"{found.fault} {note}")
            continue
        split = manifest.split_of(row) or (require_split(path.parts[0], where) if divided else "train")
        folders = path.parts[divided:-1]
        label = manifest.label_of(row) if manifest.label else next(iter(folders), None)
        builder.add(str(path), label, split, offset + row, found.key)
    return named


@dataclass(frozen=True)
class Manifest:
    """A table that names image files, in memory.

    Attributes:
        table: the file.
        numbers: number of each row in the file.
        columns: name -> values; None if a field is missing or empty.
        path: name of the column of paths.
        label: name of the column of labels, None if there is none.
        split: name of the column of splits, None if there is none.
    """

    table: Table
    numbers: list[int]
    columns: dict[str, list[Any]]
    path: str
    label: str | None
    split: str | None

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the other columns."""
        return tuple(column for column in self.columns if column not in (self.path, self.label, self.split))

    def place(self, row: int) -> str:
        """Name a row of the file in messages."""
        return f"{self.table.unit} {self.numbers[row]}"

    def where(self, row: int) -> str:
        """Name file and row in messages."""
        return self.table.where(self.numbers[row])

    def label_of(self, row: int) -> str | None:
        """Return a row's class name, None if it has none."""
        return read_label(self.columns[self.label][row], self.where(row)) if self.label else None

    def split_of(self, row: int) -> str | None:
        """Return a row's split, None without such a column. DataError if the column names none."""
        return require_split(str(self.columns[self.split][row] or ""), self.where(row)) if self.split else None


def read_manifest(file: Path, named: ColumnNames) -> Manifest:
    """Read a table and tell its columns apart by name.

    Raises:
        DataError: the table has no rows or no column of paths, or a row is broken; file and row are named.
    """
    table = Table(file)
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {}
    for number, row in table.rows():
        for name in row:
            if name not in columns:  # the rows of JSON Lines may differ
                columns[name] = [None] * len(numbers)
        for name, values in columns.items():
            value = row.get(name)
            values.append(None if value == "" else value)
        numbers.append(number)
    if not numbers:
        raise DataError(f"{file} holds no rows.")
    names = list(columns)
    path = pick_column(names, named.image, PATH_COLUMNS, f"{file}: image_column")
    label = pick_column(names, named.label, LABEL_COLUMNS, f"{file}: label_column")
    if path is None:
        raise DataError(
            f"{file} has no column that names the images ({', '.join(PATH_COLUMNS)}). "
            f"Columns: {', '.join(names)}. Name it with image_column."
        )
    split = pick_column(names, None, SPLIT_COLUMNS)
    return Manifest(table, numbers, columns, path, label, split if split not in (path, label) else None)


def checked_path(value: object, where: str) -> str:
    """Return an image's path as the table holds it. DataError if it is none."""
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise DataError(f"{where}: {value!r} is not the path of an image.")


def names_files(file: Path, image_column: str | None) -> bool:
    """Whether a Parquet or Arrow file names image files rather than holding images."""
    table = Table(file)
    strings = [field.name for field in table.schema() if pa.types.is_string(field.type)]
    named = image_column in strings if image_column else pick_column(strings, None, PATH_COLUMNS)
    return bool(named) and not table.holds_bytes()


@dataclass(frozen=True)
class ManifestReader(FileReader):
    """Reads image files, and text columns from the tables that name them.

    The texts are not kept: pickles stay small, and another process reads the tables again.
    """

    files: tuple[Path, ...] = ()

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column's values for some rows, counted through all files. DataError if the files shrank."""
        values = [row.get(column) for file in self.files for _, row in Table(file).rows()]
        if rows and max(rows) >= len(values):
            raise DataError(f"{', '.join(map(str, self.files))} became shorter while it was in use. Load it again.")
        return [_as_text(values[row]) for row in rows]


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)
