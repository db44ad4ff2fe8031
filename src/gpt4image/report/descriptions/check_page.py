"""Present a check of descriptions: the page, and the summary for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.format import counted, percent
from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.descriptions.excerpt import Excerpt, make_excerpt
from gpt4image.report.descriptions.figures import gap_figure, probe_figure
from gpt4image.report.html.page import render_page, write_page

if TYPE_CHECKING:
    from gpt4image.images.thumbnails import Thumbnails
    from gpt4image.quality.check_record import ClassLeakage, Finding, FindingItem, QualityReport, ShownAdvice

MAX_CARDS, MAX_IDS, MAX_ROWS = 24, 1000, 15  # cards and ids of a finding, and rows of classes shown at first

# Kinds of findings whose detail consists of words of the text, some with a count in brackets
DETAIL_IS_WORDS = frozenset({"refusal", "loop", "prompt-echo", "opening", "leakage"})
COUNT = re.compile(r" \([^()]*\)$")

SEVERITIES = "  fix: drop or retry these texts; review: look at them on the page and decide; info: no action needed"


@dataclass(frozen=True, slots=True)
class Card:
    """One text of a finding with its image.

    Attributes:
        item: the text.
        thumbnail: its image; None if it can no longer be read.
        excerpt: the part of the text that the finding is about.
        full: the whole text.
        detail: what was found; empty if the excerpt highlights it.
    """

    item: FindingItem
    thumbnail: str | None
    excerpt: Excerpt
    full: Excerpt
    detail: str


@dataclass(frozen=True, slots=True)
class Section:
    """A finding, the cards of its first texts, and the ids and number of all other images."""

    finding: Finding
    cards: list[Card]
    ids: list[str]
    rest: int


def write_check_page(
    path: Path, report: QualityReport, thumbnails: Thumbnails, advice: ShownAdvice | None = None
) -> Path:
    """Write the findings of a check as a self-contained page.

    Args:
        path: the page.
        report: the findings.
        thumbnails: returns a small JPEG or PNG as a `data:` URL for an image id, or None if the image cannot be read;
            called only for images on the page.
        advice: what to train, if there is any.

    Returns:
        `path`.

    Raises:
        ValueError: a thumbnail is not an image contained in the page.
    """
    knowledge = report.knowledge

    @cache
    def thumbnail(image_id: str) -> str | None:
        return require_thumbnail(thumbnails(image_id))

    html = render_page(
        "check.html.j2",
        version=report.version,
        report=report,
        advice=advice,
        knowledge=knowledge,
        figures=knowledge and (probe_figure(knowledge), gap_figure(knowledge)),
        class_knowledge=sorted(knowledge.per_class, key=lambda each: each.image - each.text) if knowledge else [],
        sections=[_make_section(finding, thumbnail) for finding in report.findings],
        to_fix=[finding for finding in report.findings if finding.severity == "fix"],
        leakage=sorted(report.leakage, key=lambda record: (record.share is None, -(record.share or 0))),
        leaks=_sum_leaks(report.leakage),
        prompted=any(record.told_texts for record in report.leakage),
        rows_at_once=MAX_ROWS,
    )
    return write_page(path, html)


def _make_section(finding: Finding, thumbnails: Thumbnails) -> Section:
    cards = [_make_card(finding, item, thumbnails) for item in finding.items[:MAX_CARDS]]
    shown = {card.item.image_id for card in cards}
    rest = [image_id for image_id in finding.image_ids if image_id not in shown]
    return Section(finding, cards, rest[:MAX_IDS], len(rest))


def _make_card(finding: Finding, item: FindingItem, thumbnails: Thumbnails) -> Card:
    words = COUNT.sub("", item.detail) if finding.kind in DETAIL_IS_WORDS else ""
    excerpt = make_excerpt(item.text, words, end=finding.kind == "cut-off")
    return Card(
        item=item,
        thumbnail=thumbnails(item.image_id),
        excerpt=excerpt,
        full=make_excerpt(item.text, words, size=len(item.text)),
        detail="" if excerpt.match and words == item.detail else item.detail,
    )


def _sum_leaks(records: Sequence[ClassLeakage]) -> tuple[int, int]:
    """Count texts that contain their class's name, and those that could, among prompts that did not name it."""
    sayable = [record for record in records if record.sayable]
    return sum(record.with_word for record in sayable), sum(record.texts for record in sayable)


def report_lines(report: QualityReport) -> list[str]:
    """Return lines that summarise a check for the terminal."""
    head = (
        f"{report.described:,} of {counted(report.images, 'distinct image')} described, "
        f"{counted(report.texts, 'text')}, {report.distinct_texts:,} of them distinct"
    )
    failed = [
        f"failed: {number:,} {reason}{report.failed_with.get(reason, '')}" for reason, number in report.failed.items()
    ]
    findings = ["No problems found in the texts."]
    if report.findings:
        rows = [
            f"  {each.kind:13} {each.count:8,} {each.share:7.1%}  {each.severity:8}  {each.title}"
            for each in report.findings
        ]
        findings = [f"  {'finding':13} {'texts':>8} {'share':>7}  severity", *rows, SEVERITIES]
    return [head, *failed, *findings, *_knowledge_lines(report), *report.notes]


def _knowledge_lines(report: QualityReport) -> list[str]:
    known = report.knowledge
    if known is None:
        return [f"Texts and image features were not compared: {report.no_knowledge}"]
    accuracies = (
        f"  texts alone {percent(known.text.accuracy)}, {known.backbone} {percent(known.image.accuracy)}, both "
        f"{percent(known.both.accuracy)}; {counted(known.images, 'image')}, out of fold"
    )
    return [known.title, accuracies, known.advice]
