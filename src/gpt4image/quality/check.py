"""Check all descriptions: collect the texts, run the checks, compare with image features, report, and mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescriptionError, WeightsError
from gpt4image.core.format import counted
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions import DescriptionSet
from gpt4image.descriptions.exchange.import_ import IMPORTED
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.embed import load_encoder
from gpt4image.embed.encoders import Precision
from gpt4image.images.table import ImageTable
from gpt4image.llm.errors import commonest
from gpt4image.quality.check_record import QualityReport
from gpt4image.quality.checks.catalog import run_checks
from gpt4image.quality.checks.context import CheckContext
from gpt4image.quality.checks.language import check_language, main_language
from gpt4image.quality.checks.leakage import leakage_notes, measure_leakage
from gpt4image.quality.compare_features import FeatureComparison, TextReader
from gpt4image.quality.findings import make_findings, mark_findings, validate_marks
from gpt4image.quality.texts import CollectedTexts, ImageFacts, collect_texts

if TYPE_CHECKING:
    import numpy as np

    from gpt4image.train.frozen_features import FrozenBackbone

CHECK_FILE = "check.json"  # in the folder of the descriptions


@dataclass(frozen=True)
class CheckSettings:
    """Settings of a check.

    Attributes:
        splits: splits that should be described; by default all splits in which any image is described.
        prompt_file: TOML file with further prompts.
        class_in_prompt: whether the prompt named the class, for texts with an unknown prompt; None if unknown.
        language: expected language, ISO 639-1; by default that of most texts.
        encoder: text encoder; None skips everything that needs vectors.
        long_text: what to do with texts longer than the encoder reads.
        embed_batch: batch size of the text encoder.
        embed_precision: number format of the encoder.
        backbone: backbone whose frozen features the texts are compared with; None skips the comparison.
        series: for each row of the image table, a value that images of one series share, so that they share a fold.
        seed: seed of folds and samples.
    """

    splits: tuple[str, ...] | None = None
    prompt_file: Path | None = None
    class_in_prompt: bool | None = None
    language: str | None = None
    encoder: str | None = "minilm"
    long_text: Literal["truncate", "pool"] = "truncate"
    embed_batch: int = 64
    embed_precision: Precision = "float32"
    backbone: FrozenBackbone | None = None
    series: np.ndarray | None = None
    seed: int = 0


def check_descriptions(
    images: ImageTable,
    work: Path,
    descriptions: DescriptionSet | None = None,
    settings: CheckSettings | None = None,
    *,
    drop: Sequence[str] = (),
    retry: Sequence[str] = (),
) -> QualityReport:
    """Check descriptions and write the report to `check.json`.

    Vectors and features are stored, so an interrupted check resumes, and a later one encodes only new texts.

    Args:
        images: the images.
        work: the work directory.
        descriptions: texts to check; by default those of the work directory's description store.
        settings: settings of the check.
        drop: kinds of findings whose texts are excluded from now on.
        retry: kinds of findings whose texts are written again when the images are next described.

    Raises:
        ConfigError: an unknown language, encoder, backbone or finding; or marks for texts outside the store.
        DescriptionError: there is no text to check.
    """
    validate_marks(drop, retry)
    if descriptions is not None and (drop or retry):
        raise ConfigError(
            f"drop and retry work on the description store, and {descriptions.source} is not in it. Import the "
            "texts first: gpt4image describe import."
        )
    workdir = WorkDir(work)
    store = DescriptionStore(workdir.description_store)
    report = make_report(images, workdir, store if descriptions is None else descriptions, settings or CheckSettings())
    report.save(workdir.description_store / CHECK_FILE)
    for kind, count in mark_findings(store, report, drop, retry).items():
        console.say(f"marked: {counted(count, 'text')} ({kind})")
    _warn_of_imported(store, {key for finding in report.findings if finding.kind in retry for key in finding.keys})
    return report


def _warn_of_imported(store: DescriptionStore, retried: set[str]) -> None:
    """Warn of imported texts marked to be written again: `describe` does not know their prompt."""
    imported = 0
    for batch in store.current_batches(dropped=True) if retried else ():
        pairs = zip(batch["key"].to_pylist(), batch["prompt"].to_pylist(), strict=True)
        imported += sum(key in retried and prompt == IMPORTED for key, prompt in pairs)
    if imported:
        console.say(
            f"{counted(imported, 'text')} of them came from a table without prompts. They are left out from now on, "
            "but gpt4image describe cannot write them again, because it only knows its own prompts.",
            style="yellow",
        )


def make_report(
    images: ImageTable, workdir: WorkDir, source: DescriptionStore | DescriptionSet, settings: CheckSettings
) -> QualityReport:
    """Check all texts of a store or set, without marking any."""
    if settings.language is not None:
        check_language(settings.language)
    backbone, no_weights = settings.backbone, ""
    if backbone is not None:
        try:
            with console.doing(f"Loading {backbone.name}"):
                backbone.build()  # fails on unknown names before the slow part
        except WeightsError as error:  # the texts can still be checked
            backbone, no_weights = None, str(error)
    encoder = None if settings.encoder is None else load_encoder(settings.encoder, precision=settings.embed_precision)
    facts, prompts = ImageFacts(images), _known_prompts(settings.prompt_file)
    collected = collect_texts(source, facts, settings.splits, prompts, settings.class_in_prompt)
    texts, language = collected.texts, settings.language or main_language([text.text for text in collected.texts])
    context = CheckContext(texts, images.classes, prompts, language, encoder, seed=settings.seed)
    reader = TextReader(images, encoder, workdir, settings.long_text, settings.embed_batch) if encoder else None
    context.vectors = reader.vectors(texts) if reader else None
    flags, notes = run_checks(context), _data_notes(facts, collected, language)
    knowledge, no_knowledge = None, None
    try:
        comparison = FeatureComparison(facts, reader, backbone, settings.series, settings.seed, notes)
        knowledge = comparison.measure(texts, context.vectors)
    except DescriptionError as error:
        no_knowledge = no_weights or str(error)
    leakage = measure_leakage(texts, images.classes)
    lengths = sorted(normalized.count(" ") + 1 if normalized else 0 for normalized in context.normalized)
    return QualityReport(
        version=version("gpt4image"),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        source=images.source,
        text_source=collected.source,
        images=len(collected.wanted),
        described=len({text.image_id for text in texts}),
        texts=len(texts),
        distinct_texts=len({text.text for text in texts}),
        failed={reason: details.total() for reason, details in collected.failed.items()},
        failed_with={reason: commonest(reason, details) for reason, details in collected.failed.items()},
        models=dict(Counter(text.model for text in texts if text.model is not None)),
        served_models=dict(collected.served),
        prompts=dict(Counter(text.prompt for text in texts if text.prompt is not None)),
        language=language,
        encoder=settings.encoder,
        words=(lengths[0], lengths[len(lengths) // 2], lengths[-1]),
        findings=make_findings(flags, collected, images.classes),
        leakage=leakage,
        knowledge=knowledge,
        no_knowledge=no_knowledge,
        notes=[*notes, *leakage_notes(leakage)],
    )


def _known_prompts(prompt_file: Path | None) -> tuple[Prompt, ...]:
    """Return the built-in prompts and those of a file; where they share a name, both."""
    own = [] if prompt_file is None else known_prompts(prompt_file).values()
    return tuple({prompt.hash: prompt for prompt in (*known_prompts().values(), *own)}.values())


def _data_notes(facts: ImageFacts, collected: CollectedTexts, language: str | None) -> list[str]:
    notes = []
    if facts.conflicting:
        notes.append(
            f"{counted(facts.conflicting, 'image')} in more than one class, whose texts are not compared with a label."
        )
    notes += [
        f"{counted(count, 'text')} from the model {served!r}, which is not the requested one."
        for served, count in collected.other_models.most_common()
    ]
    if collected.trials:
        notes.append(
            f"{counted(collected.trials, 'text')} are trials: training leaves them out unless they are selected."
        )
    if language is None:
        notes.append("Too few texts are long enough to tell their language. Set language (--language) to check it.")
    if any(text.class_in_prompt is None and text.key is None for text in collected.texts):
        notes.append(
            "It is not known how the texts were written. If their author knew the classes, the comparison with the "
            "image features proves nothing."
        )
    return notes
