"""Read descriptions and join them to images: text columns, tables keyed by path or id, lists in ImageFolder order."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from gpt4image.core.console import say
from gpt4image.core.errors import DescriptionError, first_line
from gpt4image.core.files import check_fetched
from gpt4image.core.format import counted
from gpt4image.core.tables import (
    ID_COLUMNS,
    PATH_COLUMNS,
    TABLE_SUFFIXES,
    TEXT_COLUMNS,
    Table,
    compose,
    is_missing,
    is_table,
    pick_column,
)
from gpt4image.descriptions.caption_files import is_caption_file, read_captions
from gpt4image.descriptions.description_set import DescriptionSet, join_texts
from gpt4image.images.sources.detect import expand_pattern
from gpt4image.images.sources.remote import fetch_file, is_address
from gpt4image.images.table import ImageTable

OrphanPolicy = Literal["fail", "skip"]

IMAGE_ID = re.compile("[0-9a-f]{32}")

LIST_SUFFIXES = (".pt", ".pth")

# The suffixes that torchvision's ImageFolder reads; the reference project's list is in its order.
IMAGE_FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load_descriptions(
    images: ImageTable, source: str, *, text_column: str | None = None, orphan_texts: OrphanPolicy = "fail"
) -> DescriptionSet:
    """Read descriptions and join them to the images. An image may have several texts, one per row.

    Args:
        images: the images they belong to.
        source: a text column of the image set; or a table (CSV, TSV, JSON Lines, Parquet or Arrow) keyed by image id or
            by path, relative to the image set or absolute; or captions of another tool (`read_captions`); or a `.pt` or
            `.pth` file with a list of texts in the order of torchvision's ImageFolder, as the reference project
            publishes. Files may be named by a pattern or an address (`s3://...`).
        text_column: the table's text column, if it is not called text, description or caption.
        orphan_texts: `fail` if a text belongs to no image, or `skip` it.

    Raises:
        DescriptionError: the source is unknown or broken (the message names file and row), or texts belong to no image.
    """
    if source in images.reader.text_columns:
        pairs = zip(images.rows["id"].to_pylist(), images.texts(source), strict=True)
        texts = ((image_id, text) for image_id, text in pairs if text is not None and not is_missing(text))
        return join_texts(images, texts, 0, f"column {source}")
    with local_files(source) as files:
        if not all(path.is_file() for path in files):
            columns = ", ".join(images.reader.text_columns) or "none"
            raise DescriptionError(
                f"Descriptions {source!r}: neither a file nor a text column of {images.source}. Its text columns: "
                f"{columns}. Name one of these, or a file (--text)."
            )
        if len(files) == 1 and files[0].suffix in LIST_SUFFIXES:
            return join_texts(images, pair_with_folder(images, files[0]), 0, files[0].name)
        return join_files(images, files, text_column, orphan_texts)


@contextmanager
def local_files(source: str) -> Iterator[list[Path]]:
    """Return local copies of the files that a path, pattern or address names. DataError if a pattern matches none."""
    if is_address(source):
        with TemporaryDirectory() as folder:
            yield [fetch_file(source, Path(folder) / PurePosixPath(urlsplit(source).path).name)]
    else:
        is_pattern = re.search(r"[*?\[{]", source) and not Path(source).exists()
        yield expand_pattern(source) if is_pattern else [Path(source)]


def join_files(
    images: ImageTable, files: Sequence[Path], text_column: str | None, orphan_texts: OrphanPolicy
) -> DescriptionSet:
    """Join files of texts. DescriptionError if texts belong to no image and are not to be skipped."""
    lookup = IdLookup(images)
    matched = [each for path in files for each in match_texts(path, text_column, lookup)]
    found = [(each.image_id, each.text) for each in matched if each.image_id is not None]
    orphans = [each.key for each in matched if each.image_id is None]
    by_end = [each.key for each in matched if each.by_end]
    name = files[0].name if len(files) == 1 else f"{files[0].name} and {counted(len(files) - 1, 'other file')}"
    if orphans and orphan_texts == "fail":
        raise DescriptionError(
            f"{name}: {len(orphans):,} of {len(orphans) + len(found):,} texts match no image of {images.source}, such "
            f"as {', '.join(map(repr, orphans[:5]))}. Keys are image ids or paths relative to the image set, such as "
            f"{images.path(0)!r}. To leave these texts out, set orphan_texts to skip (--orphan-texts skip)."
        )
    if by_end:
        say(f"{name}: {counted(len(by_end), 'text')} matched by the end of the path, such as {by_end[0]!r}.")
    return join_texts(images, found, len(orphans), name)


class MatchedText(NamedTuple):
    """A text from a file: its key, the id of its image (None for no match), and whether only the path's end matched."""

    key: str
    text: str
    image_id: str | None
    by_end: bool


