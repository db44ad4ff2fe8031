"""From a source of images to a description set: what `gpt4image describe` and its Python call run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.options import (
    DataOptions,
    DescribeOptions,
)
from gpt4image.core.registry import unknown_name
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.estimate import outcome_of
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.tasks import RequestMaker, Tasks
from gpt4image.descriptions.store.records import DescriptionRecord
from gpt4image.descriptions.store.shards import now
from gpt4image.images.open import open_images
from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.llm.base import DescribeRequest
from gpt4image.report.descriptions.preview import PreviewHead, PreviewItem, write_preview

if TYPE_CHECKING:
    from gpt4image.describe.estimate import Estimate
    from gpt4image.describe.job import DescribeJob
    from gpt4image.describe.tally import Tally
    from gpt4image.describe.tasks import Tasks
    from gpt4image.images import ImageTable
    from gpt4image.report.descriptions.preview import PreviewItem


def read_neighbours(
    images: ImageTable, options: DescribeOptions, workdir: WorkDir
) -> Mapping[int, tuple[int, ...]] | None:
    """Labels of the classes that a trained run confuses with each, where the options name a run.

    They are found out once and kept: they stand in prompts, and what is asked must not change when images are added.

    Raises:
        ConfigError: the run was trained on other classes.
        StoreError: there is no finished run.
    """
    if options.confusions is None:
        return None
    from gpt4image.compare.test_answers import validation_confusion
    from gpt4image.core.files import digest, hash_file, read_json, write_json
    from gpt4image.descriptions.prompts.values import most_confused
    from gpt4image.train.run import open_run

    run = open_run(options.confusions)
    if run.classes != images.classes:
        raise ConfigError(f"{options.confusions} was trained on other classes than those of {images.source}.")
    identity = digest(hash_file(run.layout.weights), *run.classes)
    kept = workdir.description_store / "confusions" / f"{identity}.json"
    if not kept.exists():
        found = most_confused(validation_confusion(run, images, workdir.features))
        write_json(kept, {str(label): others for label, others in found.items()})
    return {int(label): tuple(others) for label, others in read_json(kept).items()}


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
    from gpt4image.describe.stage import describe

    if options.engine != "here":
        from gpt4image.describe.workers.launch import check_engine

        check_engine(options.engine)
    return with_job(data, options, work, lambda job: describe(job, confirm, way_of_running(job, data, work)))


def way_of_running(job: DescribeJob, data: DataOptions, work: Path) -> Callable[[Tasks], Tally] | None:
    """What has tasks described where it is not this process: a vendor's batches or an engine's workers."""
    if job.options.describer == "batch":
        return job.run_in_batches
    if job.options.engine == "here":
        return None
    from gpt4image.describe.workers.launch import run_on_engine

    return lambda tasks: run_on_engine(job, job.outside_batches(tasks), data, work)


def run_estimate(data: DataOptions, options: DescribeOptions, work: Path) -> Estimate:
    """Measure on a few descriptions, which are kept, what all of them will take."""
    from gpt4image.describe.estimate import estimate

    return with_job(data, options, work, lambda job: estimate(job, sizes=SIZES))


def run_sample(data: DataOptions, options: DescribeOptions, work: Path, count: int) -> list[PreviewItem]:
    """Have a few images described, and show them on a page in the work directory."""

    page = WorkDir(work).description_preview
    return with_job(data, options, work, lambda job: describe_sample(job, count, page))


def with_job(data: DataOptions, options: DescribeOptions, work: Path, do: Callable[[DescribeJob], T]) -> T:
    """Open images, store and describers, and do something with them."""
    from gpt4image.describe.clients import open_session, outside_loops
    from gpt4image.describe.job import hold_store, open_job, read_strategies
    from gpt4image.descriptions.store import DescriptionStore

    workdir = WorkDir(work)
    store = DescriptionStore(workdir.description_store)

    def work_through() -> T:
        read_strategies(options)  # what cannot be meant is said before an image is read
        with open_session(options) as session:
            images = open_images(data, workdir)
            with hold_store(store):
                return do(open_job(images, store, session, options, read_neighbours(images, options, workdir)))

    return outside_loops(work_through)


def describe_sample(job: DescribeJob, count: int, page: Path) -> list[PreviewItem]:
    """Have a few images described, and write a page that shows them. Those that are described already cost nothing.

    Args:
        job: what is to be done.
        count: descriptions, of all classes in turn; the same ones at every call.
        page: where the page is written.

    Raises:
        ConfigError: `count` is not above 0.
        DescribeError: no description can be written.
    """
    if count < 1:
        raise ConfigError(f"A sample has at least one description, not {count}.")
    chosen = job.first(count)
    job.run_missing(chosen, title=f"Sample {len(chosen)}")
    items = preview_items(job, chosen)
    price = job.session.price
    spent = None if price is None else job.store.spent(job.question.model).cost
    version = package_version()
    write_preview(page, items, PreviewHead(job.images.source, job.question.model, version, now(), spent))
    return items


def preview_items(job: DescribeJob, chosen: Tasks) -> list[PreviewItem]:
    """The outcomes of some tasks, with pictures and questions."""
    records = {record.key: record for record in job.records_of(chosen)}
    maker = RequestMaker(job.images, job.question, chosen)
    thumbnails = image_thumbnails(job.images)
    items = []
    for number, key in enumerate(chosen.keys.tolist()):
        record = records.get(key.decode())
        if record is None:
            continue
        row = int(chosen.rows[number])
        label = int(job.images.labels[row])
        asked = request_or_none(maker, number)
        items.append(
            PreviewItem(
                record=record,
                path=job.images.path(row),
                label=job.images.classes[label] if label >= 0 else None,
                thumbnail=thumbnails(record.image_id),
                system=asked.system if asked else None,
                turns=asked.turns if asked else (),
            )
        )
    return items


def request_or_none(maker: RequestMaker, number: int) -> DescribeRequest | None:
    """What was asked, None where the picture cannot be read any more."""
    try:
        return maker.request(number)
    except ImageError:
        return None


def preview_line(item: PreviewItem) -> str:
    """An item for the terminal; what would steer it is shown, not obeyed."""
    where = f"{item.path} ({item.label})" if item.label else item.path
    return f"{console.printable(where)}, {item.record.prompt}:\n  {console.printable(told(item.record))}"


def told(record: DescriptionRecord) -> str:
    """The text, or what went wrong."""
    return record.text if record.answered else f"failed: {outcome_of(record)}"


def package_version() -> str:
    """Version of this package."""
    from importlib.metadata import version

    return version("gpt4image")
