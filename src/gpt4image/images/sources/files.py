"""Images that are files of their own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt4image.core.errors import ImageError
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.listing import key_of, unknown_text_column

_HIDDEN = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system, not to the image set."""
    return name.startswith(".") or name.casefold() in _HIDDEN


def is_image_name(name: str) -> bool:
    """Whether a file's name may be an image's: a known suffix, or none at all."""
    suffix = Path(name).suffix.casefold()
    return not suffix or suffix in IMAGE_SUFFIXES


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without the hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


@dataclass(frozen=True)
class FoundFile:
    """A file met on a walk; `fault` says why it cannot be an image."""

    path: str
    key: bytes
    fault: str = ""


def walk(root: Path, below: str = "") -> Iterator[FoundFile]:
    """Every file below `root / below` that is not hidden.

    Links are followed, unless they lead to a folder that holds them. Paths are relative to `root`, with slashes.
    """
    scope = str(root.resolve())
    start = root / below
    yield from _walk(start, below, scope, (_identity(start),))


def _walk(folder: Path, prefix: str, scope: str, above: tuple[tuple[int, int], ...]) -> Iterator[FoundFile]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not is_hidden(entry.name)]
    except OSError as error:
        yield FoundFile(prefix, b"", f"the folder cannot be read ({error.strerror})")
        return
    folders = []
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if _is_folder(entry):
            folders.append((entry, path))
        else:
            yield inspect_file(Path(entry.path), path, scope)
    for entry, path in folders:
        identity = _identity(Path(entry.path))
        if identity not in above:
            yield from _walk(Path(entry.path), path, scope, (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def inspect_file(file: Path, path: str, scope: str) -> FoundFile:
    """Look at a file without opening it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode("utf-8", "replace")
        return FoundFile(readable, b"", "the file name is not valid UTF-8: rename the file")
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return FoundFile(path, b"", "a link to nowhere" if file.is_symlink() else "the file does not exist")
    except OSError as error:
        return FoundFile(path, b"", f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return FoundFile(path, b"", "not a regular file")
    return FoundFile(path, key_of(scope, path, status.st_size, status.st_mtime_ns))


@dataclass(frozen=True)
class FileReader:
    """Reads image files below a folder."""

    root: Path
    text_columns: tuple[str, ...] = ()

    def read(self, path: str, row: int) -> bytes:
        """Encoded bytes of one image. ImageError names the image when they cannot be had."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """There are none. DataError says so."""
        raise unknown_text_column(column, self.text_columns)
