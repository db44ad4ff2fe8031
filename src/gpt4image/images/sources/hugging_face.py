"""Sources read through Hugging Face `datasets`: Parquet, Arrow, saved datasets and the hub."""

from __future__ import annotations

import bisect
import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.tables import LABEL_COLUMNS, pick_column
from gpt4image.images.sources.listing import (
    Label,
    Listing,
    encode_labels,
    key_of,
    unknown_text_column,
)
from gpt4image.images.splits import require_split, splits_of_files
from gpt4image.images.table import SPLITS

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")


@dataclass(frozen=True)
class Columns:
    """The columns of a table by meaning; `names` are the class names where the label column declares them."""

    image: str
    label: str
    split: str | None
    texts: tuple[str, ...]
    names: tuple[str, ...] | None


def columns_of(features: Mapping[str, Any], image_column: str | None, label_column: str | None, where: str) -> Columns:
    """Tell the columns apart. DataError lists them when the image or label column cannot be told."""
    try:
        image = _image_column(features, image_column)
        label = _label_column(features, label_column, image)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    strings = [name for name, feature in features.items() if _dtype(feature) in ("string", "large_string")]
    split = "split" if "split" in strings and label != "split" else None
    texts = tuple(name for name in strings if name not in (image, label, split))
    names = getattr(features[label], "names", None)
    return Columns(image, label, split, texts, tuple(names) if names else None)


def _image_column(features: Mapping[str, Any], wanted: str | None) -> str:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    binary = [name for name, feature in features.items() if _holds_bytes(feature)]
    candidates = images or binary
    if wanted is not None:
        pick_column(list(features), wanted, (), "image_column")
        if wanted not in images + binary:
            raise DataError(f"image_column {wanted!r} holds no images, but {features[wanted]}.")
        return wanted
    chosen = pick_column(candidates, None, IMAGE_COLUMNS, "image_column")
    if chosen is None and len(candidates) == 1:
        chosen = candidates[0]
    if chosen is None:
        found = f"{len(candidates)} image columns ({', '.join(candidates)})" if candidates else "no image column"
        raise DataError(f"There is {found}. Columns: {', '.join(features)}. Say which it is with image_column.")
    return chosen


def _label_column(features: Mapping[str, Any], wanted: str | None, image: str) -> str:
    others = [name for name in features if name != image]
    chosen = pick_column(others, wanted, LABEL_COLUMNS, "label_column")
    declared = [name for name in others if type(features[name]).__name__ == "ClassLabel"]
    if chosen is None and len(declared) == 1:
        chosen = declared[0]
    if chosen is None:
        found = f"{len(declared)} label columns ({', '.join(declared)})" if declared else "no label column"
        raise DataError(f"There is {found}. Columns: {', '.join(features)}. Say which it is with label_column.")
    dtype = _dtype(features[chosen])
    if not dtype.startswith(("int", "uint", "float", "string", "large_string", "bool")):
        raise DataError(
            f"The label column {chosen!r} holds {features[chosen]}; one number or name an image is supported. "
            "Name another with label_column."
        )
    return chosen


def _dtype(feature: Any) -> str:  # noqa: ANN401 - a datasets feature
    return str(getattr(feature, "dtype", ""))


def _holds_bytes(feature: Any) -> bool:  # noqa: ANN401 - a datasets feature
    if isinstance(feature, Mapping):
        return _dtype(feature.get("bytes")) in ("binary", "large_binary", "null")
    return _dtype(feature) in ("binary", "large_binary")


