"""Sources read through Hugging Face `datasets`: Parquet, Arrow, saved datasets and the hub."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.console import progress
from gpt4image.core.errors import ConfigError, DataError, ImageError, first_line
from gpt4image.core.hub import HUB_PREFIX, HubError, hub_access
from gpt4image.core.tables import LABEL_COLUMNS, pick_column
from gpt4image.images.sources.label_sets import LabelSet, label_matrix, read_label_list
from gpt4image.images.sources.listing import (
    ColumnNames,
    Listing,
    encode_label_sets,
    encode_labels,
    is_unlabelled,
    keys_of,
    read_label,
    to_rows,
)
from gpt4image.images.sources.split_columns import find_split_columns
from gpt4image.images.splits import UNLABELLED, require_split, splits_of_files
from gpt4image.images.table import SPLITS

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
CELLS = ("string", "large_string", "bool", "int64", "int32", "int8", "uint8")  # types that may say the split

Dataset = Any  # a datasets.Dataset
Feature = Any  # a column's type in `datasets`


def list_table_files(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of Parquet or Arrow files; splits come from the files' names, else from columns.

    Raises:
        DataError: a file cannot be read, or there is no image or label column.
    """
    names = [file.relative_to(root).as_posix() for file in files]
    splits = splits_of_files(names) if columns.labelled else ["train"] * len(files)
    by_split: dict[str, list[str]] = {}
    for file, split in zip(files, splits, strict=True):
        by_split.setdefault(split, []).append(glob.escape(str(file.resolve())))
    kind = files[0].suffix.casefold().removeprefix(".")
    problem = f"The {kind} files in {root} cannot be read"
    # One call per split, since the splits may differ in their text columns.
    loaded = {
        split: _load("load_dataset", problem, kind, data_files=by_split[split], split="train")
        for split in (*SPLITS, UNLABELLED)
        if split in by_split
    }
    return list_datasets(loaded, root, columns)


