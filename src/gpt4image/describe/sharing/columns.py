"""The columns of a shared set, and what each of them means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gpt4image.describe.store.records import RECORD_FIELDS


@dataclass(frozen=True)
class Column:
    """A column of a shared set.

    Attributes:
        name: its name.
        dtype: its type, as `datasets` spells it.
        about: what it holds, for the data card.
    """

    name: str
    dtype: str
    about: str


COLUMNS = (
    Column("image_id", "string", "128-bit BLAKE2b hash of the image file's bytes, 32 hex digits"),
    Column("path", "string", "where the image lies in its image set"),
    Column("label", "string", "name of the image's class, empty where it has none"),
    Column("split", "string", "the image's split: train, validation or test"),
    Column("text", "string", "the description"),
    Column("model", "string", "the model as it was asked for"),
    Column("served_model", "string", "the model as the server named it"),
    Column("prompt", "string", "name of the prompt"),
    Column("prompt_hash", "string", "hash of the prompt's text, 32 hex digits"),
    Column("sample", "int32", "number of the sample, from 0"),
    Column("finish_reason", "string", "why the answer ended, as the server said"),
    Column("tokens_in", "int64", "tokens read"),
    Column("tokens_out", "int64", "tokens written"),
    Column("created", "string", "when, ISO 8601 in UTC"),
    Column("seconds", "float64", "time from the first call to the answer"),
    Column("describer", "string", "what asked: a kind of server, a model in the process, a recording"),
    Column("settings", "string", "sampling and image size, as JSON"),
    Column("key", "string", "hash of all that was asked, 32 hex digits"),
)
COST = Column("cost", "float64", "money in US dollars, empty where no price was known")
IMAGE = Column("image", "image", "the image file's bytes")
NAMES = tuple(column.name for column in (*COLUMNS, COST, IMAGE))
PROVENANCE = tuple(column.name for column in (*COLUMNS, COST) if column.name in RECORD_FIELDS)
"""Columns that are fields of a record, the text included."""


def chosen_columns(*, with_cost: bool, images_inside: bool) -> tuple[Column, ...]:
    """The columns of a set; those that were not asked for are left out."""
    return (*COLUMNS, *([COST] if with_cost else []), *([IMAGE] if images_inside else []))


def shared_schema(columns: Sequence[Column]) -> pa.Schema:
    """Arrow schema of some columns; its metadata tells `datasets` which of them holds images."""
    import datasets

    kinds: dict[str, Any] = {
        column.name: datasets.Image() if column.dtype == "image" else datasets.Value(column.dtype) for column in columns
    }
    schema: pa.Schema = datasets.Features(kinds).arrow_schema
    return schema
