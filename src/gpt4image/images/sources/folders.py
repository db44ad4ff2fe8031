"""Images as separate files in class folders, with or without split folders above them."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.core.format import counted
from gpt4image.core.tables import compose
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder, file_state, is_unlabelled, key_of
from gpt4image.images.sources.remote import address_name, fetch_images, is_address, place_of
from gpt4image.images.splits import UNLABELLED, has_split_word, require_split, split_named
from gpt4image.images.table import SPLITS

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG")  # suffixes that tables may omit
LEVELS = 3  # levels above the image set at which a path in a table may start

_SUFFIXES = tuple(IMAGE_SUFFIXES)
_HIDDEN = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})


def list_class_folders(root: Path, _files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List a folder of class folders; classes and images come in the order of torchvision's ImageFolder.

    Raises:
        DataError: there are no class folders.
    """
    divisions = (split_folders(root) or {"": "train"}) if columns.labelled else {"": UNLABELLED}
    if divisions.get("") == "train":
        refuse_splits_as_classes(root)
    builder = ListingBuilder()
    for folder, split in divisions.items():
        # ImageFolder's order: by class, then folder, then file name.
        for (name, _, _), found in sorted((_position(found, folder), found) for found in walk(root, folder)):
            if not is_image_name(found.path):
                builder.ignore(found.path, f"not an image (suffix {Path(found.path).suffix})")
            elif found.fault:
                builder.reject(found.path, found.fault)
            elif not name and split != UNLABELLED:
                builder.ignore(found.path, "is not in a class folder")
            else:
                builder.add(found.path, name, split, len(builder.images), found.key)
    if not builder.images:
        raise DataError(_nothing_found(root, divisions) if columns.labelled else f"{root} contains no images.")
    listing = replace(builder.listing(FileReader(root), by_number=False), folders=True)
    if len(listing.classes) == 1:
        _refuse_outer_folder(root, divisions, listing.classes[0])
    labelled = [folder for folder, split in divisions.items() if split != UNLABELLED]
    empty = {name for folder in labelled for name in subfolders(root / folder)} - set(listing.classes)
    if empty := {name for name in empty if compose(name) not in listing.classes and not is_unlabelled(name)}:
        say(f"Folders without an image are not used as classes: {', '.join(sorted(empty))}.")
    return listing


def _refuse_outer_folder(root: Path, divisions: dict[str, str], name: str) -> None:
    """Raise DataError if the only class folder contains the class folders."""
    first = root / next(iter(divisions)) / name
    inner = first
    while len(inside := subfolders(inner)) == 1:
        inner /= inside[0]
    if not inside:
        return
    if "" not in divisions:
        folder = inner.relative_to(first.parent)
        raise DataError(
            f"{root}: {', '.join(divisions)} have images in one folder only, {name}. If {', '.join(inside)} are the "
            f"classes, move them from {folder} into {first.parent.name}, and likewise in the other splits."
        )
    raise DataError(f"{root} has images in one folder only, {name}. Did you mean {inner}?")


def split_folders(root: Path) -> dict[str, str]:
    """Map the split folders in a folder to their splits; empty if the folder is not divided into splits.

    A folder is divided when all its folders are named after splits, or `train` and one more are, not counting
    `unlabelled`. A lone folder `train` among others is taken for a class.

    Raises:
        DataError: the folder is divided and one of its folders is no split.
    """
    names = subfolders(root)
    known = {name: split for name in names if (split := split_named(name))}
    labelled = [split for split in known.values() if split != UNLABELLED]
    if not known or (len(known) < len(names) and (len(labelled) < 2 or "train" not in labelled)):
        return {}
    splits = {name: require_split(name, str(root / name)) for name in names}
    return dict(sorted(splits.items(), key=lambda item: (*SPLITS, UNLABELLED).index(item[1])))


def refuse_splits_as_classes(root: Path) -> None:
    """Raise DataError if folders under unusual names look like splits: they would be trained as classes."""
    inner = {name: set(subfolders(root / name)) for name in subfolders(root)}
    if len(inner) < 2:
        return
    known = (
        "Split folders must be called train, validation (or val) and test, and contain the class folders. Rename them."
    )
    shared = sorted(set.intersection(*inner.values()))
    if shared and all(map(split_named, shared)):
        raise DataError(f"{root}: every class folder contains the split folders {', '.join(shared)}. {known}")
    words = [name for name in inner if has_split_word(name)]
    alike = [name for name in words for other in inner if name != other and len(inner[name] & inner[other]) > 1]
    # One of several classes may well be called train.
    if len(words) == len(inner) or (alike and 2 * len(words) >= len(inner)):
        raise DataError(f"{root}: the folders {', '.join(inner)} look like splits, not classes. {known}")


