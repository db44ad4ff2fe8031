"""The findings of a label audit, kept as `audit.json`; the page reads nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gpt4image.core.record import Record, ShareEstimate

AuditKind = Literal["label", "duplicate", "no class"]


class AuditItem(Record):
    """One image to review.

    Attributes:
        image_id: the image, 32 hex digits.
        path: its path in the source; untrusted.
        split: its split.
        kind: why it is listed: its `label` is likely wrong; it is a `duplicate` with another label; its text fits
            `no class`.
        given: its label; None for a duplicate, which has several.
        labels: all labels it was given.
        suggested: the likeliest class.
        confidence: posterior probability of `suggested`.
        given_probability: the same of the given label.
        description: its description; None without one; untrusted.
        places: paths by label for an image that the source holds several times, empty for others; untrusted.
        thumbnail: a small JPEG as a `data:` URL, None if the image cannot be read.
    """

    image_id: str
    path: str
    split: str
    kind: AuditKind
    given: str | None
    labels: list[str]
    suggested: str | None
    confidence: float | None
    given_probability: float | None
    description: str | None
    thumbnail: str | None
    places: dict[str, list[str]] = Field(default_factory=dict)


class AuditRecord(Record):
    """The result of an audit.

    Attributes:
        version: version of gpt4image.
        created: time, ISO 8601 in UTC.
        source: the image set, as the user named it.
        classes: names of the classes.
        examined: number of labelled images with a description.
        undescribed: number of labelled images without a description, which the audit does not cover.
        wrong: estimated share of wrong labels among them; None if it cannot be estimated.
        found: number of images of each kind, before the list is cut.
        items: the images, the least credible label first.
    """

    version: str
    created: str
    source: str
    classes: list[str]
    examined: int
    undescribed: int = 0
    wrong: ShareEstimate | None
    found: dict[AuditKind, int]
    items: list[AuditItem]
