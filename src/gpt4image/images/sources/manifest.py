"""Tables that name image files: a list of them, or the metadata of a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.tables import LABEL_COLUMNS, PATH_COLUMNS, TABLE_SUFFIXES, Row, Table, pick_column
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.folders import (
    FetchedImages,
    FileReader,
    inspect_file,
    is_image_name,
    locate,
    split_folders,
    walk,
)
from gpt4image.images.sources.label_sets import LabelSet, read_flags, read_label_list
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder, read_label
from gpt4image.images.sources.split_columns import SplitColumns, find_split_columns
from gpt4image.images.splits import require_split, split_named

METADATA_OF_DATASETS = ("metadata.csv", "metadata.jsonl")  # these are never anything else
NAME_COLUMNS = (*PATH_COLUMNS, "url", "image_url")
METADATA_NAMES = frozenset(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)


def list_manifest(root: Path, files: Sequence[Path], columns: ColumnNames, kept: Path | None = None) -> Listing:
    """List the images that a table names by paths, absolute or relative to its folder, or by addresses.

    Args:
        root: the table's folder.
        files: the table.
        columns: the columns that the user names.
        kept: the folder that keeps images that are fetched; None for none.

    Raises:
        ConfigError: there are addresses, and no folder that keeps what is fetched.
        DataError: a row is broken, or there is no column of paths or of labels.
    """
    (file,) = files
    manifest = read_manifest(file, root, columns)
    if manifest.label_column is None and columns.labelled:
        raise DataError(
            f"{file} has no label column ({', '.join(LABEL_COLUMNS)}). Columns: {', '.join(manifest.columns)}. "
            "Name it with label_column (--label-column)."
        )
    builder = ListingBuilder()
    scope = str(root.resolve())
    fetched = FetchedImages.of((entry.path for entry in manifest.entries), file, kept)
    for row, entry in enumerate(manifest.entries):
        found = fetched.inspect(entry.path) or inspect_file(root / (path := locate(root, entry.path)), path, scope)
        if found.fault:
            builder.reject(found.path, f"{found.fault} ({entry.note})")
        else:
            builder.add(found.path, entry.label, entry.split or "train", row, found.key)
    return builder.listing(ManifestReader(root, manifest.text_columns, fetched.folder, (file,)))


def find_metadata(root: Path, columns: ColumnNames) -> list[Path]:
    """Return the metadata files of a folder: its own, else those of its split folders."""
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and split_named(path.name))]
    entries = (path for folder in folders for path in sorted(folder.iterdir()))
    found = [path for path in entries if path.name.casefold() in METADATA_NAMES and path.is_file()]
    naming = [path for path in found if names_files(path, columns.image)]
    found = naming or [path for path in found if path.name in METADATA_OF_DATASETS]
    for first, second in pairwise(found):
        if first.parent == second.parent:
            raise DataError(f"{first.parent} contains both {first.name} and {second.name}. Keep one.")
    return [path for path in found if path.parent == root] or found


def list_metadata_folder(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that metadata files name by paths inside the folder.

    Labels come from a column, else from the class folders. Files that no row names are left out.

    Raises:
        DataError: a row is broken, or there is neither a label column nor a class folder.
    """
    manifests = [read_manifest(file, root, columns) for file in files]
    if len({manifest.label_column for manifest in manifests}) > 1:
        listed = "; ".join(f"{file}: {m.label_column or 'none'}" for file, m in zip(files, manifests, strict=True))
        raise DataError(f"The metadata files differ in their label column ({listed}). Give them the same one.")
    builder = ListingBuilder()
    named = {file.relative_to(root).as_posix() for file in files}
    divided = columns.labelled and bool(split_folders(root))
    scope = str(root.resolve())
    rows = ((file, m, entry) for file, m in zip(files, manifests, strict=True) for entry in m.entries)
    for row, (file, manifest, entry) in enumerate(rows):  # rows count through all files
        # Metadata may be untrusted, so it must not lead to files outside the image set.
        given = PurePosixPath(locate(file.parent, entry.path))
        if given.is_absolute() or ".." in given.parts:
            builder.reject(str(given), f"the path leads outside the folder ({entry.note})")
            continue
        path = PurePosixPath(file.parent.relative_to(root).as_posix()) / given
        found = inspect_file(root / path, str(path), scope)
        named.add(str(path))
        if found.fault:
            builder.reject(found.path, f"{found.fault} ({entry.note})")
            continue
        split = entry.split or (require_split(path.parts[0], entry.where) if divided else "train")
        class_folder = next(iter(path.parts[divided:-1]), None)
        builder.add(str(path), entry.label if manifest.label_column else class_folder, split, row, found.key)
    unnamed = 0
    for found in walk(root):
        if found.path not in named:
            unnamed += Path(found.path).suffix.casefold() in IMAGE_SUFFIXES
            reason = "not named in the metadata" if is_image_name(found.path) else "not an image"
            builder.ignore(found.path, found.fault or reason)
    if unnamed > len(builder.images):
        say(
            f"{', '.join(file.name for file in files)}: names only {len(builder.images):,} of the "
            f"{len(builder.images) + unnamed:,} images in {root}. If the others belong to the set, add rows for them, "
            "or move the table out of the folder.",
            "yellow",
        )
    if columns.labelled and not builder.has_labels:
        raise DataError(
            f"{files[0]} has no label column and its images are not in class folders. Add a column `label`, or name "
            "one with label_column (--label-column)."
        )
    texts = dict.fromkeys(text for manifest in manifests for text in manifest.text_columns)
    return builder.listing(ManifestReader(root, tuple(texts), None, tuple(files)))