def has_class_folders(root: Path) -> bool:
    """Whether two folders or more hold images, not counting split folders themselves."""
    folders = [root / name for name in subfolders(root)]
    divided = [folder for folder in folders if split_named(folder.name)]
    inner = [folder / name for folder in divided for name in subfolders(folder)]

    candidates = [*(folder for folder in folders if folder not in divided), *inner]
    return len(list(islice(filter(holds_images, candidates), 2))) == 2


def holds_images(folder: Path) -> bool:
    """Whether a folder or one below it holds images."""
    return any(Path(found.path).suffix.casefold() in IMAGE_SUFFIXES for found in walk(folder))


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without the hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system, not to the image set."""
    return name.startswith(".") or name.casefold() in _HIDDEN


def is_image_name(name: str) -> bool:
    """Whether a file's name may be an image's: it has a known suffix, or none."""
    return name.casefold().endswith(_SUFFIXES) or Path(name).suffix in ("", ".")


def _position(found: FoundFile, folder: str) -> tuple[str, str, str]:
    """Return a file's class, empty if it is not in a class folder, the folder that holds it, and its path."""
    parent = found.path.rpartition("/")[0]
    inner = parent.removeprefix(folder).removeprefix("/")
    return inner.partition("/")[0], parent, found.path


def _nothing_found(root: Path, divisions: dict[str, str]) -> str:
    inside = f" in {', '.join(divisions)}" if "" not in divisions else ""
    tables = sorted(path.name for path in root.iterdir() if path.suffix in (".csv", ".tsv", ".jsonl"))
    hint = f" If {tables[0]} names the images, give that file as the source." if tables else ""
    return (
        f"{root} has no class folders with images{inside}. Put the images of each class into its own folder "
        f"(cats/1.jpg, dogs/2.jpg), inside train/, val/ and test/ if there are splits.{hint}"
    )


class FoundFile(NamedTuple):
    """A file found by `walk`; `fault` says why it cannot be an image, `key` changes when the file does."""

    path: str
    key: bytes
    fault: str = ""


def walk(root: Path, below: str = "") -> Iterator[FoundFile]:
    """Yield every file below `root / below` that is not hidden; paths are relative to `root`, with slashes.

    Links are followed, unless they lead to a folder that holds them.
    """
    start = root / below
    yield from _walk(start, below, str(root.resolve()), (_identity(start),))


