"""The page of `gpt4image describe check`: what was found in the descriptions, and whether to go on with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.describe.pages.excerpt import Excerpt, make_excerpt
from gpt4image.describe.pages.figures import gap_figure, probe_figure
from gpt4image.pages.page import render_page, write_page
from gpt4image.pages.thumbnails import require_thumbnail

if TYPE_CHECKING:
    from gpt4image.describe.pages.thumbnails import Thumbnails
    from gpt4image.describe.quality.records import (
        ClassKnowledge,
        ClassLeakage,
        Finding,
        FindingItem,
        QualityReport,
    )

CARDS, IDS, ROWS = 24, 1000, 15
"""Cards and ids a finding, and classes that are shown at once, at most."""
FOUND_WORDS = frozenset({"refusal", "loop", "prompt-echo", "opening", "leakage"})
"""Kinds of findings whose detail is words of the text, with how often in brackets."""
HOW_OFTEN = re.compile(r" \([^()]*\)$")


@dataclass(frozen=True, slots=True)
class Card:
    """One text of a finding with its image.

    Attributes:
        item: the text.
        thumbnail: its image, None where it cannot be read any more.
        excerpt: the part of the text that the finding is about.
        full: all of it.
        detail: what was found, empty where the excerpt shows it.
    """

    item: FindingItem
    thumbnail: str | None
    excerpt: Excerpt
    full: Excerpt
    detail: str


@dataclass(frozen=True, slots=True)
class Section:
    """A finding with the cards that are shown of it.

    Attributes:
        finding: the finding.
        cards: some of its texts.
        ids: images of the rest, as many as are listed.
        rest: number of images of the rest.
    """

    finding: Finding
    cards: list[Card]
    ids: list[str]
    rest: int


def write_check_page(path: Path, report: QualityReport, thumbnails: Thumbnails) -> Path:
    """Write what was found in the descriptions as a self-contained page.

    Args:
        path: where to write it.
        report: what was found.
        thumbnails: from an image id to a small JPEG or PNG as a `data:` address; None where the image cannot be read
            any more. Asked only for images that are shown.

    Returns:
        `path`.

    Raises:
        ValueError: a thumbnail is anything but a picture inside the page.
    """
    knowledge = report.knowledge
    look_up = cache(lambda image_id: _checked(thumbnails(image_id)))
    page = render_page(
        "gpt4image.describe.pages",
        "check.html.j2",
        version=report.version,
        report=report,
        knowledge=knowledge,
        figures=None if knowledge is None else (probe_figure(knowledge), gap_figure(knowledge)),
        class_knowledge=[] if knowledge is None else sort_knowledge(knowledge.per_class),
        sections=[make_section(finding, look_up) for finding in report.findings],
        to_mend=[finding for finding in report.findings if finding.severity == "mend"],
        leakage=sort_leakage(report.leakage),
        leaks=sum_up(report.leakage),
        told=any(record.told_texts for record in report.leakage),
        rows_at_once=ROWS,
    )
    return write_page(path, page)


def _checked(thumbnail: str | None) -> str | None:
    return None if thumbnail is None else require_thumbnail(thumbnail)


def make_section(finding: Finding, thumbnails: Thumbnails) -> Section:
    """A finding with its first texts; the images of the rest by id."""
    cards = [make_card(finding, item, thumbnails) for item in finding.items[:CARDS]]
    shown = {card.item.image_id for card in cards}
    rest = [image_id for image_id in finding.image_ids if image_id not in shown]
    return Section(finding, cards, rest[:IDS], len(rest))


def make_card(finding: Finding, item: FindingItem, thumbnails: Thumbnails) -> Card:
    """One text of a finding, with the words that were found in it where there are any."""
    words = HOW_OFTEN.sub("", item.detail) if finding.kind in FOUND_WORDS else ""
    excerpt = make_excerpt(item.text, words, end=finding.kind == "cut-off")
    return Card(
        item=item,
        thumbnail=thumbnails(item.image_id),
        excerpt=excerpt,
        full=make_excerpt(item.text, words, size=len(item.text)),
        detail="" if excerpt.match and words == item.detail else item.detail,
    )


def sort_knowledge(records: Sequence[ClassKnowledge]) -> list[ClassKnowledge]:
    """Classes of which the texts know most beyond the image features first."""
    return sorted(records, key=lambda record: record.image - record.text)


def sort_leakage(records: Sequence[ClassLeakage]) -> list[ClassLeakage]:
    """Classes whose name stands in most of their texts first; those without a share last."""
    return sorted(records, key=lambda record: (record.share is None, -(record.share or 0)))


def sum_up(records: Sequence[ClassLeakage]) -> tuple[int, int]:
    """Texts that carry their class's name, and texts that could, of prompts that did not say it."""
    sayable = [record for record in records if record.sayable]
    return sum(record.with_word for record in sayable), sum(record.texts for record in sayable)
