"""Labels that look like something else than one class an image: numbers to predict, several labels, names of images."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.images.sources.listing import NUMBER, Listing

SHOWN = 3  # labels that a message names
MANY = 20  # fewer different numbers, or images, say little
FEW_IMAGES = 10  # of a class; numbers that are measured have fewer, and gaps

SEPARATORS = re.compile(r"\s*[,;|]\s*")
LIST = re.compile(r"\[.*\]|\{.*\}|\(.*,.*\)")  # as Python or JSON writes several values


def check_label_forms(listing: Listing, source: str) -> None:
    """Raise DataError if the labels look like anything but classes; it says like what, and how to keep them."""
    counts = np.bincount(listing.rows["label"].to_numpy() + 1, minlength=len(listing.classes) + 1)[1:]
    classes = [name for name, count in zip(listing.classes, counts.tolist(), strict=True) if count]
    images = int(counts.sum())
    several = find_several(classes)
    if several:
        looks, shown = "several labels of an image in one", several
        remedy = "An image has one class: leave one in each cell, or name another column with label_column"
    elif not listing.folders and are_measured(classes, images):
        looks, shown = "numbers to predict (regression)", classes
        remedy = "Name a column of classes with label_column, or group the numbers into classes"
    elif images >= MANY and 2 * len(classes) > images:
        looks, shown = "names or texts of single images", classes
        remedy = "Name a column of classes with label_column"
    else:
        return
    examples = ", ".join(map(repr, shown[:SHOWN]))
    raise DataError(
        f"{source}: the labels look like {looks}, not like classes: {len(classes):,} different ones of "
        f"{counted(images, 'image')}, such as {examples}. {remedy} (--label-column). If they are classes, set "
        "unusual_labels to keep (--unusual-labels keep)."
    )


def find_several(classes: list[str]) -> list[str]:
    """Return the class names that consist of others.

    A list of synonyms does not: its parts are no classes, and occur in no other list.

    >>> find_several(["animals", "animals,food", "food"]), find_several(["crane", "tench, Tinca tinca"])
    (['animals,food'], [])
    """
    parts = {name: SEPARATORS.split(name.strip()) for name in classes}
    uses = Counter(part for split in parts.values() if len(split) > 1 for part in set(split))
    atoms = {part for part, count in uses.items() if part in parts or count > 1}
    return [
        name for name in classes if LIST.fullmatch(name) or (len(parts[name]) > 1 and atoms.issuperset(parts[name]))
    ]


def are_measured(classes: list[str], images: int) -> bool:
    """Whether class names are numbers as measured: with fractions, or with gaps and few images each.

    Args:
        classes: the class names.
        images: number of labelled images.
    """
    if not all(NUMBER.fullmatch(name) for name in classes):
        return False
    numbers = np.array(list(map(float, classes)))
    fractions = bool((numbers % 1).any())
    gaps = bool(len(numbers)) and numbers.max() - numbers.min() + 1 > len(numbers)
    few = images < FEW_IMAGES * len(classes)
    return (fractions and (few or len(classes) >= MANY)) or (gaps and few and len(classes) >= MANY)
