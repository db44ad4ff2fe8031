"""What is in a shared set, counted while it is written: the data card is made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.describe.sharing.lookup import ImageLookup
from gpt4image.images.table import SPLITS


class Covered(NamedTuple):
    """How much of a split or class is described: distinct images, those with a text, and texts."""

    name: str
    images: int
    with_text: int
    texts: int


class Writer(NamedTuple):
    """Who wrote a text."""

    model: str
    served_model: str
    describer: str


class Prompt(NamedTuple):
    """What a text answers: a prompt's name and hash."""

    name: str
    hash: str


@dataclass
class Account:
    """Counts of a shared set.

    Attributes:
        lookup: the images.
        texts_of: number of texts of each image of the table, int64 [N]; copies of an image are counted at the first.
        writers: texts by who wrote them.
        prompts: texts by prompt.
        settings: texts by sampling and image size.
        failures: requests without an answer, by reason.
        dropped: texts left out because they were marked so.
        strangers: texts left out because their image is not in the set.
        tokens_in: tokens read for the texts.
        tokens_out: tokens written.
        cost: US dollars, as far as prices were known.
        first: when the oldest text was written, None where no text says.
        last: when the newest was.
    """

    lookup: ImageLookup
    texts_of: np.ndarray = field(init=False)
    writers: Counter[Writer] = field(default_factory=Counter)
    prompts: Counter[Prompt] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    strangers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    first: str | None = None
    last: str | None = None

    def __post_init__(self) -> None:
        self.texts_of = np.zeros(len(self.lookup.images), dtype=np.int64)

    @property
    def texts(self) -> int:
        """Number of texts."""
        return int(self.texts_of.sum())

    @property
    def with_text(self) -> int:
        """Number of distinct images that have a text."""
        return int(np.count_nonzero(self.texts_of))

    def add(self, texts: pa.Table, rows: np.ndarray) -> None:
        """Count texts; `rows` are the positions [N] of their images."""
        np.add.at(self.texts_of, rows, 1)
        columns = {name: texts[name].to_pylist() for name in (*Writer._fields, "prompt", "prompt_hash", "settings")}
        self.writers.update(map(Writer, *(columns[name] for name in Writer._fields)))
        self.prompts.update(map(Prompt, columns["prompt"], columns["prompt_hash"]))
        self.settings.update(columns["settings"])
        self.tokens_in += pc.sum(texts["tokens_in"]).as_py() or 0
        self.tokens_out += pc.sum(texts["tokens_out"]).as_py() or 0
        self.cost += pc.sum(texts["cost"]).as_py() or 0.0
        self._date(texts["created"])

    def _date(self, created: pa.ChunkedArray) -> None:
        known = created.filter(pc.not_equal(created, ""))
        if len(known):
            span = pc.min_max(known).as_py()
            self.first = min(self.first or span["min"], span["min"])
            self.last = max(self.last or span["max"], span["max"])

    def by_split(self) -> list[Covered]:
        """Coverage of the splits that have images."""
        rows = self.lookup.rows
        splits = self.lookup.splits[rows]
        found = [self._covered(name, rows[splits == name]) for name in SPLITS]
        return [covered for covered in found if covered.images]

    def by_class(self) -> list[Covered]:
        """Coverage of the classes, in the order of their labels."""
        rows = self.lookup.rows
        labels = self.lookup.images.labels[rows]
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(self.lookup.images.classes) + 1))
        parts = (order[start:end] for start, end in pairwise(bounds))
        return [self._covered(name, rows[part]) for name, part in zip(self.lookup.images.classes, parts, strict=True)]

    def _covered(self, name: str, rows: np.ndarray) -> Covered:
        texts = self.texts_of[rows]
        return Covered(name, len(rows), int(np.count_nonzero(texts)), int(texts.sum()))
