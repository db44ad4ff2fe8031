"""WebDataset tars: the files of a sample share their name up to the first dot, its key. Nothing is unpacked."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from gpt4image.core.console import progress, say
from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.core.tables import LABEL_COLUMNS, SPLIT_COLUMNS, compose, pick_column
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.folders import is_hidden
from gpt4image.images.sources.listing import (
    ColumnNames,
    Listing,
    ListingBuilder,
    encode_labels,
    file_state,
    key_of,
    keys_of,
    read_label,
    to_rows,
)
from gpt4image.images.sources.split_columns import find_split_columns
from gpt4image.images.sources.tar_contents import CONTENTS, SPANS, TarContents, load_contents, save_contents
from gpt4image.images.splits import splits_of_files


@dataclass(frozen=True)
class Member:
    """A file inside a tar: its name and where its bytes lie."""

    name: str
    offset: int
    size: int


Sample = dict[str, Member]  # suffix, in lower case -> file

SIDECARS = ("cls", "json", "txt")
FIRST_MEMBERS = 100  # members that are read to recognise a tar
LONGEST_SPLIT = 20  # characters of the longest name of a split
NO_IMAGE = "the sample has no image"


def list_tars(root: Path, files: Sequence[Path], columns: ColumnNames, kept: Path | None = None) -> Listing:
    """List the images of tars; splits come from the tars' names, else from a key of all `.json` files.

    A sample's label is its `.cls` file (a number or a name), else a key of its `.json` file. Texts are its `.txt`
    file and the strings of its `.json` file.

    Args:
        root: the folder that the names of the tars are relative to.
        files: the tars.
        columns: names of the image and the label, where the user gives them.
        kept: the folder that keeps what is in a tar until it changes; None for none.

    Raises:
        DataError: a tar is compressed, a file in one is malformed, or no sample has a label.
    """
    names = [file.relative_to(root).as_posix() for file in files]
    of_files = splits_of_files(names) if columns.labelled else ["train"] * len(files)
    contents = open_contents(files, names, columns, kept)
    rows = pa.concat_tables(found.rows for found in contents)
    labels = rows["label"].to_pylist()
    if columns.labelled and labels and not any(label is not None for label in labels):
        raise DataError(_without_labels(files[0], names[0], contents))
    sizes = [len(found.rows) for found in contents]
    spans = np.column_stack([np.repeat(np.arange(len(files)), sizes), *(rows[name].to_numpy() for name in SPANS)])
    texts = dict.fromkeys(text for found in contents for text in found.texts)
    splits = np.repeat(of_files, sizes).tolist()
    if columns.labelled and len(set(of_files)) < 2:
        found_splits, said_by = _splits_of_records(rows["cells"].to_pylist(), str(root), columns.label)
        splits = found_splits or splits
        texts = {text: None for text in texts if text not in said_by}
    classes, codes = encode_labels(labels)
    # If a tar changes, all its images count as new; the offset distinguishes images within it.
    keys = [key for found in contents for key in keys_of([found.state], found.rows["image_at"].to_pylist())]
    listed = to_rows(rows["path"], codes, splits, range(len(rows)), keys)
    return Listing(
        listed,
        classes,
        TarReader(tuple(files), spans, tuple(texts)),
        tuple(image for found in contents for image in found.bad),
        tuple(image for found in contents for image in found.others),
    )


def _splits_of_records(cells: Sequence[str | None], where: str, label: str | None) -> tuple[list[str], Sequence[str]]:
    """Return the splits of all samples and the keys of their records that say them; none unless all records do."""
    records: list[dict[str, Any]] = [{} if cell is None else json.loads(cell) for cell in cells]
    keys = list(dict.fromkeys(key for record in records for key in record))
    split = find_split_columns(keys, lambda key: (record.get(key) for record in records), (label,), where, ())
    if (key := pick_column(keys, None, SPLIT_COLUMNS)) and not split.columns:
        say(
            f"{where}: the key {key} is not read, since not every sample names a split there, train and another; the "
            "name of a tar can say it as well, as in val-00.tar.",
            "yellow",
        )
    return split.read_all(lambda key: (record.get(key) for record in records), f"{where} sample"), split.columns


def _without_labels(file: Path, name: str, contents: Sequence[TarContents]) -> str:
    """Return what tars without a label hold instead, and what to do."""
    first = itertools.islice(_members(file, name, ListingBuilder()), FIRST_MEMBERS)
    suffixes = ", ".join(sorted({f".{_suffix(member)}" for _, member in first}))
    message = (
        f"No sample in {file} has a label: its samples have {suffixes}, but no .cls file, and no "
        f"{'/'.join(LABEL_COLUMNS[:4])} in a .json file."
    )
    alone = [other.path for found in contents for other in found.others if other.reason == NO_IMAGE]
    if alone:
        message += (
            f" {counted(len(alone), 'sample')} without an image, such as {alone[0]}: the files of a sample must be in "
            "one tar and have the same name up to the first dot."
        )
    remedy = "Name another key with label_column (--label-column); a tar of class folders has to be unpacked first."
    return f"{message} {remedy}"


def read_contents(file: Path, name: str, columns: ColumnNames, state: str) -> TarContents:
    """Read what is in a tar. DataError if it cannot be read, or a file in it is malformed."""
    builder, texts = ListingBuilder(), dict[str, None]()
    rows: list[tuple[str | int | None, ...]] = []
    with file.open("rb") as stream:
        for key, sample in _samples(file, name, builder):
            image = _pick_image(sample, columns.image)
            if image is None:
                builder.ignore(f"{name}/{key}", NO_IMAGE)
                continue
            for further in _images(sample):
                if further is not image:
                    builder.ignore(f"{name}/{further.name}", "a further image of the sample")
            path = f"{name}/{image.name}"
            try:
                label, sample_texts, cells = _read_sidecars(stream, f"{name}/{key}", sample, columns.label)
            except ImageError as error:
                builder.reject(path, str(error))
                continue
            texts.update(dict.fromkeys(sample_texts))
            spans = image.offset, image.size, *_span(sample.get("txt")), *_span(sample.get("json"))
            rows.append((path, label, cells, *spans))
    values = zip(*rows, strict=True) if rows else [()] * len(CONTENTS)
    table = pa.table([pa.array(column, kind.type) for column, kind in zip(values, CONTENTS, strict=True)], CONTENTS)
    return TarContents(state, table, tuple(texts), tuple(builder.bad), tuple(builder.others))


def open_contents(
    files: Sequence[Path], names: Sequence[str], columns: ColumnNames, kept: Path | None
) -> list[TarContents]:
    """Return what is in each tar, kept from an earlier time or read now."""
    states = [key_of(file.resolve(), *file_state(file, file.stat())).hex() for file in files]
    wanted = str(columns.image), str(columns.label)
    paths = [
        kept and kept / "tars" / f"{digest(str(file.resolve()), name, *wanted)}.parquet"
        for file, name in zip(files, names, strict=True)
    ]
    found = [path and load_contents(path, state) for path, state in zip(paths, states, strict=True)]
    with progress("Listing tars", found.count(None)) as meter:
        for number, path in enumerate(paths):
            if found[number] is None:
                found[number] = contents = read_contents(files[number], names[number], columns, states[number])
                if path:
                    save_contents(contents, path)
                meter.advance()
    return [contents for contents in found if contents]


def is_webdataset(file: Path) -> bool:
    """Whether a label or a record is among the first files of a tar; the archive of an image folder has neither."""
    first = itertools.islice(_members(file, file.name, ListingBuilder()), FIRST_MEMBERS)
    return any(member.name.casefold().endswith((".cls", ".json")) for _, member in first)


def _samples(file: Path, name: str, builder: ListingBuilder) -> Iterator[tuple[str, Sample]]:
    """Yield the key and the files of each sample; reject what is damaged or no file."""
    samples: list[tuple[str, Sample]] = []
    latest: dict[str, Sample] = {}
    for key, group in itertools.groupby(_members(file, name, builder), key=lambda pair: pair[0]):
        sample: Sample = {}
        for _, member in group:
            suffix = _suffix(member)
            if suffix in sample:
                builder.ignore(f"{name}/{member.name}", "the sample has this name twice")
            else:
                sample[suffix] = member
        if key in latest and latest[key].keys().isdisjoint(sample):
            latest[key].update(sample)  # the files of one sample need not be adjacent
        else:
            latest[key] = sample  # in joined tars, keys may occur again
            samples.append((key, sample))
    for key, sample in samples:
        yield from _split_dotted_keys(key, sample)


def _split_dotted_keys(key: str, sample: Sample) -> Iterator[tuple[str, Sample]]:
    """Yield the samples whose keys hold a dot, such as `v6.5 crop`, of files grouped up to the first dot.

    They are told by labels, records and texts that all share their longer key with an image: in a sample with several
    images (`a.left.png`, `a.right.png`), the label stands alone (`a.cls`).
    """
    by_stem: dict[str, Sample] = {}
    for suffix, member in sample.items():
        stem, _, extension = suffix.rpartition(".")
        by_stem.setdefault(stem, {})[extension] = member
    described = [stem for stem, files in by_stem.items() if not files.keys().isdisjoint(SIDECARS)]
    if described and all(stem and _images(by_stem[stem]) for stem in described):
        for stem, files in by_stem.items():
            yield f"{key}.{stem}".rstrip("."), files
    else:
        yield key, sample


def _members(file: Path, name: str, builder: ListingBuilder) -> Iterator[tuple[str, Member]]:
    """Yield the key and place of each file in a tar."""
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
                yield compose(folder + slash + base.partition(".")[0]), Member(inner, info.offset_data, info.size)
            _check_end(file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        builder.reject(name, f"the tar is damaged; everything after the damage is lost ({error})")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _check_end(file: Path, offset: int) -> None:
    """Raise ReadError if a tar has no end mark where `tarfile` stopped: it takes a damaged header for the end."""
    with file.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(512)
    if any(block):
        raise tarfile.ReadError("a header is unreadable")
    if not block:
        raise tarfile.ReadError("it has no end mark")


def _suffix(member: Member) -> str:
    """Return what follows the first dot of a file's name, which tells what part of its sample it is."""
    return compose(member.name.rpartition("/")[2].partition(".")[2]).casefold()


