"""The data card of a shared set: what it is, who wrote it, what is known to be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gpt4image.console import counted
from gpt4image.describe.prompts import Strategy
from gpt4image.describe.prompts.strategy import read_strategies
from gpt4image.describe.sharing.account import Account
from gpt4image.describe.sharing.columns import Column
from gpt4image.describe.sharing.markdown import escaped, fenced, one_line
from gpt4image.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment

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
    strategies: Sequence[Strategy]
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


def built_in() -> list[Strategy]:
    """The prompts that come with this package."""
    text = (files("gpt4image.describe.prompts") / "strategies.toml").read_text("utf-8")
    return list(read_strategies(text, "strategies.toml").values())


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
