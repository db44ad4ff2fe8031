"""Rows of the description store: descriptions with their provenance, and marks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import pyarrow as pa

MarkKind = Literal["drop", "retry", "keep", "trial"]


@dataclass(frozen=True, slots=True)
class DescriptionRecord:
    """Outcome of one task. A record with an `error` is a failure; its text does not count.

    Attributes:
        key: hash of the task, 32 hex digits: image, model, filled-in prompt, sampling. Empty for a payment, that is,
            money spent on a task without an outcome yet.
        image_id: 128-bit hash of the image's bytes, 32 hex digits.
        text: the description; for a conversation, the joined answers.
        error: kind of failure in a few words, None on success.
        detail: the error message in full.
        describer: name in the registry of describers.
        model: the model as requested.
        served_model: the model as the server named it.
        prompt: name of the prompt.
        prompt_hash: hash of the prompt's texts, 32 hex digits.
        sample: number of the sample, from 0.
        settings: sampling settings and image size, as JSON.
        tokens_in: prompt tokens, image included.
        tokens_out: completion tokens.
        cost: US dollars; the worst case if the server did not report usage, None if the price is unknown.
        finish_reason: why the model stopped, as the server reported it.
        seconds: time from the first request to the answer.
        created: ISO 8601 in UTC.
        pick: for an answer that picks a class, the class as JSON (`gpt4image.descriptions.prompts.choices.Pick`); None
            for a description.
    """

    key: str
    image_id: str
    text: str = ""
    error: str | None = None
    detail: str = ""
    describer: str = ""
    model: str = ""
    served_model: str = ""
    prompt: str = ""
    prompt_hash: str = ""
    sample: int = 0
    settings: str = "{}"
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    finish_reason: str | None = None
    seconds: float = 0.0
    created: str = ""
    pick: str | None = None

    @property
    def answered(self) -> bool:
        """Whether the task succeeded."""
        return self.error is None

    @property
    def is_payment(self) -> bool:
        """Whether the record is a payment."""
        return not self.key


def payment_of(
    task: DescriptionRecord,
    reason: str,
    tokens_in: int | None,
    tokens_out: int | None,
    cost: float | None,
    created: str,
) -> DescriptionRecord:
    """Return a record of money spent on a task without an outcome yet; `reason` says why."""
    payment = replace(task, key="", error=reason, detail=f"for {task.key}", created=created)
    return replace(payment, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision about a description, made after it was written. The latest mark of a key counts.

    Attributes:
        key: the description.
        verdict: `drop` excludes it from training, `retry` requests a new one, `keep` reverts either. `trial`, set
            before it is written, excludes it until its prompt is run in full.
        reason: the finding behind the decision.
        created: ISO 8601 in UTC.
    """

    key: str
    verdict: MarkKind
    reason: str
    created: str


SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "image_id": pa.string(),
        "text": pa.string(),
        "error": pa.string(),
        "detail": pa.string(),
        "describer": pa.string(),
        "model": pa.string(),
        "served_model": pa.string(),
        "prompt": pa.string(),
        "prompt_hash": pa.string(),
        "sample": pa.int32(),
        "settings": pa.string(),
        "tokens_in": pa.int64(),
        "tokens_out": pa.int64(),
        "cost": pa.float64(),
        "finish_reason": pa.string(),
        "seconds": pa.float64(),
        "created": pa.string(),
        "pick": pa.string(),
    }
)
"""Columns of the Parquet shards: the fields of `DescriptionRecord`."""

RECORD_FIELDS = tuple(field.name for field in fields(DescriptionRecord))


class StoredRow(Protocol):
    """A dataclass with slots and JSON values."""

    __slots__: tuple[str, ...]


def plain_values(row: StoredRow) -> dict[str, Any]:
    """Return the fields of a row by name."""
    return {name: getattr(row, name) for name in row.__slots__}


def record_line(row: StoredRow) -> bytes:
    """Encode a row as a line of JSON; unpaired surrogates become question marks."""
    return json.dumps(plain_values(row), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def record_from(values: Mapping[str, Any]) -> DescriptionRecord:
    """Build a record from plain values; missing fields keep their defaults. TypeError for unknown ones."""
    return DescriptionRecord(**values)
