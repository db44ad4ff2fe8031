"""Descriptions in: text columns, tables keyed by path or id, and the published list of the reference project."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gpt4image.core.errors import DescriptionError
from gpt4image.descriptions.description_set import DescriptionSet, join_texts
from gpt4image.images.table import ImageTable

OrphanPolicy = Literal["fail", "skip"]


ID_COLUMNS = ("id", "image_id")


PATH_COLUMNS = ("path", "file_name", "filename", "file", "image")


IMAGE_ID = re.compile("[0-9a-f]{32}")


TEXT_COLUMNS = ("text", "description", "caption")


IMAGE_FOLDER_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


"""What torchvision's ImageFolder takes for an image: the reference project's list follows its order."""


def load_descriptions(
    images: ImageTable, source: str, *, text_column: str | None = None, orphan_texts: OrphanPolicy = "fail"
) -> DescriptionSet:
    """Read descriptions and join them to the images. Several rows for one image are several texts of it.

    Args:
        images: the images they belong to.
        source: a text column of the image set, or a file: `.csv`, `.tsv`, `.jsonl` or `.parquet` keyed by path
            (relative to the image set, or absolute) or by image id; `.pt` or `.pth` with a list of texts in the order
            of torchvision's ImageFolder, as the reference project publishes.
        text_column: the file's text column, where it is not called text, description or caption.
        orphan_texts: `fail` when a text fits no image, or `skip` it.

    Raises:
        DescriptionError: the source is unknown or broken (file and row are named), or texts fit no image.
    """
    path = Path(source)
    if source in images.reader.text_columns:
        pairs = zip(images.rows["id"].to_pylist(), images.texts(source), strict=True)
        return join_texts(images, ((image_id, text or "") for image_id, text in pairs), 0, f"column {source}")
    if not path.is_file():
        columns = ", ".join(images.reader.text_columns) or "none"
        raise DescriptionError(
            f"Descriptions {source!r}: neither a file nor a text column of {images.source}. Its text "
            f"columns: {columns}. Name one of them, or a file, with --text."
        )
    if path.suffix in (".pt", ".pth"):
        return join_texts(images, pair_with_folder(images, path), 0, path.name)
    return join_table(images, path, text_column, orphan_texts)


def join_table(images: ImageTable, path: Path, text_column: str | None, orphan_texts: OrphanPolicy) -> DescriptionSet:
    """Join a table keyed by path or id. DescriptionError when texts fit no image, unless they are to be skipped."""
    known = IdLookup(images)
    found: list[tuple[str, str]] = []
    orphans: list[str] = []
    for key, text, by_path in read_keyed_texts(path, text_column):
        image_id = known.by_path(key) if by_path else known.by_id(key)
        if image_id is not None:
            found.append((image_id, text))
        elif not (by_path and known.was_rejected(key)):
            orphans.append(key)
    if orphans and orphan_texts == "fail":
        raise DescriptionError(
            f"{path}: {len(orphans):,} of {len(orphans) + len(found):,} texts fit no image of {images.source}, such as "
            f"{', '.join(map(repr, orphans[:5]))}. Keys are image ids or paths relative to the image set, such as "
            f"{images.path(0)!r}. To go on without these texts: --orphan-texts skip."
        )
    return join_texts(images, found, len(orphans), path.name)


class IdLookup:
    """Finds image ids by id or by path."""

    def __init__(self, images: ImageTable) -> None:
        ids, paths = images.rows["id"].to_pylist(), images.rows["path"].to_pylist()
        self._ids = set(ids)
        self._by_path: dict[str, str] = {}
        self._ambiguous: set[str] = set()
        for path, image_id in zip(map(normal_path, paths), ids, strict=True):
            if self._by_path.setdefault(path, image_id) != image_id:
                self._ambiguous.add(path)
        self._rejected = {normal_path(image.path) for image in images.rejected}
        self._root = normal_path(str(Path(images.source).resolve())) + "/"

    def by_id(self, key: str) -> str | None:
        """The id itself where an image has it."""
        return key if key in self._ids else None

    def by_path(self, key: str) -> str | None:
        """Id of the image at a path, relative to the image set or absolute.

        Raises:
            DescriptionError: several images have that path, as the files inside Parquet sets sometimes do.
        """
        path = self._relative(key)
        if path in self._ambiguous:
            raise DescriptionError(
                f"{key!r} is the path of several images, so its text has no one owner. Key it by id."
            )
        return self._by_path.get(path)

    def was_rejected(self, key: str) -> bool:
        """Whether the path belongs to an image that was left out as unreadable."""
        return self._relative(key) in self._rejected

    def _relative(self, key: str) -> str:
        return normal_path(key).removeprefix(self._root)


def normal_path(path: str) -> str:
    r"""A path with forward slashes and without idle parts.

    >>> normal_path("./train\\cat//1.png")
    'train/cat/1.png'
    """
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def read_keyed_texts(path: Path, text_column: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield (key, text, whether the key is a path) from a table file."""
    wanted = (text_column,) if text_column else TEXT_COLUMNS
    for number, row in read_rows(path):
        columns = {name.strip(): value for name, value in row.items() if isinstance(name, str)}
        id_column = first_of(ID_COLUMNS, columns)
        if id_column and not IMAGE_ID.fullmatch(str(columns[id_column])) and first_of(PATH_COLUMNS, columns):
            id_column = None  # a table's own numbering, not image ids
        key_column = id_column or first_of(PATH_COLUMNS, columns)
        text_name = first_of(wanted, columns)
        if key_column is None or text_name is None:
            raise DescriptionError(
                f"{path}, row {number}: needs one of the columns {', '.join(ID_COLUMNS + PATH_COLUMNS)} and one of "
                f"{', '.join(wanted)}; it has {', '.join(columns)}. Another text column: --text-column NAME."
            )
        key, text = columns[key_column], columns[text_name]
        if not isinstance(key, str) or not (text is None or isinstance(text, str)):
            raise DescriptionError(f"{path}, row {number}: {key_column} and {text_name} must be text.")
        yield key, text or "", id_column is None


