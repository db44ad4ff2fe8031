"""Hugging Face's image-folder convention: images beside a `metadata.csv` or `metadata.jsonl` that describes them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path, PurePosixPath

from gpt4image.errors import DataError
from gpt4image.images.sources.files import inspect_file, is_image_name, walk
from gpt4image.images.sources.folders import split_folders
from gpt4image.images.sources.listing import Label, Listing, ListingBuilder
from gpt4image.images.sources.manifest import (
    Manifest,
    ManifestReader,
    Roles,
    checked_label,
    checked_path,
    read_manifest,
    roles_of,
)
from gpt4image.images.splits import require_split, split_named

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
        note = f"({manifest.file.relative_to(root).as_posix()} line {manifest.lines[row]})"
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
