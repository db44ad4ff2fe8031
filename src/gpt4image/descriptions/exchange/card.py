"""The dataset card of an exported set: contents, provenance, known problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.markdown import MOST_CLASSES, one_line, render_card, write_card
from gpt4image.descriptions.description_set import ImageLookup
from gpt4image.descriptions.exchange.rows import Column
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.images.table import SPLITS

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData


class Covered(NamedTuple):
    """Coverage of a split or class: distinct images, those with a text, and texts."""

    name: str
    images: int
    with_text: int
    texts: int


class Writer(NamedTuple):
    """The model that wrote a text, and the describer that called it."""

    model: str
    served_model: str
    describer: str


class PromptKey(NamedTuple):
    """Name and hash of a prompt."""

    name: str
    hash: str


@dataclass
class SetStatistics:
    """Counts of an exported set.

    Attributes:
        lookup: the images.
        texts_of: number of texts of each image in the table, int64 [N]; copies count as the first of them.
        writers: texts by writer.
        prompts: texts by prompt.
        settings: texts by sampling settings and image size.
        failures: failed requests by reason.
        dropped: texts excluded by a mark.
        orphan_texts: texts excluded because their image is not in the set.
        tokens_in: prompt tokens.
        tokens_out: completion tokens.
        cost: US dollars; texts of unknown price are not counted.
        first: time of the oldest text, None if unknown.
        last: time of the newest text.
    """

    lookup: ImageLookup
    texts_of: np.ndarray = field(init=False)
    writers: Counter[Writer] = field(default_factory=Counter)
    prompts: Counter[PromptKey] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    orphan_texts: int = 0
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
        """Number of distinct images with a text."""
        return int(np.count_nonzero(self.texts_of))

    def add(self, texts: pa.Table, rows: np.ndarray) -> None:
        """Count texts; `rows` are the positions [N] of their images in the table."""
        np.add.at(self.texts_of, rows, 1)
        columns = {name: texts[name].to_pylist() for name in (*Writer._fields, "prompt", "prompt_hash", "settings")}
        self.writers.update(map(Writer, *(columns[name] for name in Writer._fields)))
        self.prompts.update(map(PromptKey, columns["prompt"], columns["prompt_hash"]))
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
        """Return the coverage of every split that has images."""
        rows = self.lookup.rows
        splits = self.lookup.splits[rows]
        found = [self._covered(name, rows[splits == name]) for name in SPLITS]
        return [covered for covered in found if covered.images]

    def by_class(self) -> list[Covered]:
        """Return the coverage of every class, in the order of the classes."""
        rows = self.lookup.rows
        images = self.lookup.images
        if images.has_label_sets:
            marks = images.label_matrix[rows] > 0
            return [self._covered(name, rows[marks[:, at]]) for at, name in enumerate(images.classes)]
        labels = images.labels[rows]
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(self.lookup.images.classes) + 1))
        parts = (order[start:end] for start, end in pairwise(bounds))
        return [self._covered(name, rows[part]) for name, part in zip(self.lookup.images.classes, parts, strict=True)]

    def _covered(self, name: str, rows: np.ndarray) -> Covered:
        texts = self.texts_of[rows]
        return Covered(name, len(rows), int(np.count_nonzero(texts)), int(texts.sum()))


class SplitSize(NamedTuple):
    """Size of a split: number of rows, their bytes in memory and on disk."""

    rows: int
    size: int
    file_size: int


@dataclass(frozen=True)
class DatasetFacts:
    """The content of a card.

    Attributes:
        statistics: counts of the set.
        columns: its columns.
        splits: size by split.
        prompts: prompts whose wording is known besides the built-in ones.
        findings: findings of the last check, title and number of texts.
        repo: the repository on the Hub, USER/NAME; None if the folder is not pushed.
    """

    statistics: SetStatistics
    columns: Sequence[Column]
    splits: Mapping[str, SplitSize]
    prompts: Sequence[Prompt]
    findings: Mapping[str, int]
    repo: str | None = None

    @property
    def source(self) -> str:
        """Name of the image set, without its parent folders."""
        return Path(self.statistics.lookup.images.source).name or self.statistics.lookup.images.source


def write_dataset_card(path: Path, facts: DatasetFacts) -> None:
    """Write the card, the `README.md` of a dataset."""
    write_card(path, dataset_metadata(facts), dataset_text(facts))


def dataset_metadata(facts: DatasetFacts) -> DatasetCardData:
    """Return the metadata for `datasets` and the Hugging Face Hub."""
    from huggingface_hub import DatasetCardData

    splits = [
        {"name": name, "num_bytes": split.size, "num_examples": split.rows} for name, split in facts.splits.items()
    ]
    data_files = [{"split": name, "path": f"data/{name}-*"} for name in facts.splits]
    return DatasetCardData(
        pretty_name=f"Descriptions of {one_line(facts.source)}",
        task_categories=["image-to-text", "image-classification"],
        tags=["gpt4image", "synthetic"],
        configs=[{"config_name": "default", "data_files": data_files}],
        dataset_info={
            "features": [{"name": column.name, "dtype": column.dtype} for column in facts.columns],
            "splits": splits,
            "download_size": sum(split.file_size for split in facts.splits.values()),
            "dataset_size": sum(split.size for split in facts.splits.values()),
        },
    )


def dataset_text(facts: DatasetFacts) -> str:
    """Render the Markdown of the card."""
    classes = facts.statistics.by_class()
    return render_card(
        __package__,
        {"plain_settings": plain_settings},
        loading=f'import datasets\n\ntexts = datasets.load_dataset("{facts.repo or "path/to/this/folder"}")',
        facts=facts,
        statistics=facts.statistics,
        images_inside=any(column.dtype == "image" for column in facts.columns),
        with_cost=any(column.name == "cost" for column in facts.columns),
        classes=classes if len(classes) <= MOST_CLASSES else [],
        class_count=len(classes),
        class_texts=sorted(covered.texts for covered in classes),
        known={prompt.hash: prompt for prompt in (*known_prompts().values(), *facts.prompts)},
        version=version("gpt4image"),
    )


def plain_settings(settings: str) -> str:
    """Format settings for display.

    >>> plain_settings('{"max_side": 768, "temperature": 0.5}')
    'max side 768, temperature 0.5'
    """
    try:
        return ", ".join(f"{name} {value}".replace("_", " ") for name, value in json.loads(settings).items())
    except (ValueError, AttributeError, RecursionError):
        return settings
