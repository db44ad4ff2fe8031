"""Which column of a table means what, told by types first and names second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.errors import DataError
from gpt4image.images.sources.listing import LABEL_COLUMNS, Label, encode_labels, pick_column

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
