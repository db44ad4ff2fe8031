"""A page with some descriptions, to read before the whole set is paid for."""

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
    """One description, or the failure in its place, with what was asked about which image.

    Attributes:
        record: the description.
        path: the image as the source names it; untrusted.
        label: its class, None where it has none.
        thumbnail: a small JPEG or PNG as a `data:` address, None where the image cannot be read any more.
        system: system message as it was sent, if any.
        turns: questions as they were sent.
    """

    record: DescriptionRecord
    path: str
    label: str | None = None
    thumbnail: str | None = None
    system: str | None = None
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreviewHead:
    """What stands above the descriptions.

    Attributes:
        source: the image set, as the user named it.
        model: the model that was asked.
        version: version of gpt4image.
        created: when, ISO 8601 in UTC.
        spent: US dollars that all calls to the model have cost so far, None where no price is known.
        estimate: what the whole set will take, lines such as `money: $1.20 online`; empty where it was not measured.
    """

    source: str
    model: str
    version: str
    created: str
    spent: float | None = None
    estimate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """All that was written about one image."""

    path: str
    label: str | None
    thumbnail: str | None
    items: list[PreviewItem]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the descriptions of the page; None where a server did not count."""

    answered: int
    failed: int
    tokens_in: int | None
    tokens_out: int | None
    seconds: float | None


def write_preview(path: Path, items: Sequence[PreviewItem], head: PreviewHead) -> Path:
    """Write a self-contained page with some descriptions, those of one image together.

    Args:
        path: where to write it.
        items: the descriptions; images are shown in the order in which they first occur.
        head: what stands above them.

    Returns:
        `path`.

    Raises:
        ValueError: a thumbnail is anything but a picture inside the page.
    """
    groups = group_by_image(items)
    page = render_page(
        "preview.html.j2",
        version=head.version,
        head=head,
        groups=groups,
        totals=sum_up([item.record for item in items]),
        several=any(item.record.sample for item in items),
        estimate=[line.partition(": ")[::2] for line in head.estimate],
    )
    return write_page(path, page)


def group_by_image(items: Sequence[PreviewItem]) -> list[Group]:
    """Descriptions of one image together, images in the order in which they first occur."""
    groups: dict[str, Group] = {}
    for item in items:
        picture = None if item.thumbnail is None else require_thumbnail(item.thumbnail)
        group = groups.setdefault(item.record.image_id, Group(item.path, item.label, picture, []))
        group.items.append(item)
    return list(groups.values())


def sum_up(records: Sequence[DescriptionRecord]) -> Totals:
    """Sums over all records, failures included; the time is the mean of the answered ones."""
    answered = [record for record in records if record.answered]
    return Totals(
        answered=len(answered),
        failed=len(records) - len(answered),
        tokens_in=total([record.tokens_in for record in answered]),
        tokens_out=total([record.tokens_out for record in answered]),
        seconds=fmean(record.seconds for record in answered) if answered else None,
    )


def total(counts: Sequence[int | None]) -> int | None:
    """Sum of counts; None where there are none or one is unknown.

    >>> total([1, 2]), total([1, None]), total([])
    (3, None, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
