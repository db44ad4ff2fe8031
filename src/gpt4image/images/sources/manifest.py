"""CSV, TSV and JSONL files that name images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from gpt4image.core.errors import DataError
from gpt4image.core.tables import LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS, Table, pick_column
from gpt4image.images.sources.files import FileReader, inspect_file, is_image_name, walk
from gpt4image.images.sources.folders import split_folders
from gpt4image.images.sources.listing import (
    Label,
    Listing,
    ListingBuilder,
    unknown_text_column,
)
from gpt4image.images.splits import require_split, split_named


@dataclass
class Manifest:
    """The rows of a file that names images, column by column.

    Attributes:
        table: the file.
        columns: column name -> values; a value that is missing or empty is None.
        lines: line number of every row.
    """

    table: Table
    columns: dict[str, list[Any]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """Where it lies."""
        return self.table.path

    def where(self, row: int) -> str:
        """A row's place for messages."""
        return self.table.where(self.lines[row])


def read_manifest(file: Path) -> Manifest:
    """Read a table. DataError names the file and the row that is broken."""
    manifest = Manifest(Table(file))
    for number, row in manifest.table.rows():
        for name in row:
            if name not in manifest.columns:
                manifest.columns[name] = [None] * len(manifest.lines)
        for name, values in manifest.columns.items():
            value = row.get(name)
            values.append(None if value == "" else value)
        manifest.lines.append(number)
    if not manifest.lines:
        raise DataError(f"{file} holds no rows.")
    return manifest


@dataclass(frozen=True)
class Roles:
    """Which column of a manifest means what."""

    path: str
    label: str | None
    split: str | None
    texts: tuple[str, ...]


def roles_of(manifest: Manifest, image_column: str | None, label_column: str | None) -> Roles:
    """Tell the columns apart by name. DataError lists them when none names the images."""
    columns = tuple(manifest.columns)
    path = pick_column(columns, image_column, PATH_COLUMNS, f"{manifest.file}: image_column")
    label = pick_column(columns, label_column, LABEL_COLUMNS, f"{manifest.file}: label_column")
    if path is None:
        raise DataError(
            f"{manifest.file} has no column that names the images ({', '.join(PATH_COLUMNS)}). "
            f"Columns: {', '.join(columns)}. Say which it is with image_column."
        )
    split = pick_column(columns, None, SPLIT_COLUMNS, "")
    split = split if split not in (path, label) else None
    texts = tuple(column for column in columns if column not in (path, label, split))
    return Roles(path, label, split, texts)


def names_files(file: Path, image_column: str | None) -> bool:
    """Whether a Parquet or Arrow file names image files rather than holding images."""
    table = Table(file)
    strings = [field.name for field in table.schema() if pa.types.is_string(field.type)]
    named = image_column in strings if image_column else pick_column(strings, None, PATH_COLUMNS)
    return bool(named) and not table.holds_bytes()


def checked_label(value: object, where: str) -> Label:
    """A label as the manifest holds it. DataError when it is not a single value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (bool, int, float)):
        return value
    raise DataError(f"{where}: the label {value!r} is not a single name or number. One label an image is supported.")


def checked_path(value: object, where: str) -> str:
    """An image's path as the manifest holds it. DataError when it is none."""
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise DataError(f"{where}: {value!r} is not the path of an image.")


