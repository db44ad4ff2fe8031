"""Turn flags on single texts into findings with examples, and findings into marks in the description store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from gpt4image.core.errors import ConfigError
from gpt4image.core.format import counted
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.records import MarkKind
from gpt4image.llm.base import fails_again
from gpt4image.quality.check_record import Finding, FindingItem, FindingKind, QualityReport
from gpt4image.quality.checks.catalog import CHECKS, MISSING
from gpt4image.quality.checks.context import Check, Flag
from gpt4image.quality.texts import CheckedText, CollectedTexts

MAX_ITEMS = 100  # examples per finding; its keys and image ids are listed in full
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)


def make_findings(
    flags: Mapping[FindingKind, Sequence[Flag]], collected: CollectedTexts, classes: Sequence[str]
) -> list[Finding]:
    """Make one finding for each check that flags any text, in the order of `FindingKind`.

    Args:
        flags: flags of each check.
        collected: the texts, and the images without one.
        classes: class names.
    """
    findings = []
    if collected.missing:
        images = [text for text, _ in collected.missing]
        missing = [Flag(at, reason) for at, (_, reason) in enumerate(collected.missing)]
        check = replace(MISSING, advice=advise_missing([reason for _, reason in collected.missing]))
        findings = [_make_finding(check, missing, images, classes, len(collected.wanted))]
    texts = collected.texts
    return findings + [
        _make_finding(check, flags[check.kind], texts, classes, len(texts)) for check in CHECKS if check.kind in flags
    ]


def advise_missing(reasons: Sequence[str]) -> str:
    """Return advice on images without a text; requests that would fail again need a change first, not a retry."""
    lasting = sum(map(fails_again, reasons))
    again = "would fail again as they are: change the settings, the images or the server first."
    if lasting == len(reasons):
        return f"Their requests {again}"
    return f"{MISSING.advice} {counted(lasting, 'request')} {again}" if lasting else MISSING.advice


def _make_finding(
    check: Check, flags: Sequence[Flag], texts: Sequence[CheckedText], classes: Sequence[str], total: int
) -> Finding:
    image_ids = sorted({texts[flag.at].image_id for flag in flags})
    # One image may lack several answers, each with its own reason; `missing` still counts it once.
    count = len(image_ids) if check.kind == MISSING.kind else len(flags)
    clearest = sorted(flags, key=lambda flag: (-flag.weight, flag.at))[:MAX_ITEMS]
    return Finding(
        kind=check.kind,
        severity=check.severity,
        title=check.title,
        explanation=check.explanation,
        advice=check.advice,
        count=count,
        share=count / total,
        items=[_make_item(texts[flag.at], flag.detail, classes) for flag in clearest],
        keys=[key for flag in flags if (key := texts[flag.at].key) is not None],
        image_ids=image_ids,
    )


def _make_item(text: CheckedText, detail: str, classes: Sequence[str]) -> FindingItem:
    return FindingItem(
        key=text.key,
        image_id=text.image_id,
        path=_encodable(text.path),
        label=_encodable(classes[text.label]) if text.label >= 0 else None,
        text=_encodable(text.text),
        prompt=text.prompt,
        model=text.model,
        detail=_encodable(detail),
    )


def _encodable(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()


def validate_marks(drop: Sequence[str], retry: Sequence[str]) -> None:
    """Raise ConfigError for unknown kinds of findings, for one in both lists, and for `missing` to be dropped."""
    for kind in (*drop, *retry):
        if kind not in KINDS:
            raise ConfigError(unknown_name("finding", kind, list(KINDS)))
    if both := sorted(set(drop) & set(retry)):
        raise ConfigError(f"Finding {both[0]!r} is in both drop and retry: choose one.")
    if "missing" in drop:
        raise ConfigError("Images without a text have nothing to drop: leave missing out of drop.")


def mark_findings(
    store: DescriptionStore, report: QualityReport, drop: Sequence[str] = (), retry: Sequence[str] = ()
) -> dict[str, int]:
    """Mark the texts of findings as dropped or to be written again; for texts of both, retry takes precedence.

    Args:
        store: the texts.
        report: the findings.
        drop: kinds of findings whose texts are excluded.
        retry: kinds of findings whose texts are written again when their images are next described.

    Returns:
        Number of texts marked, by kind.

    Raises:
        ConfigError: unknown kinds, or texts that are not in the description store.
    """
    validate_marks(drop, retry)
    keys: dict[str, list[str]] = {finding.kind: finding.keys for finding in report.findings}
    wanted: list[tuple[str, MarkKind]] = [*((kind, "drop") for kind in drop), *((kind, "retry") for kind in retry)]
    return {kind: store.mark(keys[kind], verdict, kind) if kind in keys else 0 for kind, verdict in wanted}
