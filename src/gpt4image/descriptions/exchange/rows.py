"""Rows of a shared set, read from its files and checked one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpt4image.core.errors import DescriptionError
from gpt4image.core.format import printable
from gpt4image.core.tables import Table
from gpt4image.descriptions.store.records import RECORD_FIELDS, DescriptionRecord


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


FILE_NAME = "file_name"


"""What the image-folder layout calls the path."""


KNOWN = frozenset({*NAMES, FILE_NAME, "error"})


SHOWN = 60


def hex_digits(text: str) -> str:
    """A hash as 32 hex digits."""
    if len(text) != 32 or text.strip("0123456789abcdef"):
        raise ValueError("must be 32 hex digits")
    return text


def whole(value: Any) -> Any:  # noqa: ANN401 - a cell
    """A number; one that became a float because others in its column are missing becomes whole again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def utc_time(text: str) -> str:
    """A time as the store writes it."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("must say its time zone, such as 2026-01-31T12:00:00+00:00")
    try:
        return time.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError as error:
        raise ValueError(str(error)) from None


def json_object(text: str) -> str:
    """Settings as JSON."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return text


def encodable(text: str) -> str:
    """Text that can be stored: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character, which cannot be stored") from None
    return text


Hash = Annotated[str, AfterValidator(hex_digits)]


Words = Annotated[str, AfterValidator(encodable)]


Count = Annotated[int, BeforeValidator(whole), Field(ge=0, lt=2**63)]


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SharedRow(BaseModel):
    """A text with its provenance, as `DescriptionRecord` has it, and its image by id or path. Failures are refused."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    key: Hash
    text: Words
    model: Words
    prompt: Words
    prompt_hash: Annotated[str, AfterValidator(lambda text: text and hex_digits(text))]
    image_id: Hash | None = None
    path: Words | None = None
    error: None = None
    served_model: Words = ""
    describer: Words = ""
    sample: Annotated[int, BeforeValidator(whole), Field(ge=0, lt=2**31)] = 0
    settings: Annotated[Words, AfterValidator(json_object)] = "{}"
    tokens_in: Count | None = None
    tokens_out: Count | None = None
    cost: Amount | None = None
    finish_reason: Words | None = None
    seconds: Amount = 0.0
    created: Annotated[str, AfterValidator(lambda text: text and utc_time(text))] = ""

    def record(self, image_id: str) -> DescriptionRecord:
        """The record in the store."""
        return DescriptionRecord(image_id=image_id, **{n: getattr(self, n) for n in PROVENANCE if n != "image_id"})


def shared_files(source: Path) -> list[Path]:
    """The files of a shared set that hold its rows.

    Args:
        source: one file, or a folder: its Parquet files, else its `metadata.jsonl`.

    Raises:
        DescriptionError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DescriptionError(f"{source} does not exist. Name a folder of descriptions, or a file of them.")
    if store_folder(source) is not None:
        raise DescriptionError(f"{source} is a work directory: export its descriptions, and import what that writes.")
    inside = (path for path in sorted(source.rglob("*.parquet")) if not is_in_hidden_folder(path.relative_to(source)))
    found = list(inside) or [path for path in [source / "metadata.jsonl"] if path.is_file()]
    if not found:
        raise DescriptionError(
            f"{source} holds neither Parquet files nor metadata.jsonl. Name a folder that gpt4image has exported, or "
            "a file: .parquet, .jsonl, .csv or .tsv."
        )
    return found


def store_folder(folder: Path) -> Path | None:
    """The description store in a folder, that of a work directory or the folder itself; None where there is none."""
    return next((path for path in (folder / "descriptions", folder) if (path / "parts").is_dir()), None)


def is_in_hidden_folder(path: Path) -> bool:
    """Whether a path leads through a hidden folder, such as a cache."""
    return any(part.startswith(".") for part in path.parts)


def has_provenance(file: Path) -> bool:
    """Whether a file's rows say what was asked. CSV and TSV files, which know no types, are plain tables."""
    table = Table(file, DescriptionError)
    return not table.is_csv and {"key", "prompt_hash"} <= set(table.columns())


def read_shared_rows(file: Path) -> Iterator[tuple[str, SharedRow]]:
    """Yield (file and row as messages name them, row). DescriptionError names the row that is broken."""
    table = Table(file, DescriptionError)
    for number, row in table.rows(KNOWN - {"image"}):
        where = table.where(number)
        yield where, checked_row(row, where)


def checked_row(row: dict[str, Any], where: str) -> SharedRow:
    """A row with all its types checked. DescriptionError says what is wrong with it."""
    values = {name: value for name, value in row.items() if value is not None}
    values.setdefault("path", values.get(FILE_NAME))
    try:
        found = SharedRow.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"][:1]))
        given = "" if first["type"] == "missing" else f" It is {shortened(first['input'])}."
        reason = first["msg"].removeprefix("Value error, ")
        raise DescriptionError(f"{where}: {name}: {reason}.{given} Mend the row, or take it out.") from None
    if found.image_id is None and found.path is None:
        raise DescriptionError(f"{where}: has neither image_id nor path, so its image is not known.")
    return found


def shortened(value: Any) -> str:  # noqa: ANN401 - a cell
    """A cell's value, short enough for a message."""
    text = printable(repr(value))
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
