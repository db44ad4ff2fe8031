"""Which kind of source a name means."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.tables import ARROW_SUFFIXES, TABLE_SUFFIXES
from gpt4image.images.sources.files import is_hidden, subfolders
from gpt4image.images.sources.folders import list_class_folders
from gpt4image.images.sources.hugging_face import list_hub_dataset, list_saved_dataset, list_table_files
from gpt4image.images.sources.listing import Listing
from gpt4image.images.sources.manifest import find_metadata, list_manifest, list_metadata_folder, names_files
from gpt4image.images.sources.tars import list_tars
from gpt4image.images.splits import split_named

COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")


_KINDS = (
    "a folder of class folders, a folder with metadata.csv or metadata.jsonl, a CSV, TSV or JSONL file, Parquet or "
    "Arrow files, WebDataset tars, a folder written by save_to_disk, or the name of a dataset on the Hugging Face hub"
)


def list_source(source: str | Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of a source of any kind.

    Raises:
        DataError: the source does not exist or is of no known kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _list_folder(path, image_column, label_column)
    if path.exists():
        return _list_files([path], path.parent, image_column, label_column)
    text = str(source)
    if re.search(r"[*?\[{]", text):
        files = expand_pattern(str(path))
        return _list_files(files, _common_folder(files), image_column, label_column)
    if re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", text):
        return list_hub_dataset(text, image_column, label_column)
    raise DataError(f"{path} does not exist. A source is {_KINDS}.")


def _list_folder(root: Path, image_column: str | None, label_column: str | None) -> Listing:
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return list_saved_dataset(root, image_column, label_column)
    metadata = find_metadata(root)
    if metadata:
        return list_metadata_folder(root, metadata, image_column, label_column)
    for suffixes in (ARROW_SUFFIXES, (".tar",)):
        files = _files_with(root, suffixes)
        if files:
            return _list_files(files, root, image_column, label_column)
    if image_column is not None or label_column is not None:
        raise ConfigError(f"{root} is a folder of class folders; it has no columns for image_column or label_column.")
    return list_class_folders(root)


def _files_with(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with a suffix in a folder, its folder `data` and its split folders, as the hub lays them out."""
    folders = [root, *(root / name for name in subfolders(root) if name == "data" or split_named(name))]
    files = [file for folder in folders for file in folder.iterdir() if file.suffix.casefold() in suffixes]
    return sorted(file for file in files if not is_hidden(file.name) and file.is_file())


def _list_files(files: list[Path], root: Path, image_column: str | None, label_column: str | None) -> Listing:
    suffixes = {file.suffix.casefold() for file in files}
    if len(suffixes) > 1:
        raise DataError(f"{root} mixes {' and '.join(sorted(suffixes))} files. Give those of one kind.")
    suffix = suffixes.pop()
    if suffix in ARROW_SUFFIXES and not (len(files) == 1 and names_files(files[0], image_column)):
        return list_table_files(files, root, image_column, label_column)
    if suffix == ".tar":
        return list_tars(files, root, image_column, label_column)
    if suffix in TABLE_SUFFIXES and len(files) == 1:
        return list_manifest(files[0], image_column, label_column)
    if suffix in COMPRESSED_SUFFIXES:
        raise DataError(f"{files[0]} is compressed. Unpack it first, or keep it as a plain .tar.")
    raise DataError(f"{files[0]} is no image source. A source is {_KINDS}.")


def expand_pattern(pattern: str) -> list[Path]:
    """Files that a pattern with braces and wildcards names. DataError when one part of it names none."""
    files: list[Path] = []
    for part in expand_braces(pattern):
        found = sorted(map(Path, glob.glob(part, recursive=True)))  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise DataError(f"{part} does not exist (from the pattern {pattern}).")
        files.extend(found)
    return list(dict.fromkeys(files))


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..012}` as a shell does.

    >>> expand_braces("a-{08..10}.{x,y}")
    ['a-08.x', 'a-08.y', 'a-09.x', 'a-09.y', 'a-10.x', 'a-10.y']
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inner = match[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        options = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        options = inner.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(dict.fromkeys(rest for option in options for rest in expand_braces(before + option + after)))


def _common_folder(files: list[Path]) -> Path:
    first = files[0].parent
    while not all(file.is_relative_to(first) for file in files):
        first = first.parent
    return first
