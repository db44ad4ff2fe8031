"""From a source of images to a description set: what `gpt4image describe` and its Python call run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gpt4image.errors import ConfigError
from gpt4image.options import CheckOptions, DataOptions, DescribeOptions, TextOptions
from gpt4image.pipeline import find_descriptions, open_images, read_neighbours
from gpt4image.seams import unknown_name
from gpt4image.workspace import Workspace

if TYPE_CHECKING:
    from gpt4image.describe.cost.estimate import Estimate
    from gpt4image.describe.job import DescribeJob
    from gpt4image.describe.pages.preview import PreviewItem
    from gpt4image.describe.quality.records import QualityReport
    from gpt4image.describe.runner import Tally
    from gpt4image.describe.sharing import ExportSummary, ImportSummary
    from gpt4image.describe.store import DescriptionStore
    from gpt4image.describe.tasks import Tasks

T = TypeVar("T")

SIZES = (256, 512, 768, 1024, 1536)
"""Longest sides in pixels whose tokens an estimate shows."""

Confirm = Callable[["Estimate"], bool]


def describe_images(source: str | Path, work: str | Path, **options: Any) -> Tally:  # noqa: ANN401 - see DescribeOptions
    """Have a multimodal LLM describe the images of a source; nothing that is in the work directory is asked again.

    The same as `gpt4image describe SOURCE --work WORK --yes`.

    Args:
        source: the images: a folder, a file or a hub name.
        work: the work directory.
        options: fields of `DescribeOptions`, such as `model`, `base_url`, `prompts`, `budget`.

    Returns:
        What was done: answers, reasons of failures, tokens, money.

    Raises:
        ConfigError: settings that cannot be meant.
        DataError: the images cannot be used.
        DescribeError: no description can be written; what was answered is kept.
    """
    unknown = options.keys() - {field.name for field in fields(DescribeOptions)}
    if unknown:
        known = [field.name for field in fields(DescribeOptions)]
        raise ConfigError(unknown_name("option", min(unknown), known))
    return run_description(DataOptions(str(source)), DescribeOptions(**options), Path(work))


def run_description(data: DataOptions, options: DescribeOptions, work: Path, confirm: Confirm | None = None) -> Tally:
    """Write every description that is still missing into the work directory.

    Args:
        data: the images.
        options: who describes them and what is asked.
        work: the work directory.
        confirm: asked with an estimate before money is spent that no budget limits; without it nothing is asked.

    Returns:
        What was done. Slurm does it later, so nothing is counted there.

    Raises:
        ConfigError: settings that cannot be meant.
        DescribeError: no description can be written; what was answered is kept.
        MissingExtraError: the engine is not installed.
    """
    from gpt4image.describe.job import describe

    if options.engine != "here":
        from gpt4image.engine.launch import check_engine

        check_engine(options.engine)
    return with_job(data, options, work, lambda job: describe(job, confirm, way_of_running(job, data, work)))


def way_of_running(job: DescribeJob, data: DataOptions, work: Path) -> Callable[[Tasks], Tally] | None:
    """What has tasks described where it is not this process: a vendor's batches or an engine's workers."""
    if job.options.describer == "batch":
        from gpt4image.describe.batch.job import describe_in_batches

        return lambda tasks: describe_in_batches(job, tasks)
    if job.options.engine == "here":
        return None
    from gpt4image.engine.launch import run_on_engine

    return lambda tasks: run_on_engine(job, job.outside_batches(tasks), data, work)


def run_estimate(data: DataOptions, options: DescribeOptions, work: Path) -> Estimate:
    """Measure on a few descriptions, which are kept, what all of them will take."""
    from gpt4image.describe.job import estimate

    return with_job(data, options, work, lambda job: estimate(job, sizes=SIZES))


def run_sample(data: DataOptions, options: DescribeOptions, work: Path, count: int) -> list[PreviewItem]:
    """Have a few images described, and show them on a page in the work directory."""
    from gpt4image.describe.sample import describe_sample

    page = Workspace(work).description_preview
    return with_job(data, options, work, lambda job: describe_sample(job, count, page))


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
    from gpt4image.checking import CheckSettings, check_descriptions
    from gpt4image.describe.pages.check import write_check_page
    from gpt4image.describe.pages.thumbnails import image_thumbnails
    from gpt4image.describe.store import DescriptionStore
    from gpt4image.evaluate.frozen_features import FrozenBackbone

    space = Workspace(work)
    images = open_images(data, space)
    store = DescriptionStore(space.description_store)
    stored = text.text is None and not store.is_empty
    if options.undo:
        store.mark([key for key, mark in store.marks().items() if mark.verdict != "keep"], "keep", "taken back")
    backbone = options.backbone and FrozenBackbone(options.backbone, options.checkpoint, options.image_size)
    settings = CheckSettings(
        splits=options.splits,
        prompt_file=options.prompt_file,
        told=options.class_was_told,
        language=options.language,
        encoder=text.encoder[0],
        long_text=text.long_text,
        embed_batch=text.embed_batch,
        backbone=backbone or None,
    )
    given = None if stored else find_descriptions(images, text, space)
    report = check_descriptions(images, work, given, settings, drop=options.drop, retry=options.retry)
    write_check_page(space.description_check, report, image_thumbnails(images))
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
    from gpt4image.describe.prompts.strategy import own_strategies
    from gpt4image.describe.sharing import export_descriptions
    from gpt4image.describe.store import DescriptionStore

    space = Workspace(work)
    images = open_images(data, space)
    store = DescriptionStore(space.description_store)
    return export_descriptions(
        store,
        images,
        out,
        images_inside=images_inside,
        with_cost=with_cost,
        strategies=own_strategies(prompt_file) if prompt_file else (),
        findings=known_findings(space, store),
    )


def run_import(
    data: DataOptions, source: Path, work: Path, *, model: str | None, text_column: str | None, skip_orphans: bool
) -> ImportSummary:
    """Take descriptions into a work directory: all of them, or none.

    Raises:
        DescriptionError: a file or row is broken, or texts fit no image.
    """
    from gpt4image.describe.sharing import import_descriptions
    from gpt4image.describe.store import DescriptionStore

    space = Workspace(work)
    images = open_images(data, space)
    orphans: Literal["fail", "skip"] = "skip" if skip_orphans else "fail"
    store = DescriptionStore(space.description_store)
    return import_descriptions(source, images, store, model=model, text_column=text_column, orphan_texts=orphans)


def known_findings(space: Workspace, store: DescriptionStore) -> dict[str, int]:
    """What the last check has found in texts that are still what they were then: title and count."""
    import pyarrow.compute as pc

    from gpt4image.describe.quality.records import QualityReport

    if not space.description_findings.exists():
        return {}
    report = QualityReport.load(space.description_findings)
    there: set[str] = set()
    for batch in store.current_batches():
        same = pc.and_(pc.is_null(batch["error"]), pc.less_equal(batch["created"], report.created))
        there.update(batch["key"].filter(same).to_pylist())
    counts = {finding.title: len(there.intersection(finding.keys)) for finding in report.findings}
    return {title: count for title, count in counts.items() if count}


def with_job(data: DataOptions, options: DescribeOptions, work: Path, do: Callable[[DescribeJob], T]) -> T:
    """Open images, store and describers, and do something with them."""
    from gpt4image.describe.job import hold_store, open_job, read_strategies
    from gpt4image.describe.session import open_session, outside_loops
    from gpt4image.describe.store import DescriptionStore

    space = Workspace(work)
    store = DescriptionStore(space.description_store)

    def work_through() -> T:
        read_strategies(options)  # what cannot be meant is said before an image is read
        with open_session(options) as session:
            images = open_images(data, space)
            with hold_store(store):
                return do(open_job(images, store, session, options, read_neighbours(images, options, space)))

    return outside_loops(work_through)
