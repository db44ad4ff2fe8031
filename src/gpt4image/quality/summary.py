"""All that was found, put together as one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from gpt4image.quality.check_record import ClassLeakage, Knowledge, QualityReport
from gpt4image.quality.checks.leakage import ClassNames
from gpt4image.quality.checks.run_checks import Flag
from gpt4image.quality.findings import encodable, make_findings
from gpt4image.quality.texts import CheckedText, Collected
from gpt4image.quality.words import words


def make_report(
    source: str,
    collected: Collected,
    classes: Sequence[str],
    flags: Sequence[Flag],
    *,
    language: str | None,
    encoder: str | None,
    knowledge: Knowledge | None,
    no_knowledge: str | None,
    notes: Iterable[str],
) -> QualityReport:
    """Put a report together.

    Args:
        source: the image set.
        collected: the texts.
        classes: class names.
        flags: what was found in which text.
        language: language that texts were held against.
        encoder: the text encoder.
        knowledge: what the texts know.
        no_knowledge: why that was not measured.
        notes: what else there is to know.
    """
    texts = collected.texts
    leakage = measure_leakage(texts, classes)
    return QualityReport(
        version=version("gpt4image"),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        source=source,
        text_source=collected.source,
        images=len(collected.wanted),
        described=len({text.image_id for text in texts}),
        texts=len(texts),
        distinct_texts=len({text.text for text in texts}),
        failed=dict(collected.failed),
        models=dict(Counter(text.model for text in texts if text.model is not None)),
        prompts=dict(Counter(text.prompt for text in texts if text.prompt is not None)),
        language=language,
        encoder=encoder,
        words=word_counts(texts),
        findings=make_findings(flags, collected, classes),
        leakage=leakage,
        knowledge=knowledge,
        no_knowledge=no_knowledge,
        notes=[*notes, *leakage_notes(leakage)],
    )


def word_counts(texts: Sequence[CheckedText]) -> tuple[int, int, int] | None:
    """Words of the shortest text, of the one in the middle, and of the longest."""
    counts = sorted(len(words(text.text)) for text in texts)
    return (counts[0], counts[len(counts) // 2], counts[-1]) if counts else None


def measure_leakage(texts: Sequence[CheckedText], classes: Sequence[str]) -> list[ClassLeakage]:
    """How many of each class's texts carry its name; classes without a text are left out."""
    names = ClassNames(classes)
    counts: Counter[tuple[int, bool, bool]] = Counter()
    for text in texts:
        if text.label >= 0:
            named = names.find(words(text.text), text.label) is not None
            counts[text.label, bool(text.told), named] += 1
    labels = sorted({label for label, _, _ in counts})
    return [class_leakage(classes[label], names.sayable(label), label, counts) for label in labels]


def class_leakage(name: str, sayable: bool, label: int, counts: Counter[tuple[int, bool, bool]]) -> ClassLeakage:
    """The record of one class."""
    texts = counts[label, False, False] + counts[label, False, True]
    told = counts[label, True, False] + counts[label, True, True]
    return ClassLeakage(
        name=encodable(name),
        sayable=sayable,
        texts=texts,
        with_word=counts[label, False, True],
        share=counts[label, False, True] / texts if texts and sayable else None,
        told_texts=told,
        told_with_word=counts[label, True, True],
    )


def leakage_notes(leakage: Sequence[ClassLeakage]) -> list[str]:
    """What to know about class names in texts."""
    notes = []
    unsayable = [record.name for record in leakage if not record.sayable]
    if unsayable:
        notes.append(
            f"{len(unsayable):,} of {len(leakage):,} class names are no words, such as {unsayable[0]}: texts cannot "
            "carry them, so nothing is said of how many do."
        )
    told, named = (sum(getattr(record, name) for record in leakage) for name in ("told_texts", "told_with_word"))
    if told:
        notes.append(
            f"{told:,} texts were written knowing the class; {named:,} of them carry its name. That is expected, and "
            "no finding."
        )
    return notes
