"""WebDataset tars: the files of a sample share a name up to the first dot."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.tables import LABEL_COLUMNS, pick_column
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.files import is_hidden
from gpt4image.images.sources.listing import (
    Label,
    Listing,
    ListingBuilder,
    key_of,
    unknown_text_column,
)
from gpt4image.images.sources.manifest import checked_label
from gpt4image.images.splits import splits_of_files


@dataclass(frozen=True)
class Member:
    """Where a file of a sample lies in its tar."""

    name: str
    offset: int
    size: int


def list_tars(files: Sequence[Path], root: Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of tars; splits come from the tars' names.

    A sample's label is its `.cls` file (a number or a name), else a key of its `.json` file. Texts are its `.txt`
    file and the strings of its `.json` file. Nothing is unpacked.

    Raises:
        DataError: a tar is compressed, a file in one is malformed, or no sample has a label.
    """
    names = [file.relative_to(root).as_posix() for file in files]
    builder = ListingBuilder()
    places: list[tuple[int, ...]] = []
    texts: dict[str, None] = {}
    shards = zip(files, names, splits_of_files(names), strict=True)
    for number, (file, name, split) in enumerate(shards):
        status = file.stat()
        scope = key_of(file.resolve(), status.st_size, status.st_mtime_ns)
        for key, members in _samples(file, name, builder):
            image = _image_member(members, image_column)
            if image is None:
                builder.ignore(f"{name}/{key}", "the sample holds no image")
                continue
            for further in _images(members):
                if further is not image:
                    builder.ignore(f"{name}/{further.name}", "a further image of the sample")
            try:
                sidecars = Sidecars.read(file, f"{name}/{key}", members)
            except ImageError as error:
                builder.reject(f"{name}/{image.name}", str(error))
                continue
            texts.update(dict.fromkeys(sidecars.texts(label_column)))
            label = sidecars.label(label_column)
            builder.add(f"{name}/{image.name}", label, split, len(places), key_of(scope.hex(), image.offset))
            text, record = members.get("txt"), members.get("json")
            places.append((number, image.offset, image.size, *_span(text), *_span(record)))
    if builder.labels and not any(label is not None for label in builder.labels):
        raise DataError(
            f"No sample in {files[0]} has a label: no .cls file and no {'/'.join(LABEL_COLUMNS[:4])} in a .json file. "
            "Say which key it is with label_column; a tar of class folders has to be unpacked first."
        )
    return builder.listing(TarReader(tuple(files), np.array(places, np.int64).reshape(-1, 7), tuple(texts)))


def _span(member: Member | None) -> tuple[int, int]:
    return (member.offset, member.size) if member else (-1, 0)


def _samples(file: Path, name: str, builder: ListingBuilder) -> Iterator[tuple[str, dict[str, Member]]]:
    """Samples of a tar: key, and suffix -> member. What is damaged or no file is rejected."""
    for key, group in itertools.groupby(_members(file, name, builder), key=lambda pair: pair[0]):
        members: dict[str, Member] = {}
        for _, member in group:
            suffix = member.name[len(key) + 1 :].casefold()
            if suffix in members:
                builder.ignore(f"{name}/{member.name}", "the sample holds this name twice")
            else:
                members[suffix] = member
        yield key, members


def _members(file: Path, name: str, builder: ListingBuilder) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(file, "r:") as tar:
            kept: Any = tar
            for info in tar:
                kept.members = []  # tarfile would remember every header it ever read
                if info.isdir() or any(is_hidden(part) for part in info.name.split("/") if part not in (".", "..")):
                    continue
                if not info.isreg() or info.issparse():
                    builder.reject(f"{name}/{info.name}", "a link or special file inside a tar")
                    continue
                inner = info.name.removeprefix("./")
                folder, slash, base = inner.rpartition("/")
                yield folder + slash + base.partition(".")[0], Member(inner, info.offset_data, info.size)
            _check_end(file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        builder.reject(name, f"the tar is damaged, what lies behind the damage is lost ({error})")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _check_end(file: Path, offset: int) -> None:
    """ReadError when a tar does not end as a tar does; `tarfile` takes a damaged header for the end."""
    with file.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(512)
    if any(block):
        raise tarfile.ReadError("a header is unreadable")
    if not block:
        raise tarfile.ReadError("it ends without an end mark")


def _images(members: dict[str, Member]) -> list[Member]:
    return [members[suffix] for suffix in sorted(members) if "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES]


def _image_member(members: dict[str, Member], wanted: str | None) -> Member | None:
    if wanted is not None:
        return members.get(wanted.casefold().removeprefix("."))
    return next(iter(_images(members)), None)


@dataclass(frozen=True)
class Sidecars:
    """What a sample's small files say."""

    where: str
    cls: str | None
    record: dict[str, Any]
    has_text: bool

    @classmethod
    def read(cls, file: Path, where: str, members: dict[str, Member]) -> Sidecars:
        """Read a sample's `.cls` and `.json` files. DataError names the one that is malformed."""
        label = _text(file, members["cls"]).strip() if "cls" in members else None
        record = _record(_text(file, members["json"]), where) if "json" in members else {}
        return cls(where, label, record, "txt" in members)

    def _label_key(self, wanted: str | None) -> str | None:
        if wanted is not None:
            return wanted if wanted in self.record else None
        return pick_column(list(self.record), None, LABEL_COLUMNS, "label_column")

    def label(self, wanted: str | None) -> Label:
        """The sample's label, None when it has none."""
        if self.cls is not None and wanted in (None, "cls"):
            return self.cls or None
        key = self._label_key(wanted)
        return checked_label(self.record[key], self.where) if key is not None else None

    def texts(self, label_column: str | None) -> list[str]:
        """Names of the sample's texts."""
        label = self._label_key(label_column)
        strings = [key for key, value in self.record.items() if isinstance(value, str) and key != label]
        return (["txt"] if self.has_text else []) + strings


def _text(file: Path, member: Member) -> str:
    try:
        return _span_bytes(file, member.offset, member.size).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{file}: {member.name} is not UTF-8 text.") from None


def _record(text: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}.json is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}.json is not a JSON object.")
    return record


def _span_bytes(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise ImageError(f"{file.name} ends within a file of this sample")
    return data


@dataclass(frozen=True)
class TarReader:
    """Reads members of tars at random. A tar is opened for each read: nothing is shared between processes.

    Attributes:
        files: the tars.
        places: shape [N, 7]: number of the tar, then offset and size of the image, the text and the record.
        text_columns: names of the texts.
    """

    files: tuple[Path, ...]
    places: np.ndarray
    text_columns: tuple[str, ...]

    def read(self, path: str, row: int) -> bytes:
        """Encoded bytes of one image. ImageError names the image when they cannot be had."""
        number, offset, size = self.places[row, :3].tolist()
        try:
            return _span_bytes(self.files[number], offset, size)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """A text's values for the given rows. DataError lists the texts when it is unknown."""
        if column not in self.text_columns:
            raise unknown_text_column(column, self.text_columns)
        return [self._text(column, row) for row in rows]

    def _text(self, column: str, row: int) -> str | None:
        number, _, _, text, text_size, record, record_size = self.places[row].tolist()
        file = self.files[number]
        if column == "txt" and text >= 0:
            return _text(file, Member(f"row {row}", text, text_size))
        if record < 0:
            return None
        value = _record(_text(file, Member(f"row {row}", record, record_size)), f"{file} row {row}").get(column)
        return value if isinstance(value, str) else None
