"""The page of `gpt4image describe check`: what was found in the descriptions, and whether to go on with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.format import ELLIPSIS
from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.descriptions.figures import gap_figure, probe_figure
from gpt4image.report.html.page import render_page, write_page

if TYPE_CHECKING:
    from gpt4image.images.thumbnails import Thumbnails
    from gpt4image.quality.check_record import ClassKnowledge, ClassLeakage, Finding, FindingItem, QualityReport


EXCERPT = 280


"""Characters of a text that a card shows."""


LEAD = 80


"""Characters of those that stand before the match."""


LONGEST = 400


"""Characters that are looked for, at most."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a text around a match.

    Attributes:
        before: what precedes the match.
        match: the match, empty where there is none.
        after: what follows it.
        whole: whether nothing was left out.
    """

    before: str
    match: str
    after: str
    whole: bool


def make_excerpt(text: str, words: str = "", *, size: int = EXCERPT, end: bool = False) -> Excerpt:
    """The part of a text to show.

    Args:
        text: the text.
        words: words that stand in it, whatever their capitals and what is between them; none for none to be shown.
        size: characters to show, at most.
        end: show the end where the words are not in the text.

    >>> make_excerpt("It is a Cat!", "a cat")
    Excerpt(before='It is ', match='a Cat', after='!', whole=True)
    """
    start, stop = find_span(text, words[:LONGEST]) or ((len(text), len(text)) if end else (0, 0))
    first = word_start(text, max(0, min(start - LEAD, len(text) - size)))
    last = min(first + size, len(text))
    stop = min(stop, last)
    before = (ELLIPSIS if first else "") + text[first:start]
    after = text[stop:last] + (ELLIPSIS if last < len(text) else "")
    return Excerpt(before, text[start:stop], after, whole=last - first == len(text))


def word_start(text: str, position: int) -> int:
    """The next position where a word starts, where one is near."""
    space = text.find(" ", position, position + LEAD // 4) if position else -1
    return position if space < 0 else space + 1


def find_span(text: str, words: str) -> tuple[int, int] | None:
    """Where words stand in a text, as often as they come in a row; None where they do not."""
    matches = (pattern.search(text) for pattern in patterns(words))
    return next((match.span() for match in matches if match), None)


def patterns(words: str) -> Iterator[re.Pattern[str]]:
    """Find words in a text: first as whole words, then as parts of words."""
    between = r"[\W_]*"
    phrase = between.join(map(re.escape, re.findall(r"[^\W_]+", words)))
    if len(phrase) == 1:  # a key that sticks
        yield re.compile(f"{phrase}{{3,}}", re.IGNORECASE)
    if phrase:
        yield re.compile(rf"(?<!\w){phrase}(?:{between}{phrase})*(?!\w)", re.IGNORECASE)
        yield re.compile(phrase, re.IGNORECASE)


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
        "check.html.j2",
        version=report.version,
        report=report,
        knowledge=knowledge,
        figures=None if knowledge is None else (probe_figure(knowledge), gap_figure(knowledge)),
        class_knowledge=[] if knowledge is None else sort_knowledge(knowledge.per_class),
        sections=[make_section(finding, look_up) for finding in report.findings],
        to_mend=[finding for finding in report.findings if finding.severity == "fix"],
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