def list_saved_dataset(root: Path, _files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of a folder written by `save_to_disk`. DataError if it cannot be read."""
    loaded = _load("load_from_disk", f"{root} is not a complete saved dataset", str(root))
    return list_datasets(loaded if isinstance(loaded, dict) else {"train": loaded}, root, columns)


def is_loaded_dataset(source: object) -> bool:
    """Whether a source is an object of `datasets`: a dataset, a streamed one, or several by split name."""
    return type(source).__module__.partition(".")[0] == "datasets"


def list_loaded_dataset(source: Dataset, columns: ColumnNames, work: Path | None) -> Listing:
    """List the images of an object of `datasets`.

    A streamed dataset is read once, into the work directory, since training reads its images in another order in each
    epoch. The same stream is found there again.

    Raises:
        ConfigError: a streamed dataset, and no work directory.
        DataError: there is no image or label column.
    """
    import datasets

    parts = dict(source) if isinstance(source, dict) else {str(source.split or "train"): source}
    for name, part in parts.items():
        if isinstance(part, datasets.IterableDataset):
            if work is None:
                raise ConfigError("A streamed dataset is stored in the work directory: name one with work.")
            parts[name] = _read_stream(part, name, work / "images" / "streamed")
    return list_datasets(parts, Path.cwd(), columns)


def _read_stream(stream: Dataset, name: str, folder: Path) -> Dataset:
    import datasets

    features = stream.features or stream._resolve_features().features
    for column, feature in features.items():
        if type(feature).__name__ == "Image":
            stream = stream.cast_column(column, datasets.Image(decode=False))
    features = stream.features or features

    def rows() -> Iterator[dict[str, Any]]:
        with progress(f"Reading the stream ({name})") as meter:
            for row in stream:
                yield row
                meter.advance()

    problem = f"The stream {name!r} cannot be read"
    return _load("Dataset.from_generator", problem, rows, features=features, cache_dir=str(folder))


def list_hub_dataset(root: Path, _files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of a dataset on the Hugging Face hub, whose name is `root`. DataError says what was tried."""
    name = root.as_posix().removeprefix(HUB_PREFIX)
    problem = f"{name!r} could not be loaded from the Hugging Face hub"
    if name == root.as_posix():
        problem = (
            f"{name!r} is neither a file or folder here ({root.absolute()} does not exist) nor a dataset that could "
            "be loaded from the Hugging Face hub"
        )
    return list_datasets(_load("load_dataset", problem, name), Path.cwd(), columns)


def _load(function: str, problem: str, *args: object, **options: object) -> Any:  # noqa: ANN401 - a dataset or several
    """Call a function of `datasets` without its progress bars; DataError says what the problem is."""
    import datasets

    on_hub = function == "load_dataset" and not options
    with _no_progress_bars():
        try:
            with hub_access() if on_hub else nullcontext():
                return attrgetter(function)(datasets)(*args, **options)
        except HubError as error:
            raise DataError(f"{problem}: {error}.") from error
        except Exception as error:  # builders wrap pyarrow's errors in various others
            cause = error.__cause__ or error
            raise DataError(f"{problem}: {type(cause).__name__}: {first_line(cause)}") from error


def list_datasets(loaded: Mapping[str, Dataset], root: Path, columns: ColumnNames) -> Listing:
    """List the images of datasets by split name; image files that they name lie below `root`."""
    named = [
        (require_split(name, f"split {name!r}") if columns.labelled else name, part)
        for name, part in loaded.items()
        if len(part)
    ]
    if not named:
        raise DataError(f"{root} has no rows.")
    named.sort(key=lambda pair: pair[0] == UNLABELLED)  # the first part has the labels
    roles = [_roles(part.features, columns, name, f"{root}, {name}") for name, part in named]
    first = roles[0]
    for (name, _), other in zip(named, roles, strict=True):
        labels_differ = name != UNLABELLED and (other.label, other.names) != (first.label, first.names)
        if other.image != first.image or labels_differ:
            raise DataError(
                f"{root}: the {name} split differs from {named[0][0]} in image or label columns or class names. Make "
                "them equal."
            )
    parts = tuple(part.with_format("arrow") for _, part in named)
    texts = tuple(dict.fromkeys(text for other in roles for text in other.texts))
    reader = DatasetReader(parts, first.image, texts, root)
    splits = [name for name, part in named for _ in range(len(part))]
    if len(named) == 1 and columns.labelled:
        plain = [name for name, kind in named[0][1].features.items() if _dtype(kind) in CELLS]
        split = find_split_columns(plain, reader.cells, (first.image, first.label), str(root), ("split",))
        splits = split.read_all(reader.cells, f"{root} row") or splits
    unlabelled = np.array([split == UNLABELLED for split in splits])
    splits = ["train" if split == UNLABELLED else split for split in splits]
    classes, labels = _labels(reader, first, unlabelled)
    # `datasets` gives equal data equal fingerprints, from one session to the next.
    keys = [key for _, part in named for key in keys_of((part._fingerprint, first.image), range(len(part)))]
    return Listing(to_rows(_paths(reader, named), labels, splits, range(len(labels)), keys), classes, reader)


@dataclass(frozen=True)
class Roles:
    """The columns of a dataset by meaning; `names` are the class names if the label column declares them.

    `label` is None where no labels are needed; it holds lists if there are `several` labels an image.
    """

    image: str
    label: str | None
    texts: tuple[str, ...]
    names: tuple[str, ...] | None
    several: bool = False


def _roles(features: Mapping[str, Feature], columns: ColumnNames, split_name: str, where: str) -> Roles:
    """Tell the columns of a split apart. DataError lists them if there is no image or label column, or several."""
    try:
        image = _image_column(features, columns.image)
        label = _label_column(features, columns.label, image) if columns.labelled and split_name != UNLABELLED else None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    strings = [name for name, feature in features.items() if _dtype(feature) in ("string", "large_string")]
    texts = tuple(name for name in strings if name not in (image, label, "split"))
    element = _element(features[label]) if label else None
    names = getattr(element or features[label], "names", None) if label else None
    return Roles(image, label, texts, tuple(names) if names else None, element is not None)


def _image_column(features: Mapping[str, Feature], wanted: str | None) -> str:
    # Declared image columns come before columns of bytes, which may hold anything.
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    binary = [name for name, feature in features.items() if _holds_bytes(feature)]
    chosen = pick_column(list(features), wanted, (), "image_column (--image-column)")
    if chosen is not None:
        if chosen not in images + binary:
            raise DataError(f"image_column (--image-column) {wanted!r} contains {features[chosen]}, not images.")
        return chosen
    return _only_column("image", features, images or binary, IMAGE_COLUMNS, images or binary)


def _label_column(features: Mapping[str, Feature], wanted: str | None, image: str) -> str:
    others = [name for name in features if name != image]
    chosen = pick_column(others, wanted, (), "label_column (--label-column)")
    if chosen is None:
        declared = [name for name in others if type(features[name]).__name__ == "ClassLabel"]
        chosen = _only_column("label", features, others, LABEL_COLUMNS, declared)
    if not _dtype(_element(features[chosen]) or features[chosen]).startswith(
        ("int", "uint", "float", "string", "large_string", "bool")
    ):
        raise DataError(
            f"The label column {chosen!r} contains {features[chosen]}; supported are numbers or names, or lists of "
            "them. Name another with label_column (--label-column)."
        )
    return chosen


def _only_column(
    kind: str, features: Mapping[str, Feature], named: list[str], known: Sequence[str], typed: list[str]
) -> str:
    """Return the column that has a known name, else the only one of the right type.

    Raises:
        DataError: there is none, or more than one.
    """
    chosen = pick_column(named, None, known) or (typed[0] if len(typed) == 1 else None)
    if chosen is None:
        found = f"are {len(typed)} {kind} columns ({', '.join(typed)})" if typed else f"is no {kind} column"
        raise DataError(
            f"There {found}. Columns: {', '.join(features)}. Name one with {kind}_column (--{kind}-column)."
        )
    return chosen


def _element(feature: Feature) -> Feature | None:
    """Return what the lists of a column hold; None if it holds no lists."""
    if isinstance(feature, list):  # as some versions of `datasets` write it
        return feature[0]
    return getattr(feature, "feature", None)


def _dtype(feature: Feature) -> str:
    return str(getattr(feature, "dtype", ""))


def _holds_bytes(feature: Feature) -> bool:
    if isinstance(feature, Mapping):
        return _dtype(feature.get("bytes")) in ("binary", "large_binary", "null")
    return _dtype(feature) in ("binary", "large_binary")


def _labels(reader: DatasetReader, roles: Roles, unlabelled: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, and each row's label, shape [N], int32, -1 if it has none; or its labels, int8 [N, C].

    `unlabelled` [N] says which rows have none, whatever the column holds.
    """
    column, names = roles.label, roles.names
    if column is None:
        return (), np.full(len(unlabelled), -1, np.int32)
    if roles.several:
        lists = (value for part in reader.chunks(column) for value in part.to_pylist())
        pairs = zip(lists, unlabelled.tolist(), strict=True)
        return _label_sets([None if without else value for value, without in pairs], names)
    if names is None:
        # Part by part, since the same numbers may be integers in one part and floats in another.
        parts = reader.chunks(column)
        pairs = zip((value for part in parts for value in part.to_pylist()), unlabelled.tolist(), strict=True)
        # Lists cannot be looked up, and are no labels.
        read = _label if any(pa.types.is_nested(part.type) for part in parts) else lru_cache(None, typed=True)(_label)
        return encode_labels([None if without else read(value) for value, without in pairs])
    labels = pc.fill_null(reader.column(column), -1).to_numpy().astype(np.int64)
    labels[unlabelled] = -1
    outside = np.flatnonzero((labels < -1) | (labels >= len(names)))
    if len(outside):
        raise DataError(f"Row {outside[0]} has label {labels[outside[0]]}; there are {len(names)} class names.")
    # A class called unlabelled is not a class; later ones move up.
    kept = np.array([not is_unlabelled(name) for name in names])
    places = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # [C + 1]; the last is for label -1
    return tuple(name for name in names if not is_unlabelled(name)), places[labels].astype(np.int32)


def _label_sets(values: list[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, and which labels each row has, int8 [N, C].

    Args:
        values: the list of each row; None where nothing is known.
        names: the class names if the column declares them, whose numbers the lists then hold.
    """
    if names is None:
        return encode_label_sets([read_label_list(value, f"Row {row}") for row, value in enumerate(values)])
    for row, value in enumerate(values):
        outside = [number for number in value or () if not 0 <= number < len(names)]
        if outside:
            raise DataError(f"Row {row} has label {outside[0]}; there are {len(names)} class names.")
    sets = [None if value is None else LabelSet(tuple(names[number] for number in value)) for value in values]
    return tuple(names), label_matrix(sets, {name: number for number, name in enumerate(names)}, len(names))


def _label(value: object) -> str | None:
    """Return a cell as a class name. Whole numbers become floats when pandas finds a missing one among them."""
    label = read_label(value, "the label column")
    if label is None or not isinstance(value, float):
        return label
    if not value.is_integer():
        raise DataError(f"The label {value} is not a class. Name another column with label_column (--label-column).")
    return str(int(value))


def _paths(reader: DatasetReader, named: Sequence[tuple[str, Dataset]]) -> pa.Array:
    """Return names of the images: those in the image column, else split and position."""
    numbered = pa.array([f"{split}/{row}" for split, part in named for row in range(len(part))], pa.string())
    column = reader.column(reader.image_column)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return numbered
    given = pc.struct_field(column, "path").cast(pa.string()).combine_chunks()
    return pc.coalesce(given, numbered)


@dataclass(frozen=True)
class DatasetReader:
    """Reads images from memory-mapped `datasets.Dataset` parts in Arrow format; rows count through all of them."""

    parts: tuple[Dataset, ...]
    image_column: str
    text_columns: tuple[str, ...]
    root: Path

    def chunks(self, name: str) -> list[pa.ChunkedArray]:
        """Return a column of each part, mapped rather than read if the storage allows; null in parts that lack it."""
        return [
            part.select_columns([name])[:][name]
            if name in part.column_names
            else pa.chunked_array([pa.nulls(len(part))])
            for part in self.parts
        ]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all parts."""
        parts = self.chunks(name)
        kind = next(part.type for part in parts if not pa.types.is_null(part.type))
        return pa.chunked_array([chunk for part in parts for chunk in part.cast(kind).chunks], kind)

    def cells(self, name: str) -> list[Any]:
        """Return a column as a list."""
        return list(self.column(name).to_pylist())

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image. ImageError names the image if they cannot be read."""
        # ends[i] is the first row after part i.
        ends = list(accumulate(len(part) for part in self.parts))
        number = bisect.bisect_right(ends, row)
        part = self.parts[number]
        value = part[row - ends[number] + len(part)][self.image_column][0].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or self._read_file(path, value.get("path"))
        if value is None:
            raise ImageError(f"{path}: row {row} has no image")
        return bytes(value)

    def _read_file(self, name: str, path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            return (self.root / path).read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: has no bytes, and the file it names cannot be read ({error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column's values for some rows."""
        return list(self.column(column).take(pa.array(rows, pa.int64())).to_pylist())


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    enabled = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            enable_progress_bars()