def _images(sample: Sample) -> list[Member]:
    return [sample[suffix] for suffix in sorted(sample) if "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES]


def _pick_image(sample: Sample, wanted: str | None) -> Member | None:
    if wanted is not None:
        return sample.get(wanted.casefold().removeprefix("."))
    return next(iter(_images(sample)), None)


def _span(member: Member | None) -> tuple[int, int]:
    return (member.offset, member.size) if member else (-1, 0)


def _read_sidecars(
    stream: IO[bytes], where: str, sample: Sample, wanted: str | None
) -> tuple[str | None, list[str], str | None]:
    """Return a sample's label, None if it has none, the names of its texts, and what may say its split, as JSON.

    Raises:
        DataError: its `.cls` or `.json` file is malformed.
        ImageError: the tar ends within one of them.
    """
    record = _read_record(stream, sample["json"], f"{where}.json") if "json" in sample else {}
    key = wanted if wanted in record else None if wanted else pick_column(list(record), None, LABEL_COLUMNS)
    label: object = record[key] if key is not None else None
    if "cls" in sample and wanted in (None, "cls"):
        label = _read_text(stream, sample["cls"], f"{where}.cls")
    strings = [name for name, value in record.items() if isinstance(value, str) and name != key]
    cells = {name: value for name, value in record.items() if name != key and _may_say_split(value)}
    return (
        read_label(label, where),
        (["txt"] if "txt" in sample else []) + strings,
        json.dumps(cells) if cells else None,
    )


def _may_say_split(value: object) -> bool:
    return (isinstance(value, str) and len(value) <= LONGEST_SPLIT) or (isinstance(value, int) and value in (0, 1))


def _read_record(stream: IO[bytes], member: Member, where: str) -> dict[str, Any]:
    try:
        record = json.loads(_read_text(stream, member, where))
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object.")
    return record


def _read_text(stream: IO[bytes], member: Member, where: str) -> str:
    try:
        return _read_bytes(stream, member.offset, member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text.") from None


def _read_bytes(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    data = stream.read(size)
    if len(data) < size:
        raise ImageError(f"{Path(stream.name).name} ends within a file of this sample")
    return data


@dataclass(frozen=True)
class TarReader:
    """Reads members of tars at random. A tar is opened for each read: nothing is shared between processes.

    Attributes:
        files: the tars.
        spans: shape [N, 7]: number of the tar, then offset and size of the image, the text and the record; offset -1
            if there is none.
        text_columns: names of the texts.
    """

    files: tuple[Path, ...]
    spans: np.ndarray
    text_columns: tuple[str, ...]

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image. ImageError names the image if they cannot be read."""
        number, offset, size = self.spans[row, :3].tolist()
        try:
            with self.files[number].open("rb") as stream:
                return _read_bytes(stream, offset, size)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text's values for some rows."""
        return [self._text(column, row) for row in rows]

    def _text(self, column: str, row: int) -> str | None:
        number, _, _, text, text_size, record, record_size = self.spans[row].tolist()
        where = f"{self.files[number]} row {row}"
        with self.files[number].open("rb") as stream:
            if column == "txt" and text >= 0:
                return _read_text(stream, Member("", text, text_size), where)
            if record < 0:
                return None
            value = _read_record(stream, Member("", record, record_size), where).get(column)
        return value if isinstance(value, str) else None
