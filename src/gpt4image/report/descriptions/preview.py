"""A page with a few descriptions, to read before paying for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.html.page import render_page, write_page

if TYPE_CHECKING:
    from gpt4image.descriptions.store.records import DescriptionRecord


@dataclass(frozen=True, slots=True)
class PreviewItem:
    """One description, or the failure in its place, with its image and prompt.

    Attributes:
        record: the description.
        path: path of the image within its source; untrusted.
        label: class of the image; None without one.
        thumbnail: a small JPEG or PNG as a `data:` URL; None if the image cannot be read.
        system: system message as it was sent, if any.
        turns: questions as they were sent.
    """

    record: DescriptionRecord
    path: str
    label: str | None = None
    thumbnail: str | None = None
    system: str | None = None
    turns: tuple[str, ...] = ()

    def fields(self) -> dict[str, str | None]:
        """Return path, class, prompt, text and failure as values for JSON."""
        record = self.record
        return {
            "path": self.path,
            "label": self.label,
            "prompt": record.prompt,
            "text": record.text,
            "error": record.error,
        }


@dataclass(frozen=True, slots=True)
class PreviewHead:
    """The facts at the top of the page.

    Attributes:
        source: the image set, as the user named it.
        model: the requested model.
        version: version of gpt4image.
        created: time, ISO 8601 in UTC.
        spent: cost of all requests to the model so far, in US dollars; None without a known price.
        estimate: lines on what the whole set will take, such as `money: $1.20 online`; empty if not estimated.
    """

    source: str
    model: str
    version: str
    created: str
    spent: float | None = None
    estimate: tuple[str, ...] = ()


def write_preview(path: Path, items: Sequence[PreviewItem], head: PreviewHead) -> Path:
    """Write a self-contained page with descriptions, grouped by image.

    Args:
        path: the page.
        items: the descriptions; images are shown in the order in which they first occur.
        head: the facts at the top.

    Returns:
        `path`.

    Raises:
        ValueError: a thumbnail is not an image contained in the page.
    """
    groups: dict[str, list[PreviewItem]] = {}
    for item in items:
        require_thumbnail(item.thumbnail)
        groups.setdefault(item.record.image_id, []).append(item)
    page = render_page(
        "preview.html.j2",
        version=head.version,
        head=head,
        groups=list(groups.values()),
        totals=_sum_up([item.record for item in items]),
        several=any(item.record.sample for item in items),
        estimate=[line.partition(": ")[::2] for line in head.estimate],
    )
    return write_page(path, page)


def _sum_up(records: Sequence[DescriptionRecord]) -> dict[str, int | float | None]:
    """Return counts, sums of tokens and mean seconds; None for values that a server did not report."""
    answered = [record for record in records if record.answered]
    return {
        "answered": len(answered),
        "failed": len(records) - len(answered),
        "tokens_in": sum_known([record.tokens_in for record in answered]),
        "tokens_out": sum_known([record.tokens_out for record in answered]),
        "seconds": fmean(record.seconds for record in answered) if answered else None,
    }


def sum_known(counts: Sequence[int | None]) -> int | None:
    """Return the sum of counts; None if there are none or one is unknown.

    >>> sum_known([1, 2]), sum_known([1, None]), sum_known([])
    (3, None, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