def match_texts(path: Path, text_column: str | None, lookup: IdLookup) -> Iterator[MatchedText]:
    """Yield the texts of a table or caption file with their images, except texts of rejected images.

    Raises:
        DescriptionError: the file has an unknown form, or a row is broken; the message names the row.
    """
    captions = is_caption_file(path)
    if not captions and not is_table(path):
        known = (*TABLE_SUFFIXES, ".json", *LIST_SUFFIXES)
        raise DescriptionError(f"{path}: descriptions must be {', '.join(known)}.")
    rows = (
        ((key, text, True) for key, text in read_captions(path, text_column))
        if captions
        else read_keyed_texts(path, text_column)
    )
    for key, text, by_path in rows:
        image_id = lookup.by_path(key) if by_path else lookup.by_id(key)
        by_end = captions and image_id is None and (image_id := lookup.by_end(key)) is not None
        if image_id is not None or not (by_path and lookup.was_rejected(key)):
            yield MatchedText(key, text, image_id, by_end)


def read_keyed_texts(path: Path, text_column: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield (key, text, whether the key is a path) from a table.

    Raises:
        DescriptionError: a column is missing, or a row is broken; the message names the row.
    """
    table = Table(path, DescriptionError)
    for number, row in table.rows():
        id_name, path_name, text_name = _key_and_text_columns(tuple(row), text_column)
        # An `id` next to a path may be the table's own numbering.
        by_path = path_name is not None and not (id_name and IMAGE_ID.fullmatch(str(row[id_name])))
        key_name = path_name if by_path else id_name
        if key_name is None or text_name is None:
            raise DescriptionError(f"{table.where(number)}: {_missing_column(tuple(row), key_name, text_column)}")
        key, text = row[key_name], "" if is_missing(row[text_name]) else row[text_name]
        if not isinstance(key, str) or not isinstance(text, str):
            raise DescriptionError(f"{table.where(number)}: {key_name} and {text_name} must be text.")
        yield key, text, by_path


def _missing_column(names: tuple[str, ...], key_name: str | None, text_column: str | None) -> str:
    """Say which column a table of texts lacks, and what to do about it."""
    has = f"Its columns: {', '.join(map(repr, names))}"
    if key_name is None:
        return (
            f"no column identifies the images. {has}. Name the column of image paths 'path', or that of image ids 'id'."
        )
    if text_column is not None:
        lacks = f"there is no column {text_column!r}"
    else:
        lacks = f"no column is called {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}"
    return f"{lacks}. {has}. Name the column of texts: text_column (--text-column NAME)."


@lru_cache
def _key_and_text_columns(names: tuple[str, ...], text_column: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the columns of ids, paths and texts. Cached, because rows of JSON Lines may have different columns."""
    if text_column is not None:
        text = text_column if text_column in names else pick_column(names, None, (text_column.strip().casefold(),))
    else:
        text = pick_column(names, None, TEXT_COLUMNS)
    return pick_column(names, None, ID_COLUMNS), pick_column(names, None, PATH_COLUMNS), text


class IdLookup:
    """Finds image ids by id or by path."""

    def __init__(self, images: ImageTable) -> None:
        ids, paths = images.rows["id"].to_pylist(), images.rows["path"].to_pylist()
        self._ids = set(ids)
        self._by_path: dict[str, str] = {}
        self._ambiguous: set[str] = set()
        for path, image_id in zip(map(normal_path, paths), ids, strict=True):
            # Copies share id and texts; other images of the same path cannot be told apart.
            if self._by_path.setdefault(path, image_id) != image_id:
                self._ambiguous.add(path)
        self._rejected = {normal_path(image.path) for image in images.rejected}
        self._root = normal_path(str(Path(images.source).resolve())) + "/"

    def by_id(self, key: str) -> str | None:
        """Return the id if an image has it, else None."""
        return key if key in self._ids else None

    def by_path(self, key: str) -> str | None:
        """Return the id of the image at a path, relative to the image set or absolute, or None.

        Raises:
            DescriptionError: several images have that path, as files inside Parquet sets sometimes do.
        """
        path = self._relative(key)
        if path in self._ambiguous:
            raise DescriptionError(f"{key!r} is the path of several images. Key its text by image id.")
        return self._by_path.get(path) or self._by_folded_path.get(path.casefold())

    @cached_property
    def _by_folded_path(self) -> dict[str, str | None]:
        """Ids by lower-case path, None if several paths differ only in case. Windows and macOS ignore case."""
        found: dict[str, str | None] = {}
        for path, image_id in self._by_path.items():
            name = path.casefold()
            found[name] = image_id if found.setdefault(name, image_id) == image_id else None
        return found

    def by_end(self, key: str) -> str | None:
        """Return the id of the only image whose path ends with the key, or vice versa; None if there is none.

        Raises:
            DescriptionError: several images have such a path.
        """
        parts = PurePosixPath(self._relative(key)).parts
        fitting = {
            image_id
            for path, image_id in self._by_name.get(parts[-1] if parts else "", ())
            if path[-len(parts) :] == parts or parts[-len(path) :] == path
        }
        if len(fitting) > 1:
            raise DescriptionError(
                f"{key!r} matches the ends of {len(fitting)} image paths. Give paths relative to the image set."
            )
        return next(iter(fitting), None)

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        """Path parts and ids of the images by file name."""
        found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for path, image_id in self._by_path.items():
            parts = PurePosixPath(path).parts
            found.setdefault(parts[-1], []).append((parts, image_id))
        return found

    def was_rejected(self, key: str) -> bool:
        """Whether the path belongs to an unreadable image that was left out."""
        return self._relative(key) in self._rejected

    def _relative(self, key: str) -> str:
        return normal_path(key).removeprefix(self._root)


def normal_path(path: str) -> str:
    r"""Return a path with forward slashes, composed characters and no redundant parts.

    >>> normal_path("./train\\cat//1.png")
    'train/cat/1.png'
    """
    return PurePosixPath(compose(path).replace("\\", "/")).as_posix()


def pair_with_folder(images: ImageTable, path: Path) -> Iterator[tuple[str, str]]:
    """Pair a list of texts with the images of a class folder, in ImageFolder order; yield (image id, text).

    Unreadable files count in that order, so a broken image does not shift the texts. If the image set has a `train`
    folder, the list belongs to it.

    Raises:
        DescriptionError: the file contains no list of texts, or not one for each image of the folder.
    """
    texts = load_text_list(path)
    ids = dict(zip(images.rows["path"].to_pylist(), images.rows["id"].to_pylist(), strict=True))
    names = image_folder_order([*ids, *(image.path for image in images.rejected)])
    if len(texts) != len(names):
        raise DescriptionError(
            f"{path} holds {len(texts):,} texts, but {images.source} has {len(names):,} images in ImageFolder order. "
            "They are matched by position, so the counts must be equal: use the folder for which the list was made."
        )
    return ((ids[name], text) for name, text in zip(names, texts, strict=True) if name in ids)


def load_text_list(path: Path) -> list[str]:
    """Read a list of texts saved with torch, without unpickling objects."""
    import torch

    try:
        check_fetched(path, DescriptionError)
        texts = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise DescriptionError(
            f"{path} cannot be read as a list of texts saved with torch: {first_line(error)}"
        ) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DescriptionError(f"{path} contains a {type(texts).__name__}, not a list of texts.")
    return texts


def image_folder_order(paths: list[str]) -> list[str]:
    """Sort paths as torchvision's ImageFolder lists them: by class, then folder, then name.

    >>> image_folder_order(["train/b/1.png", "train/a/2.png", "train/a/10.png", "test/a/1.png", "train/a/notes.txt"])
    ['train/a/10.png', 'train/a/2.png', 'train/b/1.png']
    """
    inside = "train/" if any(path.startswith("train/") for path in paths) else ""
    chosen = [path for path in paths if path.startswith(inside) and path.lower().endswith(IMAGE_FOLDER_SUFFIXES)]

    def position(path: str) -> tuple[str, str, str]:
        within = path.removeprefix(inside)
        folder, _, name = within.rpartition("/")
        return within.split("/")[0], folder, name

    return sorted(chosen, key=position)
