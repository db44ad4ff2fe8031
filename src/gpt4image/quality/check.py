"""One check of all descriptions, from texts to marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.core.format import counted
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions import DescriptionSet
from gpt4image.descriptions.exchange.import_ import IMPORTED
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.embed import TextEncoder, load_encoder
from gpt4image.images.table import ImageTable
from gpt4image.quality.check_record import Knowledge, QualityReport
from gpt4image.quality.checks.language import check_language, main_language
from gpt4image.quality.checks.run_checks import Against, Flag, check_texts
from gpt4image.quality.compare_features import Comparison, long_flags, text_vectors, vector_flags
from gpt4image.quality.findings import check_kinds, mark_findings
from gpt4image.quality.settings import CheckSettings
from gpt4image.quality.summary import make_report
from gpt4image.quality.texts import Collected, ImageFacts, collect_given, collect_stored

WHENCE = ("key", "prompt")


CHECK_FILE = "check.json"


"""Name of the report, in the folder of the descriptions."""


def check_descriptions(
    images: ImageTable,
    work: Path,
    descriptions: DescriptionSet | None = None,
    settings: CheckSettings | None = None,
    *,
    drop: Sequence[str] = (),
    retry: Sequence[str] = (),
) -> QualityReport:
    """Check the descriptions of a work directory, or given ones, and keep what was found in `check.json`.

    Vectors and features are kept, so a check that was stopped, or is done again after some texts have changed, goes on
    where it was.

    Args:
        images: the images.
        work: the work directory.
        descriptions: texts to check; those of the work directory's description store when not given.
        settings: what they are held against.
        drop: kinds of findings whose texts are left out from now on.
        retry: kinds of findings whose texts are written again when the images are next described.

    Raises:
        ConfigError: unknown language, encoder, backbone or finding; or given texts are to be dropped or tried again.
        DescriptionError: there is no text to check.
    """
    check_kinds(drop, retry)
    if descriptions is not None and (drop or retry):
        raise ConfigError(
            f"The texts of {descriptions.source} are not in the description store, so none can be dropped or tried "
            "again. Bring them in first: gpt4image describe import."
        )
    workdir = WorkDir(work)
    store = DescriptionStore(workdir.description_store)
    report = make_check(images, workdir, store if descriptions is None else descriptions, settings or CheckSettings())
    report.save(workdir.description_store / CHECK_FILE)
    for kind, count in mark_findings(store, report, drop, retry).items():
        console.say(f"marked: {counted(count, 'text')} ({kind})")
    say_what_nobody_asks(store, report, retry)
    return report


def say_what_nobody_asks(store: DescriptionStore, report: QualityReport, retry: Sequence[str]) -> None:
    """Say which of the texts that are to be written again `describe` cannot write: it never knew what they answer."""
    marked = {key for finding in report.findings if finding.kind in retry for key in finding.keys}
    if not marked:
        return
    batches = store.current_batches(dropped=True)
    pairs = ((key, prompt) for b in batches for key, prompt in zip(*(b[n].to_pylist() for n in WHENCE), strict=True))
    imported = sum(key in marked and prompt == IMPORTED for key, prompt in pairs)
    if imported:
        console.say(
            f"{counted(imported, 'text')} of them came from a table that does not say what was asked. They are left "
            "out from now on, but nobody writes them again: gpt4image describe asks its own prompts about the images.",
            style="yellow",
        )


def make_check(
    images: ImageTable, workdir: WorkDir, source: DescriptionStore | DescriptionSet, settings: CheckSettings
) -> QualityReport:
    """Check all texts of a source; nothing is marked and no report kept."""
    if settings.language is not None:
        check_language(settings.language)
    if settings.backbone is not None:
        settings.backbone.build()  # what cannot be had is said before the texts are read
    encoder = None if settings.encoder is None else load_encoder(settings.encoder)
    facts, strategies = ImageFacts(images), parse_prompts(settings.prompt_file)
    collected = collect(source, facts, settings, strategies)
    language = settings.language or main_language([text.text for text in collected.texts])
    flags = check_texts(collected.texts, Against(images.classes, strategies, language))
    comparison = Comparison(images, facts, workdir, settings)
    further, knowledge, no_knowledge = read_vectors(collected, flags, comparison, encoder)
    return make_report(
        images.source,
        collected,
        images.classes,
        [*flags, *further],
        language=language,
        encoder=settings.encoder,
        knowledge=knowledge,
        no_knowledge=no_knowledge,
        notes=[*data_notes(facts, collected, language), *comparison.notes],
    )


def parse_prompts(prompt_file: Path | None) -> tuple[Prompt, ...]:
    """All prompts that are known: the built-in ones and those of a file, also where they have the same name."""
    own = [] if prompt_file is None else known_prompts(prompt_file).values()
    return tuple({strategy.hash: strategy for strategy in (*known_prompts().values(), *own)}.values())


def collect(
    source: DescriptionStore | DescriptionSet,
    facts: ImageFacts,
    settings: CheckSettings,
    strategies: Sequence[Prompt],
) -> Collected:
    """The texts of a source. DescriptionError when there are none."""
    if isinstance(source, DescriptionSet):
        collected = collect_given(source, facts, settings.splits, settings.told)
    else:
        collected = collect_stored(source, facts, settings.splits, strategies, settings.told)
    if not collected.texts:
        raise DescriptionError(
            f"There is no text to check in {collected.source}. Describe images first: gpt4image describe; or name "
            "texts to check: --text."
        )
    return collected


def read_vectors(
    collected: Collected, flags: Sequence[Flag], comparison: Comparison, encoder: TextEncoder | None
) -> tuple[list[Flag], Knowledge | None, str | None]:
    """What is found with the texts' vectors, what the texts know, and where that is not known, why."""
    settings, images, texts = comparison.settings, comparison.images, collected.texts
    if encoder is None:
        return [], None, "The texts were not read: name a text encoder, such as --encoder minilm."
    vectors = text_vectors(texts, images, encoder, comparison.workdir.embeddings(encoder.name), settings)
    further = long_flags(texts, encoder) + vector_flags(texts, vectors, flags, images.classes, settings.seed)
    try:
        return further, comparison.measure(texts, vectors, encoder), None
    except DescriptionError as error:
        return further, None, str(error)


def data_notes(facts: ImageFacts, collected: Collected, language: str | None) -> list[str]:
    """What a person should know of the data."""
    notes = []
    if facts.conflicting:
        notes.append(
            f"{counted(facts.conflicting, 'image')} in more than one class: texts of such images are not held against "
            "a label."
        )
    if language is None:
        notes.append("Too few texts are long enough to tell their language: to check it, name it with --language.")
    if any(text.told is None and text.key is None for text in collected.texts):
        notes.append(
            "It is not known how the texts were written. If whoever wrote them knew the class, what they know of it "
            "proves nothing."
        )
    return notes
