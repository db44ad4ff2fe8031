"""What is known of one description: the text, who wrote it, what was asked, what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import pyarrow as pa

Verdict = Literal["drop", "retry", "keep"]


@dataclass(frozen=True, slots=True)
class DescriptionRecord:
    """One request's outcome. A record with an `error` is a failure and has no text that counts.

    Attributes:
        key: what was asked, 32 hex digits: image, model, prompt with its values, sampling. Empty for a payment: money
            that was spent without an outcome, which counts as spent and as nothing else.
        image_id: 128-bit hash of the image's bytes, 32 hex digits.
        text: the description; the answers of a conversation joined.
        error: kind of failure in a few words, None when it went well.
        detail: what exactly was said of the failure.
        describer: name in the table of describers.
        model: the model as it was asked for.
        served_model: the model as the server named it.
        prompt: name of the prompt strategy.
        prompt_hash: hash of the strategy's texts, 32 hex digits.
        sample: number of the sample, from 0.
        settings: sampling and image size, as JSON.
        tokens_in: tokens read.
        tokens_out: tokens written.
        cost: money in US dollars, at its worst for calls that nobody counted; None where no price is known.
        finish_reason: why the answer ended.
        seconds: time from the first call to the answer.
        created: when, ISO 8601 in UTC.
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

    @property
    def answered(self) -> bool:
        """Whether there is a text."""
        return self.error is None

    @property
    def is_payment(self) -> bool:
        """Whether it says of nothing but money."""
        return not self.key


def payment_of(
    asked: DescriptionRecord,
    reason: str,
    tokens_in: int | None,
    tokens_out: int | None,
    cost: float | None,
    created: str,
) -> DescriptionRecord:
    """A record of money that was spent on a task without an outcome.

    Args:
        asked: the task.
        reason: what the money was spent on.
        tokens_in: tokens read.
        tokens_out: tokens written.
        cost: US dollars.
        created: when.
    """
    paid = replace(asked, key="", error=reason, detail=f"for {asked.key}", created=created)
    return replace(paid, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision about a description, made after it was written; the latest one counts.

    Attributes:
        key: the description.
        verdict: `drop` leaves it out of training, `retry` has it written again, `keep` takes either back.
        reason: the finding behind it.
        created: when, ISO 8601 in UTC.
    """

    key: str
    verdict: Verdict
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
    }
)


"""Columns of the Parquet parts: the fields of `DescriptionRecord`."""


class Row(Protocol):
    """A dataclass with slots, of plain values."""

    __slots__: tuple[str, ...]


RECORD_FIELDS = tuple(field.name for field in fields(DescriptionRecord))


def plain_values(row: Row) -> dict[str, Any]:
    """Fields as plain values."""
    return {name: getattr(row, name) for name in row.__slots__}


def record_line(row: Row) -> bytes:
    """One line of JSON; characters that no encoding has are replaced."""
    return json.dumps(plain_values(row), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def record_from(values: Mapping[str, Any]) -> DescriptionRecord:
    """A record of plain values; fields that are not there keep their defaults. TypeError on unknown ones."""
    return DescriptionRecord(**values)