@dataclass(frozen=True)
class ManifestRow:
    """A row of a table that names image files.

    Attributes:
        path: the image's path as the table holds it.
        label: its class name, or all its labels; None if it has none.
        split: its split, None if the table has no such column.
        where: file and row, in errors.
        note: file and row, in the reasons for leaving an image out.
    """

    path: str
    label: str | LabelSet | None
    split: str | None
    where: str
    note: str


@dataclass(frozen=True)
class Manifest:
    """A table that names image files; `label_column` is None if there is none."""

    entries: list[ManifestRow]
    columns: tuple[str, ...]
    label_column: str | None
    text_columns: tuple[str, ...]


def read_manifest(file: Path, root: Path, named: ColumnNames) -> Manifest:
    """Read a table of the image set at `root` and tell its columns apart by name.

    Raises:
        DataError: the table has no rows or no column of paths, or a row is broken; file and row are named.
    """
    table = Table(file)
    rows = list(table.rows(nested=(*LABEL_COLUMNS, named.label or "")))
    if not rows:
        raise DataError(f"{file} has no rows.")
    columns = tuple(dict.fromkeys(name for _, row in rows for name in row))  # rows of JSON Lines may differ
    path = pick_column(columns, named.image, NAME_COLUMNS, f"{file}: image_column (--image-column)")
    label = pick_column(columns, named.label, LABEL_COLUMNS, f"{file}: label_column (--label-column)")
    flags = [str(pick_column(columns, name, (), f"{file}: label_columns (--label-columns)")) for name in named.flags]
    if path is None:
        raise DataError(
            f"{file} has no column that names the images ({', '.join(NAME_COLUMNS)}). "
            f"Columns: {', '.join(columns)}. Name it with image_column (--image-column)."
        )
    split = SplitColumns()
    if named.labelled:
        split = find_split_columns(
            columns, lambda name: (row.get(name) for _, row in rows), (path, label, *flags), str(file)
        )
    lists = named.separator is not None or (label and any(isinstance(row.get(label), list) for _, row in rows))

    def read_labels(row: Row, where: str) -> str | LabelSet | None:
        if not named.labelled:
            return None
        if flags:
            return read_flags(row, flags, where)
        if label is None:
            return None
        return read_label_list(row.get(label), where, named.separator) if lists else read_label(row.get(label), where)

    entries = []
    for number, row in rows:
        where = table.where(number)
        given = row.get(path) or None
        if not isinstance(given, str) or "\0" in given:
            raise DataError(f"{where}: {given!r} is not an image path.")
        entry = ManifestRow(
            given,
            read_labels(row, where),
            split.read(row, where),
            where,
            f"{file.relative_to(root).as_posix()} {table.unit} {number}",
        )
        entries.append(entry)
    texts = tuple(column for column in columns if column not in (path, label, *split.columns, *flags))
    return Manifest(entries, columns, ", ".join(flags) or label, texts)


def names_files(file: Path, image_column: str | None) -> bool:
    """Whether a table names image files; a Parquet or Arrow file may hold images instead."""
    table = Table(file)
    strings = table.string_columns() if table.is_arrow else table.columns()
    named = image_column in strings if image_column else pick_column(strings, None, NAME_COLUMNS)
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
