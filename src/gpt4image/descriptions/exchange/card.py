"""The data card of a shared set: what it is, who wrote it, what is known to be wrong with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from gpt4image.core.console import counted, printable
from gpt4image.core.files import atomic_write
from gpt4image.descriptions.description_set import ImageLookup
from gpt4image.descriptions.exchange.rows import Column
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import parse_prompts
from gpt4image.images.table import SPLITS

if TYPE_CHECKING:
    from jinja2 import Environment


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


class PromptKey(NamedTuple):
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
    prompts: Counter[PromptKey] = field(default_factory=Counter)
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


ACTIVE = re.compile(r"[!-+/:-@\[-`{-~]|(?<=www)\.", re.IGNORECASE)


"""ASCII punctuation that Markdown or HTML may act on, and the dot that makes a link of what stands behind `www`."""


def one_line(text: str) -> str:
    r"""Text on one line, with control and bidirectional characters made visible.

    >>> one_line("a\n---\nb\u202ec")
    'a --- b\\u202ec'
    """
    return printable(" ".join(text.split()))


def escaped(text: str) -> str:
    """Text for a line or table cell of Markdown: what could be markup becomes character references.

    >>> escaped("<b>|cat| www.x.org</b>")
    '&#60;b&#62;&#124;cat&#124; www&#46;x.org&#60;&#47;b&#62;'
    """
    return ACTIVE.sub(lambda match: f"&#{ord(match[0])};", one_line(text))


def fenced(text: str) -> str:
    r"""Text as a code block, with a fence that is longer than any in it.

    >>> fenced("a\n```\nb")
    '````text\na\n```\nb\n````'
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(map(printable, text.splitlines()))
    return f"{fence}text\n{lines}\n{fence}"


MOST_CLASSES = 60


"""Classes that get a line of their own; of more, the card gives a summary."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split.

    Attributes:
        rows: number of rows.
        size: size of the rows in memory, in bytes.
        file_size: size of the files, in bytes.
    """

    rows: int
    size: int
    file_size: int


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        account: what is in the set.
        columns: its columns.
        splits: its files by split.
        strategies: prompts whose texts are known, beside the built-in ones.
        findings: what checking the texts has found, title and count.
    """

    account: Account
    columns: Sequence[Column]
    splits: Mapping[str, SplitFiles]
    strategies: Sequence[Prompt]
    findings: Mapping[str, int]

    @property
    def source(self) -> str:
        """The image set as the user named it, without the folders above it."""
        return Path(self.account.lookup.images.source).name or self.account.lookup.images.source


def write_card(path: Path, facts: CardFacts) -> None:
    """Write the card as `README.md` of a data set."""
    with atomic_write(path) as file:
        file.write(f"---\n{front_matter(facts)}---\n\n{body(facts)}".encode())


def front_matter(facts: CardFacts) -> str:
    """What `datasets` and the Hugging Face hub read: YAML."""
    from huggingface_hub import DatasetCardData

    splits = [
        {"name": name, "num_bytes": split.size, "num_examples": split.rows} for name, split in facts.splits.items()
    ]
    data_files = [{"split": name, "path": f"data/{name}-*"} for name in facts.splits]
    card = DatasetCardData(
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
    return str(card.to_yaml()) + "\n"


def body(facts: CardFacts) -> str:
    """The card itself: Markdown."""
    account = facts.account
    classes = account.by_class()
    return _environment().from_string((files(__package__) / "card.md.j2").read_text("utf-8")).render(
        facts=facts,
        account=account,
        images_inside=any(column.dtype == "image" for column in facts.columns),
        with_cost=any(column.name == "cost" for column in facts.columns),
        classes=classes if len(classes) <= MOST_CLASSES else [],
        class_count=len(classes),
        class_texts=sorted(covered.texts for covered in classes),
        known={strategy.hash: strategy for strategy in (*built_in(), *facts.strategies)},
        version=version("gpt4image"),
    )  # fmt: skip


def built_in() -> list[Prompt]:
    """The prompts that come with this package."""
    text = (files("gpt4image.descriptions.prompts") / "prompts.toml").read_text("utf-8")
    return list(parse_prompts(text, "prompts.toml").values())


@cache
def _environment() -> Environment:
    """What the template prints is escaped unless a filter has made it Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "counted": counted,
        "fenced": _fenced,
        "plain_settings": plain_settings,
    }
    return environment


def _shown(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """Escape text; Markdown that filters made is our own."""
    return Markup(escaped(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _fenced(text: str) -> Markup:
    return Markup(fenced(text))


def plain_settings(settings: str) -> str:
    """Settings in words.

    >>> plain_settings('{"max_side": 768, "temperature": 0.5}')
    'max side 768, temperature 0.5'
    """
    try:
        return ", ".join(f"{name} {value}".replace("_", " ") for name, value in json.loads(settings).items())
    except (ValueError, AttributeError, RecursionError):
        return settings
