"""Rows of an exported set: their columns, and the validation of rows from other sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpt4image.core.errors import DescriptionError
from gpt4image.core.format import printable, shorten
from gpt4image.core.tables import Table
from gpt4image.descriptions.caption_files import is_caption_file
from gpt4image.descriptions.prompts.choices import Pick
from gpt4image.descriptions.store.records import RECORD_FIELDS, DescriptionRecord


class Column(NamedTuple):
    """A column of an exported set: name, type as `datasets` spells it, and content for the dataset card."""

    name: str
    dtype: str
    content: str


COLUMNS = (
    Column("image_id", "string", "128-bit BLAKE2b hash of the image file's bytes, 32 hex digits"),
    Column("path", "string", "path of the image in its image set"),
    Column("label", "string", "class name of the image, empty if it has none"),
    Column("split", "string", "split of the image: train, validation or test"),
    Column("text", "string", "the description"),
    Column("model", "string", "the model as requested"),
    Column("served_model", "string", "the model as the server named it"),
    Column("prompt", "string", "name of the prompt"),
    Column("prompt_hash", "string", "hash of the prompt's text, 32 hex digits"),
    Column("sample", "int32", "number of the sample, from 0"),
    Column("finish_reason", "string", "why generation stopped, as the server reported it"),
    Column("tokens_in", "int64", "prompt tokens"),
    Column("tokens_out", "int64", "completion tokens"),
    Column("created", "string", "time of the answer, ISO 8601 in UTC"),
    Column("seconds", "float64", "time from the first request to the answer"),
    Column("describer", "string", "kind of describer: a server, a model in the process, a recording"),
    Column("settings", "string", "sampling settings and image size, as JSON"),
    Column("key", "string", "hash of image, model, prompt and sampling, 32 hex digits"),
    Column("pick", "string", "the class that the answer picks, as JSON; empty for a description"),
)
COST = Column("cost", "float64", "US dollars, empty if the price is unknown")
IMAGE = Column("image", "image", "the image file's bytes")

PROVENANCE = tuple(column.name for column in (*COLUMNS, COST) if column.name in RECORD_FIELDS)
"""Columns that are fields of a record, including the text."""

FILE_NAME = "file_name"
"""Name of the path column in the image-folder layout."""

SHOWN = 60
"""Maximum length of an invalid value in a message."""

KNOWN = frozenset({*(column.name for column in (*COLUMNS, COST, IMAGE)), FILE_NAME, "error"})


def chosen_columns(*, with_cost: bool, images_inside: bool) -> tuple[Column, ...]:
    """Return the columns of a set, including the requested optional ones."""
    return (*COLUMNS, *([COST] if with_cost else []), *([IMAGE] if images_inside else []))


def shared_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the Arrow schema of some columns; its metadata tells `datasets` which of them holds images."""
    import datasets

    kinds: dict[str, Any] = {
        column.name: datasets.Image() if column.dtype == "image" else datasets.Value(column.dtype) for column in columns
    }
    schema: pa.Schema = datasets.Features(kinds).arrow_schema
    return schema


def _hex_digits(text: str) -> str:
    if len(text) != 32 or text.strip("0123456789abcdef"):
        raise ValueError("must be 32 hex digits")
    return text


