"""Exact copies of images: within a split, across splits, and with different labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from gpt4image.images.table import ImageTable, RejectedImage

Places = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class DuplicateReport:
    """Images whose encoded bytes are equal.

    Attributes:
        groups: number of distinct images that occur more than once.
        surplus: number of images beyond the first of each group.
        copies: id -> paths, for each of these groups.
        leaked: id -> split -> paths, for images in more than one split.
        conflicting: id -> class name -> paths, for images with more than one label.
    """

    groups: int
    surplus: int
    copies: Mapping[str, tuple[str, ...]]
    leaked: Mapping[str, Places]
    conflicting: Mapping[str, Places]


def find_duplicates(table: ImageTable) -> DuplicateReport:
    """Find the exact copies in a table."""
    # inverse [N]: the group of each image; repeated [R]: rows of images with copies, group by group.
    _, inverse, counts = np.unique(table.ids, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    repeated = np.flatnonzero(counts[inverse] > 1)
    repeated = repeated[np.argsort(inverse[repeated], kind="stable")]
    edges = np.flatnonzero(np.diff(inverse[repeated])) + 1
    copies: dict[str, tuple[str, ...]] = {}
    leaked: dict[str, Places] = {}
    conflicting: dict[str, Places] = {}
    for members in np.split(repeated, edges) if len(repeated) else []:
        rows = table.rows.take(members).to_pylist()
        image_id = rows[0]["id"]
        copies[image_id] = tuple(row["path"] for row in rows)
        splits = _group((row["split"], row["path"]) for row in rows)
        names = _group((name, row["path"]) for row in rows if (name := table.label_name(row["label"])) is not None)
        if len(splits) > 1:
            leaked[image_id] = splits
        if len(names) > 1:
            conflicting[image_id] = names
    surplus = counts[counts > 1] - 1
    return DuplicateReport(len(surplus), int(surplus.sum()), copies, leaked, conflicting)


def drop_leaks(table: ImageTable) -> ImageTable:
    """Remove from train the images that are also in validation or test, and from validation those also in test.

    The removed images are added to `rejected`.
    """
    ids, splits = table.ids, table.rows["split"].to_numpy()
    in_test, in_validation = (np.isin(ids, ids[splits == name]) for name in ("test", "validation"))
    leaks = {
        "test": in_test & (splits != "test"),
        "validation": in_validation & ~in_test & (splits == "train"),
    }
    rejected = [
        RejectedImage(table.path(index), f"the same image is in the {name} split")
        for name, where in leaks.items()
        for index in np.flatnonzero(where).tolist()
    ]
    kept = table.rows.filter(~(leaks["test"] | leaks["validation"])).combine_chunks()
    return replace(table, rows=kept, rejected=(*table.rejected, *rejected))


def _group(pairs: Iterable[tuple[str, str]]) -> Places:
    """Collect the paths of each name, in their order."""
    places: dict[str, tuple[str, ...]] = {}
    for name, path in pairs:
        places[name] = (*places.get(name, ()), path)
    return places
