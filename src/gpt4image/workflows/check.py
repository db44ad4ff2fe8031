"""Check, export and import the descriptions of a work directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt4image.core.options import CheckOptions, DataOptions, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.open import open_images
from gpt4image.workflows.inputs import find_descriptions

if TYPE_CHECKING:
    from gpt4image.descriptions.exchange import ExportSummary, ImportSummary
    from gpt4image.descriptions.store import DescriptionStore
    from gpt4image.quality.check_record import QualityReport


def run_check(data: DataOptions, text: TextOptions, options: CheckOptions, work: Path) -> QualityReport:
    """Check descriptions, keep what was found, and show it on a page in the work directory.

    Args:
        data: the images.
        text: the texts, those of the work directory's store where none are named, and the encoder that reads them.
        options: what they are held against.
        work: the work directory.

    Raises:
        ConfigError: a setting that cannot be meant, or texts that are not in the store are to be dropped.
        DescriptionError: there is no text to check.
    """
    from gpt4image.descriptions.store import DescriptionStore
    from gpt4image.images.thumbnails import image_thumbnails
    from gpt4image.quality import CheckSettings, check_descriptions
    from gpt4image.report.descriptions.check_page import write_check_page
    from gpt4image.train.frozen_features import FrozenBackbone

    workdir = WorkDir(work)
    images = open_images(data, workdir)
    store = DescriptionStore(workdir.description_store)
    stored = text.text is None and not store.is_empty
    if options.undo:
        store.mark([key for key, mark in store.marks().items() if mark.verdict != "keep"], "keep", "taken back")
    backbone = options.backbone and FrozenBackbone(options.backbone, options.checkpoint, options.image_size)
    settings = CheckSettings(
        splits=options.splits,
        prompt_file=options.prompt_file,
        class_in_prompt=options.class_was_told,
        language=options.language,
        encoder=text.encoder[0],
        long_text=text.long_text,
        embed_batch=text.embed_batch,
        backbone=backbone or None,
    )
    given = None if stored else find_descriptions(images, text, workdir)
    report = check_descriptions(images, work, given, settings, drop=options.drop, retry=options.retry)
    write_check_page(workdir.description_check, report, image_thumbnails(images))
    return report


def run_export(
    data: DataOptions,
    work: Path,
    out: Path,
    *,
    images_inside: bool = False,
    with_cost: bool = False,
    prompt_file: Path | None = None,
) -> ExportSummary:
    """Write the descriptions of a work directory as a data set with a data card.

    Args:
        data: the images.
        work: the work directory.
        out: folder for the data set.
        images_inside: put the images into it.
        with_cost: also say what each text has cost.
        prompt_file: file with prompts of one's own, which the card then shows.

    Raises:
        ConfigError: the folder holds something.
        DescriptionError: there is no text to export.
    """
    from gpt4image.descriptions.exchange import export_descriptions
    from gpt4image.descriptions.prompts.prompt import read_prompt_file
    from gpt4image.descriptions.store import DescriptionStore

    workdir = WorkDir(work)
    images = open_images(data, workdir)
    store = DescriptionStore(workdir.description_store)
    return export_descriptions(
        store,
        images,
        out,
        images_inside=images_inside,
        with_cost=with_cost,
        prompts=read_prompt_file(prompt_file) if prompt_file else (),
        findings=known_findings(workdir, store),
    )


def run_import(
    data: DataOptions, source: Path, work: Path, *, model: str | None, text_column: str | None, skip_orphans: bool
) -> ImportSummary:
    """Take descriptions into a work directory: all of them, or none.

    Raises:
        DescriptionError: a file or row is broken, or texts fit no image.
    """
    from gpt4image.descriptions.exchange import import_descriptions
    from gpt4image.descriptions.store import DescriptionStore

    workdir = WorkDir(work)
    images = open_images(data, workdir)
    orphans: Literal["fail", "skip"] = "skip" if skip_orphans else "fail"
    store = DescriptionStore(workdir.description_store)
    return import_descriptions(source, images, store, model=model, text_column=text_column, orphan_texts=orphans)


def known_findings(workdir: WorkDir, store: DescriptionStore) -> dict[str, int]:
    """What the last check has found in texts that are still what they were then: title and count."""
    import pyarrow.compute as pc

    from gpt4image.quality.check_record import QualityReport

    if not workdir.description_findings.exists():
        return {}
    report = QualityReport.load(workdir.description_findings)
    there: set[str] = set()
    for batch in store.current_batches():
        same = pc.and_(pc.is_null(batch["error"]), pc.less_equal(batch["created"], report.created))
        there.update(batch["key"].filter(same).to_pylist())
    counts = {finding.title: len(there.intersection(finding.keys)) for finding in report.findings}
    return {title: count for title, count in counts.items() if count}