def _integer(value: Any) -> Any:  # noqa: ANN401 - a cell
    # pandas turns an integer column with missing values into floats
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _utc_time(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("must have a time zone, such as 2026-01-31T12:00:00+00:00")
    try:
        return time.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _json_object(text: str) -> str:
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return text


def _pick(text: str) -> str:
    try:
        return Pick.from_json(text).to_json()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("must be a class with its log-probabilities, as gpt4image describe export writes it") from None


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell unpaired surrogates
        raise ValueError("contains an unpaired surrogate, which cannot be stored") from None
    return text


Hash = Annotated[str, AfterValidator(_hex_digits)]
Text = Annotated[str, AfterValidator(_encodable)]
CellCount = Annotated[int, BeforeValidator(_integer), Field(ge=0, lt=2**63)]
FiniteAmount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SharedRow(BaseModel):
    """A text with the provenance of a `DescriptionRecord`, and its image by id or path. Failures are rejected."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    key: Hash
    text: Text
    model: Text
    prompt: Text
    prompt_hash: Annotated[str, AfterValidator(lambda text: text and _hex_digits(text))]
    image_id: Hash | None = None
    path: Text | None = None
    error: None = None
    served_model: Text = ""
    describer: Text = ""
    sample: Annotated[int, BeforeValidator(_integer), Field(ge=0, lt=2**31)] = 0
    settings: Annotated[Text, AfterValidator(_json_object)] = "{}"
    tokens_in: CellCount | None = None
    tokens_out: CellCount | None = None
    cost: FiniteAmount | None = None
    finish_reason: Text | None = None
    seconds: FiniteAmount = 0.0
    created: Annotated[str, AfterValidator(lambda text: text and _utc_time(text))] = ""
    pick: Annotated[Text, AfterValidator(_pick)] | None = None

    def record(self, image_id: str) -> DescriptionRecord:
        """Return the record for the store."""
        return DescriptionRecord(image_id=image_id, **{n: getattr(self, n) for n in PROVENANCE if n != "image_id"})


def shared_files(source: Path) -> list[Path]:
    """Find the files that hold the rows of an exported set.

    Args:
        source: one file, or a folder: its Parquet files, else its `metadata.jsonl`.

    Raises:
        DescriptionError: there is no such file.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DescriptionError(f"{source} does not exist. Name a folder or a file of descriptions.")
    if store_folder(source) is not None:
        raise DescriptionError(f"{source} is a work directory: export its descriptions first, and import the result.")
    inside = (path for path in sorted(source.rglob("*.parquet")) if not is_in_hidden_folder(path.relative_to(source)))
    found = list(inside) or [path for path in [source / "metadata.jsonl"] if path.is_file()]
    if not found:
        raise DescriptionError(
            f"{source} holds neither Parquet files nor metadata.jsonl. Name a folder written by gpt4image describe "
            "export, or a file: .parquet, .jsonl, .csv or .tsv."
        )
    return found


def store_folder(folder: Path) -> Path | None:
    """Return the description store of a work directory, or the folder itself if it is one, else None."""
    return next((path for path in (folder / "descriptions", folder) if (path / "parts").is_dir()), None)


def is_in_hidden_folder(path: Path) -> bool:
    """Return whether a path leads through a hidden folder, such as a cache."""
    return any(part.startswith(".") for part in path.parts)


def has_provenance(file: Path) -> bool:
    """Return whether a file has provenance. CSV and TSV files, which have no types, count as plain tables."""
    if is_caption_file(file):
        return False
    table = Table(file, DescriptionError)
    return not table.is_csv and {"key", "prompt_hash"} <= set(table.columns())


def read_shared_rows(file: Path) -> Iterator[tuple[str, SharedRow]]:
    """Yield (place for messages, validated row). DescriptionError names the invalid row."""
    table = Table(file, DescriptionError)
    for number, row in table.rows(KNOWN - {"image"}):
        where = table.where(number)
        yield where, checked_row(row, where)


def checked_row(row: dict[str, Any], where: str) -> SharedRow:
    """Validate a row. DescriptionError says what is wrong with it."""
    values = {name: value for name, value in row.items() if value is not None}
    values.setdefault("path", values.get(FILE_NAME))
    try:
        found = SharedRow.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"][:1]))
        given = "" if first["type"] == "missing" else f" It is {shorten(printable(repr(first['input'])), SHOWN)}."
        reason = first["msg"].removeprefix("Value error, ")
        raise DescriptionError(f"{where}: {name}: {reason}.{given} Fix the row, or remove it.") from None
    if found.image_id is None and found.path is None:
        raise DescriptionError(f"{where}: has neither image_id nor path, so its image is unknown.")
    return found
