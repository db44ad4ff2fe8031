"""Several labels per image: how tables give them, and how they become a matrix.

A set of images has several labels each where its source says so: a column of lists, labels in a cell with a separator
that the user names, columns of 0 and 1 that the user names, or objects of several classes in an image. A list may be
empty: then the image has none of the classes. A missing value means that nothing is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt4image.core.errors import DataError
from gpt4image.core.tables import is_missing
from gpt4image.images.boxes import Boxes

PRESENT, ABSENT, UNKNOWN = 1, 0, -1  # entries of the matrix of labels
TRUE, FALSE = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})
LIST_AS_TEXT = re.compile(r"\[[^\[\]]*\]")


class LabelSet(NamedTuple):
    """What is known of an image's labels.

    Attributes:
        present: classes that it has.
        absent: classes that it does not have; None for all others.
        boxes: where the objects are, in a set with boxes.
        mask: the class of each pixel as PNG (`images.masks`), in a set with masks; numbers are those of the listing.
    """

    present: tuple[str, ...]
    absent: tuple[str, ...] | None = None
    boxes: Boxes | None = None
    mask: bytes | None = None


def read_label_list(value: object, where: str, separator: str | None = None) -> LabelSet | None:
    """Return the labels of a cell, None if it is empty.

    Args:
        value: a list of names or numbers, or with a separator a text.
        where: file and row, for messages.
        separator: what separates the labels in a text.

    Raises:
        DataError: the cell holds something else.
    """
    if separator is not None and isinstance(value, str):
        value = None if is_missing(value) else _labels_in(value.strip(), where, separator)
    if value is None:
        return None
    if isinstance(value, bool | int | float | str) and separator is not None:
        value = [value]
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: the labels {value!r} are not a list, unlike in other rows. Write a list in every row, or null "
            "for unknown."
        )
    for label in value:
        if is_missing(label) or not isinstance(label, str | bool | int | float):
            raise DataError(f"{where}: {label!r} in the list of labels is not a name. Remove it.")
    return LabelSet(tuple(str(label).strip() for label in value))


def _labels_in(cell: str, where: str, separator: str) -> list[Any]:
    """Return the labels in a cell: parts between separators, or a list as JSON or Python writes it."""
    if LIST_AS_TEXT.fullmatch(cell):
        for written in (cell, cell.replace("'", '"')):
            try:
                return list(json.loads(written))
            except ValueError:
                continue
        if separator in cell or "'" in cell or '"' in cell:
            raise DataError(
                f"{where}: the labels {cell} look like a list but cannot be read as one. Write them with {separator!r} "
                'between them and without brackets, or as ["cat", "dog"].'
            )
    return [part for part in map(str.strip, cell.split(separator)) if part]


def read_flags(row: Mapping[str, Any], columns: Sequence[str], where: str) -> LabelSet | None:
    """Return the labels that columns of 0 and 1 say, one a class; None if all are empty.

    Raises:
        DataError: a value is neither 0 nor 1 nor empty; the column is named.
    """
    present: list[str] = []
    absent: list[str] = []
    for column in columns:
        value = row.get(column)
        if is_missing(value):
            continue
        word = str(value).strip().casefold()
        if word not in TRUE | FALSE:
            raise DataError(
                f"{where}: column {column!r} has {value!r}; it must be 1 for present, 0 for absent, or empty for "
                "unknown."
            )
        (present if word in TRUE else absent).append(column)
    return LabelSet(tuple(present), tuple(absent)) if present or absent else None


def label_matrix(values: Sequence[LabelSet | None], position: Mapping[str, int], classes: int) -> np.ndarray:
    """Return which labels each image has, int8 [N, C]: `PRESENT`, `ABSENT` or `UNKNOWN`.

    Args:
        values: the labels of each image, None where nothing is known.
        position: the number of each name's class, -1 for a name that is no class.
        classes: number of classes C.
    """
    matrix = np.full((len(values), classes), UNKNOWN, dtype=np.int8)
    for row, value in zip(matrix, values, strict=True):
        if value is None:
            continue
        if value.absent is None:
            row[:] = ABSENT
        for names, mark in ((value.absent or (), ABSENT), (value.present, PRESENT)):
            row[[at for name in names if (at := position[name]) >= 0]] = mark
    return matrix


def names_in(values: Iterable[LabelSet | None]) -> list[str]:
    """Return all names that occur, sorted."""
    return sorted({name for value in values if value for name in (*value.present, *(value.absent or ()))})


def join_labels(matrix: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the labels of groups of rows as those of one image each, int8 [G, C]: what one of the rows has, it has.

    Args:
        matrix: as of `label_matrix`, int8 [N, C].
        groups: the group of each row, from 0, int [N].
    """
    joined = np.full((int(groups.max(initial=-1)) + 1, matrix.shape[1]), UNKNOWN, dtype=np.int8)
    np.maximum.at(joined, groups, matrix)  # present takes precedence over absent, and absent over unknown
    return joined


def rarest_present(matrix: np.ndarray) -> np.ndarray:
    """Return the rarest class that each image has, by which sets are divided, int32 [N].

    C stands for images that have none, -1 for those of which nothing is known.
    """
    present = matrix == PRESENT
    counts = present.sum(axis=0)
    order = np.argsort(counts, kind="stable")  # [C]: rare classes first
    rarest = np.where(present.any(axis=1), order[present[:, order].argmax(axis=1)], matrix.shape[1])
    known = (matrix != UNKNOWN).any(axis=1)
    return np.where(known, rarest, -1).astype(np.int32)