def first_of(names: tuple[str, ...], columns: Mapping[str, Any]) -> str | None:
    """The first of the names that is a column."""
    return next((name for name in names if name in columns), None)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number, row) of a CSV, TSV, JSONL or Parquet file. DescriptionError names the row that is broken."""
    match path.suffix:
        case ".csv" | ".tsv":
            yield from read_csv(path)
        case ".jsonl" | ".ndjson":
            yield from read_jsonl(path)
        case ".parquet":
            yield from read_parquet(path)
        case _:
            raise DescriptionError(f"{path}: descriptions come as .csv, .tsv, .jsonl, .parquet, .pt or .pth.")


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV or TSV file, numbered by their line."""
    csv.field_size_limit(2**30)
    with path.open("rb") as file:
        lines = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(file))
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row:
                    raise DescriptionError(f"{path}, row {reader.line_num}: has more fields than the header.")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DescriptionError(f"{path}, row {reader.line_num + 1}: {error}.") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSON Lines file, numbered by their line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DescriptionError(f"{path}, row {number}: not JSON ({error}).") from None
            if not isinstance(row, dict):
                raise DescriptionError(f"{path}, row {number}: must be a JSON object, not {type(row).__name__}.")
            yield number, row


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a Parquet file, numbered from 1; only columns of text are read."""
    try:
        file = pq.ParquetFile(path)
        textual = [
            field.name
            for field in file.schema_arrow
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        number = 0
        for batch in file.iter_batches(columns=textual):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, pa.ArrowException) as error:
        raise DescriptionError(f"{path} cannot be read as Parquet: {error}.") from None


def pair_with_folder(images: ImageTable, path: Path) -> Iterator[tuple[str, str]]:
    """Pair a list of texts with a class folder's images in ImageFolder order.

    The order is that of the files, readable or not, so that one broken image shifts nothing. Where the folder has a
    `train` folder, the list belongs to it.

    Raises:
        DescriptionError: the file holds no list of texts, or not as many as the folder has images.
    """
    texts = load_text_list(path)
    ids = dict(zip(images.rows["path"].to_pylist(), images.rows["id"].to_pylist(), strict=True))
    names = image_folder_order([*ids, *(image.path for image in images.rejected)])
    if len(texts) != len(names):
        raise DescriptionError(
            f"{path} holds {len(texts):,} texts, but {images.source} has {len(names):,} images in ImageFolder order. "
            "They are joined by position, so the counts must be equal: use the folder the list was made for."
        )
    return ((ids[name], text) for name, text in zip(names, texts, strict=True) if name in ids)


def load_text_list(path: Path) -> list[str]:
    """The list of texts in a torch-saved file, read without unpickling objects."""
    import torch

    try:
        texts = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DescriptionError(f"{path} cannot be read as a torch-saved list of texts: {reason}") from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DescriptionError(f"{path} holds a {type(texts).__name__}, not a list of texts.")
    return texts


def image_folder_order(paths: list[str]) -> list[str]:
    """Paths in the order in which torchvision's ImageFolder lists them: by class, then folder, then name.

    >>> image_folder_order(["train/b/1.png", "train/a/2.png", "train/a/10.png", "test/a/1.png", "train/a/notes.txt"])
    ['train/a/10.png', 'train/a/2.png', 'train/b/1.png']
    """
    inside = "train/" if any(path.startswith("train/") for path in paths) else ""
    chosen = [path for path in paths if path.startswith(inside) and path.lower().endswith(IMAGE_FOLDER_EXTENSIONS)]

    def position(path: str) -> tuple[str, str, str]:
        within = path.removeprefix(inside)
        folder, _, name = within.rpartition("/")
        return within.split("/")[0], folder, name

    return sorted(chosen, key=position)