def _walk(folder: Path, prefix: str, scope: str, above: tuple[tuple[int, int], ...]) -> Iterator[FoundFile]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not is_hidden(entry.name)]
    except OSError as error:
        yield FoundFile(prefix, b"", f"the folder cannot be read ({error.strerror})")
        return
    folders = []
    # Files first, so that a search for any image need not descend.
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if _is_folder(entry):
            folders.append((Path(entry.path), path))
        else:
            yield inspect_file(entry.path, path, scope)
    for inner, path in folders:
        # A folder that is its own ancestor is a loop of links; one that is reached twice is not.
        identity = _identity(inner)
        if identity not in above:
            yield from _walk(inner, path, scope, (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def locate(root: Path, path: str) -> str:
    """Return the spelling under which a path that a table names leads from `root` to a file; else the path itself.

    Tables made on Windows have backslashes, macOS decomposes the characters of file names (NFD), and tables from the
    web hold addresses of files (`file:///a%20b.png`). Windows and macOS take upper and lower case for the same.
    """
    slashed = path.strip().removeprefix("file://").replace("\\", "/")
    plain = (slashed, unquote(slashed))
    spellings = (path, *(unicodedata.normalize(form, name) for name in plain for form in ("NFC", "NFD")), *plain)
    found = (spelling for spelling in spellings if os.path.lexists(root / spelling))
    return next(found, None) or _in_any_case(root, slashed) or path


def _in_any_case(root: Path, path: str) -> str | None:
    """Return the only path below a folder that equals another in all but case; None if there is none, or several."""
    found = ""
    for part in path.split("/"):
        names = [part] if part in (".", "..") else _names_alike(root / found, part)
        if len(names) != 1:
            return None
        found = f"{found}/{names[0]}" if found else names[0]
    return found


def _names_alike(folder: Path, name: str) -> list[str]:
    try:
        return _names_by_case(folder, folder.stat().st_mtime_ns).get(compose(name).casefold(), [])
    except OSError:
        return []


@lru_cache(maxsize=1024)
def _names_by_case(folder: Path, _modified: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for entry in folder.iterdir():
        names.setdefault(compose(entry.name).casefold(), []).append(entry.name)
    return names


def inspect_file(file: str | Path, path: str, scope: str) -> FoundFile:
    """Look at a file without opening it.

    Args:
        file: the file.
        path: what messages and the table call it.
        scope: the folder that its key depends on, beside its path and state.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode("utf-8", "replace")
        return FoundFile(readable, b"", "the file name is not valid UTF-8: rename the file")
    try:
        status = os.stat(file)  # noqa: PTH116 - a path object for each of a million files takes longer than the call
        state = file_state(file, status)
    except (FileNotFoundError, NotADirectoryError):
        missing = f"the file does not exist{_foreign(path, scope)}"
        return FoundFile(path, b"", "a broken link" if Path(file).is_symlink() else missing)
    except OSError as error:
        return FoundFile(path, b"", f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return FoundFile(path, b"", "not a regular file")
    size, modified, changed = state
    return FoundFile(path, key_of(scope, f"{path}\0{size}\0{modified}\0{changed}"))


@dataclass(frozen=True)
class FetchedImages:
    """Images that a table names by addresses.

    Attributes:
        folder: where they are; None if there are none.
        faults: why images could not be fetched, by address.
    """

    folder: Path | None
    faults: Mapping[str, str]

    @classmethod
    def of(cls, paths: Iterable[str], source: Path, kept: Path | None) -> FetchedImages:
        """Fetch the images among paths that are addresses; those fetched before are not asked for again.

        Args:
            paths: paths and addresses.
            source: the table.
            kept: folder of the work directory for images; None if there is no work directory.

        Raises:
            ConfigError: there are addresses, and no work directory.
        """
        addresses = [path.strip() for path in paths if _is_fetched(path)]
        if not addresses:
            return cls(None, {})
        if kept is None:
            raise ConfigError(
                f"{source} names images by address, such as {address_name(addresses[0])}. They are downloaded into "
                "the work directory: name one with work (--work)."
            )
        folder = kept / "fetched" / "images"
        faults = fetch_images(addresses, folder)
        if faults:
            say(
                f"{counted(len(faults), 'image')} could not be downloaded; run the same command to try again.", "yellow"
            )
        return cls(folder, faults)

    def inspect(self, path: str) -> FoundFile | None:
        """Return the image that an address names; None if it is no address."""
        address = path.strip()
        if self.folder is None or not _is_fetched(address):
            return None
        name = address_name(address)
        if address in self.faults:
            return FoundFile(name, b"", f"cannot be fetched: {self.faults[address]}")
        return inspect_file(file_of(name, self.folder, self.folder), name, str(self.folder.resolve()))


def _is_fetched(path: str) -> bool:
    return is_address(path) and not path.startswith("file://")


def file_of(path: str, root: Path, fetched: Path | None) -> Path:
    """Return the file of an image that a table names by a path, or by an address and fetched into a folder."""
    return place_of(path, fetched) if fetched is not None and is_address(path) else root / path


def _foreign(path: str, scope: str) -> str:
    """Return why a path cannot lead to a file here, as the end of a sentence; nothing if it could."""
    path = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    if re.match(r"[A-Za-z][\w+.-]+://", path):
        return ": it is an address, and addresses are only downloaded for a table outside the folder"
    parts = path.replace("\\", "/").split("/")
    places = chain(
        ("/".join(parts[start:]) for start in range(1, len(parts))),
        (f"{path}{end}" for end in COMMON_SUFFIXES),
        (f"{folder}/{path}{end}" for folder in (_subfolders(scope) if scope else ()) for end in ("", *COMMON_SUFFIXES)),
    )
    if inner := next((place for place in places if Path(scope, place).is_file()), None):
        return f": paths are relative to {Path(scope).name}, where it is {inner}"
    for levels, above in enumerate(Path(scope).parents[:LEVELS], 1):
        if path and os.path.lexists(above / path):
            return f": paths are relative to {Path(scope).name}, from where it is {'../' * levels}{path}"
    if re.match(r"[A-Za-z]:|\\\\", path):
        return ": the path names a Windows drive; make it relative"
    return ""


@lru_cache(maxsize=16)
def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir() and not is_hidden(entry.name))


@dataclass(frozen=True)
class FileReader:
    """Reads image files below a folder, and those that were fetched from addresses into another."""

    root: Path
    text_columns: tuple[str, ...] = ()
    fetched: Path | None = None

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image. ImageError names the image if they cannot be read."""
        try:
            return file_of(path, self.root, self.fetched).read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column; a plain folder has none."""
        raise KeyError(column)