def row_labels(column: pa.ChunkedArray, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and each row's label, shape [N], int32, -1 where there is none."""
    if names is None:
        return encode_labels([_label(value) for value in column.to_pylist()])
    labels = pc.fill_null(column, -1).to_numpy().astype(np.int64)
    outside = np.flatnonzero((labels < -1) | (labels >= len(names)))
    if len(outside):
        raise DataError(f"Row {outside[0]} has label {labels[outside[0]]}; there are {len(names)} class names.")
    return names, labels.astype(np.int32)


def _label(value: Label) -> Label:
    """A cell as a label; whole numbers that pandas made floats for the sake of a missing one become whole again."""
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(f"The label {value} is no class. Name another column with label_column.")
        return int(value)
    return value


def list_table_files(files: Sequence[Path], root: Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of Parquet or Arrow files; splits come from the files' names.

    Raises:
        DataError: a file cannot be read, or there is no image or label column.
    """
    splits = splits_of_files([file.relative_to(root).as_posix() for file in files])
    by_split: dict[str, list[str]] = {}
    for file, split in zip(files, splits, strict=True):
        by_split.setdefault(split, []).append(glob.escape(str(file.resolve())))
    kind = "arrow" if files[0].suffix.casefold() == ".arrow" else "parquet"
    # One call a split: the splits may differ in their text columns.
    found = {split: _load(kind, by_split[split], root) for split in SPLITS if split in by_split}
    return list_datasets(found, root, image_column, label_column)


def _load(kind: str, paths: list[str], root: Path) -> Any:  # noqa: ANN401 - a datasets.Dataset
    import datasets

    with _quiet():
        try:
            return datasets.load_dataset(kind, data_files=paths, split="train")
        except Exception as error:  # the builder wraps pyarrow's errors in its own and in others
            cause = error.__cause__ or error
            raise DataError(f"The {kind} files in {root} cannot be read: {_first_line(cause)}") from error


def list_saved_dataset(root: Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of a folder written by `save_to_disk`. DataError when it cannot be read."""
    import datasets

    with _quiet():
        try:
            loaded = datasets.load_from_disk(str(root))
        except Exception as error:
            raise DataError(f"{root} is not a complete saved dataset: {_first_line(error)}") from error
    found = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    return list_datasets(found, root, image_column, label_column)


def list_hub_dataset(name: str, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of a dataset on the Hugging Face hub. DataError says what was tried."""
    import datasets

    with _quiet():
        try:
            loaded = datasets.load_dataset(name)
        except Exception as error:
            raise DataError(
                f"{name!r} is neither a file or folder here ({Path(name).absolute()} does not exist) nor a dataset "
                f"that could be loaded from the Hugging Face hub: {_first_line(error)}"
            ) from error
    return list_datasets(dict(loaded), Path.cwd(), image_column, label_column)


def list_datasets(found: Mapping[str, Any], root: Path, image_column: str | None, label_column: str | None) -> Listing:
    """List the images of `datasets.Dataset` objects by split name."""
    named = [(require_split(name, f"split {name!r}"), dataset) for name, dataset in found.items() if len(dataset)]
    if not named:
        raise DataError(f"{root} holds no rows.")
    by_split = [columns_of(dataset.features, image_column, label_column, f"{root}, {name}") for name, dataset in named]
    columns = by_split[0]
    for (name, _), other in zip(named, by_split, strict=True):
        if (other.image, other.label, other.names) != (columns.image, columns.label, columns.names):
            raise DataError(
                f"{root}: the {name} split has other image or label columns or class names than {named[0][0]}. "
                "Make them equal."
            )
    parts = [dataset for _, dataset in named]
    texts = tuple(dict.fromkeys(text for other in by_split for text in other.texts))
    reader = DatasetReader(tuple(part.with_format("arrow") for part in parts), columns.image, texts, root)
    sizes = [len(part) for part in parts]
    splits = np.repeat([name for name, _ in named], sizes)
    if columns.split and len(named) == 1:
        values = reader.column(columns.split).to_pylist()
        splits = np.array([require_split(str(v or ""), f"{root} row {i}") for i, v in enumerate(values)])
    classes, labels = row_labels(reader.column(columns.label), columns.names)
    keys = [
        key_of(part._fingerprint, columns.image, row)
        for part, size in zip(parts, sizes, strict=True)
        for row in range(size)
    ]
    rows = {
        "path": _paths(reader, named),
        "label": pa.array(labels, pa.int32()),
        "split": pa.array(splits, pa.string()),
        "row": pa.array(np.arange(sum(sizes)), pa.int64()),
        "key": pa.array(keys, pa.binary(16)),
    }
    return Listing(pa.table(rows), classes, reader)


def _paths(reader: DatasetReader, named: Sequence[tuple[str, Any]]) -> pa.Array:
    """Names of the images: those in the image column, else split and position."""
    numbered = pa.array([f"{split}/{row}" for split, part in named for row in range(len(part))], pa.string())
    column = reader.column(reader.image_column)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return numbered
    given = pc.struct_field(column, "path").cast(pa.string()).combine_chunks()
    return pc.coalesce(given, numbered)


@dataclass(frozen=True)
class DatasetReader:
    """Reads images from memory-mapped `datasets.Dataset` parts in Arrow format; rows count through all of them."""

    parts: tuple[Any, ...]
    image_column: str
    text_columns: tuple[str, ...]
    root: Path

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column, mapped rather than read where the storage allows; null in parts that lack it."""
        present = [part.select_columns([name])[:][name] if name in part.column_names else None for part in self.parts]
        kind = next(column.type for column in present if column is not None)
        chunks = [
            [pa.nulls(len(part), kind)] if column is None else column.cast(kind).chunks
            for part, column in zip(self.parts, present, strict=True)
        ]
        return pa.chunked_array([chunk for part in chunks for chunk in part], kind)

    def read(self, path: str, row: int) -> bytes:
        """Encoded bytes of one image. ImageError names the image when they cannot be had."""
        ends = list(accumulate(len(part) for part in self.parts))
        number = bisect.bisect_right(ends, row)
        part = self.parts[number]
        value = part[row - ends[number] + len(part)][self.image_column][0].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or self._read_file(path, value.get("path"))
        if value is None:
            raise ImageError(f"{path}: row {row} holds no image")
        return bytes(value)

    def _read_file(self, name: str, path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            return (self.root / path).read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: holds no bytes, and the file it names cannot be read ({error})") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """A text column's values for the given rows. DataError lists the columns when it is unknown."""
        if column not in self.text_columns:
            raise unknown_text_column(column, self.text_columns)
        return list(self.column(column).take(pa.array(rows, pa.int64())).to_pylist())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars of `datasets` off the terminal."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    enabled = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