def list_manifest(file: Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images that a CSV, TSV or JSONL file names, relative to its folder or absolute.

    Raises:
        DataError: a row is malformed, or there is no column of paths or of labels.
    """
    manifest = read_manifest(file)
    roles = roles_of(manifest, image_column, label_column)
    if roles.label is None:
        raise DataError(
            f"{file} has no label column ({', '.join(LABEL_COLUMNS)}). Columns: {', '.join(manifest.columns)}. "
            "Say which it is with label_column."
        )
    builder = ListingBuilder()
    scope = str(file.parent.resolve())
    for row, value in enumerate(manifest.columns[roles.path]):
        where = manifest.where(row)
        path = checked_path(value, where)
        label = checked_label(manifest.columns[roles.label][row], where)
        split = require_split(str(manifest.columns[roles.split][row] or ""), where) if roles.split else "train"
        found = inspect_file(file.parent / path, path, scope)
        if found.fault:
            builder.reject(found.path, f"{found.fault} ({file.name} {manifest.table.unit} {manifest.lines[row]})")
        else:
            builder.add(path, label, split, row, found.key)
    return builder.listing(ManifestReader(file.parent, roles.texts, (file,)))


@dataclass(frozen=True)
class ManifestReader(FileReader):
    """Reads image files and, when asked, the text columns of the files that name them.

    The texts are not part of the pickle; another process reads the files again.
    """

    files: tuple[Path, ...] = ()

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """A text column's values for the given rows, counted through all files."""
        if column not in self.text_columns:
            raise unknown_text_column(column, self.text_columns)
        values: list[Any] = []
        for manifest in self._manifests:
            values.extend(manifest.columns.get(column, [None] * len(manifest.lines)))
        if rows and max(rows) >= len(values):
            raise DataError(f"{', '.join(map(str, self.files))} became shorter while it was in use. Load it again.")
        return [_as_text(values[row]) for row in rows]

    @cached_property
    def _manifests(self) -> tuple[Manifest, ...]:
        return tuple(read_manifest(file) for file in self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_manifests"}


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


def find_metadata(root: Path) -> tuple[Path, ...]:
    """The metadata files of a folder: its own, else those of its split folders."""
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and split_named(path.name))]
    found = [path for folder in folders for name in METADATA_NAMES if (path := folder / name).is_file()]
    for first, second in pairwise(found):
        if first.parent == second.parent:
            raise DataError(f"{first.parent} holds both {first.name} and {second.name}. Keep one.")
    own = [path for path in found if path.parent == root]
    return tuple(own or found)


def list_metadata_folder(
    root: Path, files: tuple[Path, ...], image_column: str | None, label_column: str | None
) -> Listing:
    """List the images that metadata files name. Files that no row names, and rows that lead out, are left out.

    Raises:
        DataError: a row is malformed, or there is neither a label column nor a class folder.
    """
    manifests = [read_manifest(file) for file in files]
    roles = [roles_of(manifest, image_column, label_column) for manifest in manifests]
    _check_label_columns(manifests, roles)
    builder = ListingBuilder()
    divided = bool(split_folders(root))
    named: set[str] = set()
    offset = 0
    for manifest, role in zip(manifests, roles, strict=True):
        named |= _add_rows(builder, root, manifest, role, divided=divided, offset=offset)
        offset += len(manifest.lines)
    names = {file.relative_to(root).as_posix() for file in files}
    for found in walk(root):
        if found.path in named or found.path in names:
            continue
        reason = "no row of the metadata names it" if is_image_name(found.path) else "not an image"
        builder.ignore(found.path, found.fault or reason)
    if not any(label is not None for label in builder.labels) and builder.labels:
        raise DataError(
            f"{files[0]} has no label column and its images lie in no class folders. "
            "Add a column `label`, or say which it is with label_column."
        )
    texts = dict.fromkeys(text for role in roles for text in role.texts)
    return builder.listing(ManifestReader(root, tuple(texts), files))


def _check_label_columns(manifests: list[Manifest], roles: list[Roles]) -> None:
    columns = {role.label for role in roles}
    if len(columns) > 1:
        listed = "; ".join(f"{m.file}: {r.label or 'none'}" for m, r in zip(manifests, roles, strict=True))
        raise DataError(f"The metadata files differ in their label column ({listed}). Give them the same one.")


def _add_rows(
    builder: ListingBuilder, root: Path, manifest: Manifest, roles: Roles, *, divided: bool, offset: int
) -> set[str]:
    """Take a manifest's rows in; the paths of all files that it names."""
    base = manifest.file.parent.relative_to(root)
    scope = str(root.resolve())
    named = set()
    for row, value in enumerate(manifest.columns[roles.path]):
        where = manifest.where(row)
        given = PurePosixPath(checked_path(value, where))
        note = f"({manifest.file.relative_to(root).as_posix()} {manifest.table.unit} {manifest.lines[row]})"
        if given.is_absolute() or ".." in given.parts:
            builder.reject(str(given), f"the path leads out of the folder {note}")
            continue
        path = PurePosixPath(base.as_posix()) / given
        found = inspect_file(root / path, str(path), scope)
        named.add(str(path))
        if found.fault:
            builder.reject(found.path, f"{found.fault} {note}")
            continue
        split = "train"
        if roles.split:
            split = require_split(str(manifest.columns[roles.split][row] or ""), where)
        elif divided:
            split = require_split(path.parts[0], where)
        label = (
            checked_label(manifest.columns[roles.label][row], where) if roles.label else _folder_label(path, divided)
        )
        builder.add(str(path), label, split, offset + row, found.key)
    return named


def _folder_label(path: PurePosixPath, divided: bool) -> Label:
    folders = path.parts[1:-1] if divided else path.parts[:-1]
    return folders[0] if folders else None
