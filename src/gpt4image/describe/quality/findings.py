"""Flags on single texts to findings with their texts, and findings to marks in the description store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from gpt4image.describe.quality.checks import Flag
from gpt4image.describe.quality.records import Finding, FindingItem, FindingKind, QualityReport
from gpt4image.describe.quality.sources import Collected
from gpt4image.describe.quality.texts import CheckedText
from gpt4image.describe.quality.wording import WORDING
from gpt4image.describe.store import DescriptionStore
from gpt4image.describe.store.records import Verdict
from gpt4image.errors import ConfigError
from gpt4image.seams import unknown_name

SHOWN = 100
"""Items a finding, at most; its keys and image ids are complete."""
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)


def make_findings(flags: Iterable[Flag], collected: Collected, classes: Sequence[str]) -> list[Finding]:
    """One finding for each kind that there is, in the order of `FindingKind`.

    Args:
        flags: what was found in which text.
        collected: the texts, and the images that have none.
        classes: class names.
    """
    by_kind: defaultdict[FindingKind, list[Flag]] = defaultdict(list)
    for flag in flags:
        by_kind[flag.kind].append(flag)
    texts = collected.texts
    found = [] if not collected.missing else [make_missing(collected, classes)]
    return found + [make_finding(kind, by_kind[kind], texts, classes) for kind in KINDS if by_kind[kind]]


def make_missing(collected: Collected, classes: Sequence[str]) -> Finding:
    """The images that have no text."""
    flags = [Flag("missing", at, reason) for at, (_, reason) in enumerate(collected.missing)]
    return make_finding("missing", flags, [text for text, _ in collected.missing], classes, len(collected.wanted))


def make_finding(
    kind: FindingKind,
    flags: Sequence[Flag],
    texts: Sequence[CheckedText],
    classes: Sequence[str],
    among: int | None = None,
) -> Finding:
    """The finding of some flags of one kind.

    Args:
        kind: the kind.
        flags: at most one for each text.
        texts: the texts.
        classes: class names.
        among: what the count is a share of; the number of texts when not given.

    Returns:
        The finding; one of `missing` counts images, any other texts.
    """
    words = WORDING[kind]
    image_ids = sorted({texts[flag.at].image_id for flag in flags})
    count = len(image_ids) if kind == "missing" else len(flags)
    clearest = sorted(flags, key=lambda flag: (-flag.weight, flag.at))[:SHOWN]
    return Finding(
        kind=kind,
        severity=words.severity,
        title=words.title,
        explanation=words.explanation,
        advice=words.advice,
        count=count,
        share=count / (among or len(texts)),
        items=[make_item(texts[flag.at], flag.detail, classes) for flag in clearest],
        keys=[key for flag in flags if (key := texts[flag.at].key) is not None],
        image_ids=image_ids,
    )


def make_item(text: CheckedText, detail: str, classes: Sequence[str]) -> FindingItem:
    """A text as a finding shows it."""
    return FindingItem(
        key=text.key,
        image_id=text.image_id,
        path=encodable(text.path),
        label=encodable(classes[text.label]) if text.label >= 0 else None,
        text=encodable(text.text),
        prompt=text.prompt,
        model=text.model,
        detail=encodable(detail),
    )


def encodable(text: str) -> str:
    """The text with what no file can hold replaced."""
    return text.encode("utf-8", "replace").decode()


def check_kinds(drop: Sequence[str], retry: Sequence[str]) -> None:
    """ConfigError for kinds of findings that do not exist, that stand in both, or that cannot be dropped."""
    for kind in (*drop, *retry):
        if kind not in KINDS:
            raise ConfigError(unknown_name("finding", kind, list(KINDS)))
    if both := sorted(set(drop) & set(retry)):
        raise ConfigError(f"Finding {both[0]!r} is to be dropped and tried again: choose one.")
    if "missing" in drop:
        raise ConfigError("Images without a text have nothing that could be dropped: leave out --drop missing.")


def mark_findings(
    store: DescriptionStore, report: QualityReport, drop: Sequence[str] = (), retry: Sequence[str] = ()
) -> Mapping[str, int]:
    """Leave out the texts of some findings, or have them written again; a text of both kinds is written again.

    Args:
        store: where the texts lie.
        report: what was found.
        drop: kinds of findings whose texts are left out.
        retry: kinds of findings whose texts are written again when their images are next described.

    Returns:
        Number of texts marked, by kind.

    Raises:
        ConfigError: unknown kinds, or texts that are not in the description store.
    """
    check_kinds(drop, retry)
    findings: dict[str, Finding] = {finding.kind: finding for finding in report.findings}
    wanted: list[tuple[str, Verdict]] = [*((kind, "drop") for kind in drop), *((kind, "retry") for kind in retry)]
    return {kind: store.mark(findings[kind].keys, verdict, kind) if kind in findings else 0 for kind, verdict in wanted}
