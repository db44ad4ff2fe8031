"""Table columns that give the split of an image, by name or by 0 and 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.tables import SPLIT_COLUMNS, is_missing, pick_column
from gpt4image.images.sources.label_sets import FALSE, TRUE
from gpt4image.images.splits import has_split_word, require_split, split_named
from gpt4image.images.table import SPLITS

# Columns that hold the split if all their cells name splits; otherwise they may hold anything.
OTHER_COLUMNS = ("split", "subset", "partition", "set", "phase", "data_split", "dataset_split", "split_name")
FLAG = re.compile(
    r"(?:(?:is|in|for)_)?(train|training|val|valid|validation|dev|test|testing)(?:_(?:set|split|image|images|data))?"
)
DOUBTFUL = "valid"  # fastai's `is_valid` means validation, others' means that nothing is wrong
MOST_NAMES = 6  # most distinct names of splits in a column


@dataclass(frozen=True)
class SplitColumns:
    """Where a table says in which split a row is.

    Attributes:
        name: the column that names it; None if there is none.
        flags: the columns of 0 and 1, with the split that a 1 means.
        rest: the split of rows with no 1; None if every row has one.
    """

    name: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns."""
        return (self.name,) if self.name is not None else tuple(self.flags)

    def read(self, row: Mapping[str, Any], where: str) -> str | None:
        """Return the split of a row, None if the table does not say. DataError if the row names none, or several."""
        if self.name is not None:
            return require_split(str(row.get(self.name) or ""), where)
        if not self.flags:
            return None
        found = {self.flags[column]: column for column in self.flags if _as_flag(row.get(column))}
        if len(found) > 1 or not (found or self.rest):
            which = f"{' and '.join(found.values())} are both 1" if found else f"{', '.join(self.flags)} are all 0"
            raise DataError(f"{where}: {which}, but an image is in exactly one split.")
        return next(iter(found), self.rest)

    def read_all(self, values: Callable[[str], Iterable[Any]], where: str) -> list[str]:
        """Return the splits of all rows, none if the table does not say; `where` names a row, before its number."""
        rows = zip(*map(values, self.columns), strict=True)
        return [
            self.read(dict(zip(self.columns, row, strict=True)), f"{where} {number}") or ""
            for number, row in enumerate(rows)
        ]


def find_split_columns(
    columns: Sequence[str],
    values: Callable[[str], Iterable[Any]],
    taken: Collection[str | None],
    where: str,
    named: Sequence[str] = SPLIT_COLUMNS,
) -> SplitColumns:
    """Tell which columns of a table say the split, and say so unless they are called as usual.

    Args:
        columns: names of the columns.
        values: returns the cells of one.
        taken: columns that hold something else.
        where: the table, in notes.
        named: names of columns that must hold names of splits.
    """
    free = [column for column in columns if column not in taken]
    if (name := pick_column(free, None, named)) is not None:
        return SplitColumns(name)
    if (name := pick_column(free, None, OTHER_COLUMNS)) is not None and _names_splits(values(name)):
        say(f"{where}: the split is read from the column {name}.")
        return SplitColumns(name)
    flags = {column: split for column in free if (split := _flag_split(column, values, where))}
    if flags:
        rest = next((split for split in ("train", "test", "validation") if split not in flags.values()), None)
        said = [f"{split} where {column} is 1" for column, split in flags.items()]
        say(f"{where}: the split is read from {' and '.join(flags)}: {', '.join(said)}, {rest or 'none'} elsewhere.")
        return SplitColumns(None, flags, rest)
    for column in free:
        if _looks_like_split(values(column)):
            say(
                f"{where}: the column {column} looks like a split but is not used. To use it, name it split, with the "
                f"values {', '.join(SPLITS)}.",
                "yellow",
            )
    return SplitColumns()


def _flag_split(column: str, values: Callable[[str], Iterable[Any]], where: str) -> str | None:
    """Return the split that the 1s of a column mean, None if it is not read for one; say why where that is in doubt."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", column.strip()).casefold()
    named = FLAG.fullmatch(plain)
    if named is None:
        return None
    found = [_as_flag(value) for value in values(column)]
    if True not in found and False not in found:  # a text, or a score
        return None
    if None in found:
        say(
            f"{where}: the column {column} is not used as the split, because it has values other than 0 and 1.",
            "yellow",
        )
        return None
    if named[1] == DOUBTFUL:
        say(
            f"{where}: the column {column} is not used as the split, because it may mean that a row is valid. "
            "If it is the split, name it is_validation.",
            "yellow",
        )
        return None
    return split_named(named[1])


def _as_flag(value: object) -> bool | None:
    """Return a cell of 0 and 1, true and false, as pandas and others write them; None if it holds anything else."""
    word = str(value).strip().casefold()
    return True if word in TRUE else False if word in FALSE else None


def _names_splits(values: Iterable[Any]) -> bool:
    """Whether all cells name splits, train and another among them."""
    found: set[str] = set()
    for value in values:
        if not isinstance(value, str) or (split := split_named(value)) is None:
            return False
        found.add(split)
    return "train" in found and len(found) > 1


def _looks_like_split(values: Iterable[Any]) -> bool:
    """Whether all cells hold words for splits, two different ones or more."""
    found: set[str] = set()
    for value in values:
        if not isinstance(value, str) or is_missing(value) or len(found) > MOST_NAMES:
            return False
        if value not in found and not has_split_word(value):
            return False
        found.add(value)
    return 1 < len(found) <= MOST_NAMES
