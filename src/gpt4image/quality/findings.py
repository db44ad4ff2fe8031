"""Flags on single texts to findings with their texts, and findings to marks in the description store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, get_args

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.records import Verdict
from gpt4image.quality.check_record import Finding, FindingItem, FindingKind, QualityReport, Severity
from gpt4image.quality.checks.run_checks import Flag
from gpt4image.quality.texts import CheckedText, Collected


class Wording(NamedTuple):
    """Words of one kind of finding.

    Attributes:
        severity: what it asks for.
        title: what was found.
        explanation: what that means.
        advice: what to do.
    """

    severity: Severity
    title: str
    explanation: str
    advice: str


WORDING: dict[FindingKind, Wording] = {
    "missing": Wording(
        "know",
        "Images without a text",
        "They train on their labels alone.",
        "Describe them: give the describe command again, with --retry-failed for those that failed.",
    ),
    "empty": Wording(
        "mend",
        "Empty or nearly empty",
        "Fewer than three words describe nothing, but still become a vector that images are drawn to.",
        "Send them back for another try, or drop them.",
    ),
    "refusal": Wording(
        "mend",
        "Refusals and apologies",
        "The model speaks of itself in place of the image, so images that have nothing in common get texts that are "
        "alike.",
        "Send them back for another try; what is refused again, drop. Many of them call for another prompt or model.",
    ),
    "loop": Wording(
        "mend",
        "Loops",
        "The model says the same again and again, and what it says of the image drowns.",
        "Send them back for another try at a higher temperature, or drop them.",
    ),
    "cut-off": Wording(
        "look",
        "Cut off",
        "The server stopped the text at its longest length, so its end is missing.",
        "Look at a few: where what is there is good, keep them; else send them back with a higher --max-tokens, or ask "
        "for fewer sentences.",
    ),
    "language": Wording(
        "mend",
        "Another language",
        "Most text encoders read one language well, and put texts in another far from those that say the same.",
        "Send them back for another try; name the language in the prompt.",
    ),
    "prompt-echo": Wording(
        "mend",
        "Echoes of the prompt",
        "The text repeats the question, so texts of different images are more alike than the images are.",
        "Send them back for another try, or drop them.",
    ),
    "repeated": Wording(
        "look",
        "The same text on several images",
        "Nothing in it tells these images apart; alignment treats them as one and the same.",
        "Look at the images: where they do differ, send the texts back with a prompt that asks for particulars.",
    ),
    "opening": Wording(
        "know",
        "The same first words on most texts",
        "They take up room in what the encoder reads and say nothing of the image, but do no harm beyond that.",
        "Ask for texts that begin with the main object.",
    ),
    "too-long": Wording(
        "look",
        "Longer than the encoder reads",
        "What lies beyond is not in the vector.",
        "Read them whole with --long-text pool, choose an encoder that reads more, or ask for fewer sentences.",
    ),
    "leakage": Wording(
        "know",
        "Texts that carry their class's name",
        "Where a model names the class because it sees it, that is knowledge; where it names all of a class's images "
        "alike, the text tells nothing beyond the label.",
        "Nothing has to be done. What the texts know without the names stands under what they know.",
    ),
    "contradiction": Wording(
        "look",
        "Texts that speak of another class",
        "A classifier that has seen neither this text nor its copies is sure of another class, and all but rules "
        "out the label. The label is wrong, or the text, or the image belongs to both classes.",
        "Look at image, label and text. Drop the text where it is wrong; correct the label where that is.",
    ),
    "outlier": Wording(
        "look",
        "Texts unlike all others",
        "Even the texts nearest to them are further away than for any usual text: mostly they are not about an image "
        "of this set.",
        "Look at them, and send back or drop those that do not describe their image.",
    ),
}


"""Words of every kind, in the order of `FindingKind`."""


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
