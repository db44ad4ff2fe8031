"""Describe the images of a source: the workflow behind `gpt4image describe` and `describe_images`."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import atomic_write, digest, hash_file, read_json, write_json
from gpt4image.core.format import printable
from gpt4image.core.options import DataOptions
from gpt4image.core.tables import compose
from gpt4image.core.validation import take_fields
from gpt4image.core.workdir import WorkDir
from gpt4image.describe.clients import open_session, run_in_thread_if_needed
from gpt4image.describe.estimate import Estimate, estimate, outcome_of
from gpt4image.describe.job import DescribeJob, hold_store, open_job
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.question import read_prompts
from gpt4image.describe.stage import Confirm, describe, print_outcome, print_trials, select_backend
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker, Tasks, all_tasks, request_or_error
from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.descriptions.prompts.values import most_confused
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.descriptions.store.shards import now
from gpt4image.images import ImageTable
from gpt4image.images.open import open_images
from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.report.descriptions.preview import PreviewHead, PreviewItem, write_preview
from gpt4image.train.identity import require_finished

T = TypeVar("T")

BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+")  # before a sentence of a list

SIZES = (256, 512, 768, 1024, 1536)
"""Longest sides in pixels for which an estimate shows the tokens."""


def describe_images(source: str | Path, work: str | Path, **options: Any) -> Tally:  # noqa: ANN401 - see DescribeOptions
    """Have a multimodal LLM describe images. Descriptions in the work directory are not requested again.

    This is what `gpt4image describe SOURCE --work WORK --yes` does.

    Args:
        source: the images: a folder, a file or a hub name.
        work: the work directory.
        options: fields of `DescribeOptions`, such as `model`, `base_url`, `prompts`, `budget`.

    Returns:
        Counts of answers, of failures by reason, of tokens and of US dollars.

    Raises:
        ConfigError: an invalid setting or combination.
        DataError: the images cannot be used.
        DescribeError: no description can be written. Answers received so far are kept.
    """
    (chosen,) = take_fields(options, DescribeOptions)
    return run_description(DataOptions(str(source)), chosen, Path(work))


def run_description(data: DataOptions, options: DescribeOptions, work: Path, confirm: Confirm | None = None) -> Tally:
    """Write every description that is still missing into the work directory.

    Args:
        data: the images.
        options: the describer and the prompts.
        work: the work directory.
        confirm: called with an estimate before spending that no budget limits; None spends without confirmation.

    Returns:
        Counts of the run; zero with Slurm, which runs it later.

    Raises:
        ConfigError: an invalid setting or combination.
        DescribeError: no description can be written. Answers received so far are kept.
        MissingExtraError: a library that the workers need is not installed.
    """
    if options.engine != "here":
        from gpt4image.describe.workers.launch import check_engine

        check_engine(options.engine)
    return with_job(data, options, work, lambda job: describe(job, confirm, select_backend(job, data, work)))


def run_estimate(data: DataOptions, options: DescribeOptions, work: Path) -> Estimate:
    """Estimate the cost and time of all descriptions from a few, which are kept."""

    def measure(job: DescribeJob) -> Estimate:
        found = estimate(job, sizes=SIZES)
        print_trials(job)
        return found

    return with_job(data, options, work, measure)


def run_sample(data: DataOptions, options: DescribeOptions, work: Path, count: int) -> list[PreviewItem]:
    """Describe a few images, and show them on a page in the work directory. Earlier descriptions are reused.

    Args:
        data: the images.
        options: the describer and the prompts.
        work: the work directory.
        count: number of descriptions, from all classes in turn; every call chooses the same ones.

    Raises:
        ConfigError: `count` is not above 0.
        DescribeError: no description can be written.
    """
    if count < 1:
        raise ConfigError(f"A sample has at least one description, not {count}.")

    def describe_sample(job: DescribeJob) -> list[PreviewItem]:
        chosen = job.first(count)
        print_outcome(job.run_trial(chosen, title=f"Sample {len(chosen)}"))
        print_trials(job)
        items = preview_items(job, chosen)
        spent = None if job.session.price is None else job.store.spent(job.question.model).cost
        head = PreviewHead(job.images.source, job.question.model, version("gpt4image"), now(), spent)
        write_preview(WorkDir(work).description_preview, items, head)
        return items

    return with_job(data, options, work, describe_sample)


def run_class_texts(
    data: DataOptions, options: DescribeOptions, work: Path, out: Path, confirm: Confirm | None = None
) -> Tally:
    """Have an LLM describe each class in words, without images, and write a table of the texts for `--classes`.

    Answers in the work directory are not requested again.

    Args:
        data: the images, whose classes are described unless the options name a file of classes.
        options: the describer and the prompts; the prompt is `class-texts` if they name none.
        work: the work directory.
        out: the table, with the columns class and text and a row for each line of an answer.
        confirm: called with an estimate before spending that no budget limits; None spends without confirmation.

    Raises:
        ConfigError: an invalid setting, or workers or a model in this process, which need images.
        DescribeError: nothing can be written. Answers received so far are kept.
    """
    if options.engine != "here" or options.describer == "local":
        raise ConfigError("Classes take a few requests to a server: leave engine and describer at their defaults.")
    if not options.prompts and options.prompt_file is None:
        options = replace(options, prompts=("class-texts",))
    options = replace(options, splits=("train",))

    def write(job: DescribeJob) -> Tally:
        tally = describe(job, confirm, select_backend(job, data, work))
        write_class_texts(out, job)
        return tally

    return with_job(data, options, work, write, of_classes=True)


def class_table(images: ImageTable, options: DescribeOptions) -> ImageTable:
    """Return a table that has a row for each class in place of rows for images."""
    names = ClassTexts.read(options.classes).names if options.classes else images.classes
    rows = {
        "id": [digest("class", name) for name in names],
        "path": list(names),
        "label": pa.array(range(len(names)), pa.int32()),
        "split": ["train"] * len(names),
        "row": pa.array(range(len(names)), pa.int64()),
    }
    return ImageTable(images.source, names, pa.table(rows), (), images.reader)


def write_class_texts(out: Path, job: DescribeJob) -> None:
    """Write the lines of all answers as a table; a class without an answer gets a row without a text."""
    texts: dict[str, list[str]] = {}
    for record in job.records_of(all_tasks(job.images, job.rows, job.question)):
        if record.answered:
            lines = (BULLET.sub("", line).strip() for line in record.text.splitlines())
            texts.setdefault(record.image_id, []).extend(filter(None, lines))
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("class", "text"))
    for image_id, name in zip(job.images.ids, job.images.classes, strict=True):
        writer.writerows((name, text) for text in texts.get(image_id.decode(), [""]))
    with atomic_write(out) as file:
        file.write(buffer.getvalue().encode("utf-8", "replace"))


def with_job(
    data: DataOptions,
    options: DescribeOptions,
    work: Path,
    use: Callable[[DescribeJob], T],
    *,
    of_classes: bool = False,
) -> T:
    """Open the images or their classes, the store and the describers, and return the result of `use` for the job."""
    workdir = WorkDir(work)
    store = DescriptionStore(workdir.class_texts if of_classes else workdir.description_store)

    def open_and_use() -> T:
        read_prompts(options)  # before scanning the images, which may take long
        if options.confusions is not None:
            require_finished(options.confusions)
        with open_session(options) as session:
            images = open_images(data, workdir)
            if of_classes:
                images = class_table(images, options)
            with hold_store(store):
                confused = confused_classes(images, options, workdir)
                return use(open_job(images, store, session, options, confused, pictures=not of_classes))

    return run_in_thread_if_needed(open_and_use)


def confused_classes(
    images: ImageTable, options: DescribeOptions, workdir: WorkDir
) -> Mapping[int, tuple[int, ...]] | None:
    """Return the labels of the classes that a trained run confuses with each class, if the options name a run.

    They are kept in the work directory because prompts name these classes, and a prompt that changed when images are
    added would be paid for again.

    Raises:
        ConfigError: the run was trained on other classes.
        StoreError: there is no finished run.
    """
    if options.confusions is None:
        return None
    from gpt4image.compare.predictions import validation_confusion
    from gpt4image.train.run import open_run

    run = open_run(options.confusions)
    if list(map(compose, run.classes)) != list(map(compose, images.classes)):
        raise ConfigError(f"{options.confusions} was trained on other classes than those of {images.source}.")
    identity = digest(hash_file(run.layout.weights), *run.classes)
    kept = workdir.description_store / "confusions" / f"{identity}.json"
    if not kept.exists():
        found = most_confused(validation_confusion(run, images, workdir.features))
        write_json(kept, {str(label): others for label, others in found.items()})
    return {int(label): tuple(others) for label, others in read_json(kept).items()}


def preview_items(job: DescribeJob, chosen: Tasks) -> list[PreviewItem]:
    """Return the outcomes of tasks, with their images and questions."""
    records = {record.key: record for record in job.records_of(chosen)}
    maker = RequestMaker(job.images, job.question, chosen)
    thumbnails = image_thumbnails(job.images)
    items = []
    for number, key in enumerate(chosen.keys.tolist()):
        record = records.get(key.decode())
        if record is None:
            continue
        row = int(chosen.rows[number])
        asked = request_or_error(maker, number)
        system, turns = (None, ()) if isinstance(asked, ImageError) else (asked.system, asked.turns)
        items.append(
            PreviewItem(
                record=record,
                path=job.images.path(row),
                label=job.images.label_of(row),
                thumbnail=thumbnails(record.image_id),
                system=system,
                turns=turns,
            )
        )
    return items


def preview_lines(items: Sequence[PreviewItem]) -> Iterator[str]:
    """Yield each item as text for the terminal, with control characters made visible.

    The most frequent error message is left out, because the notes on the run quote it.
    """
    details = Counter(item.record.detail for item in items if not item.record.answered)
    quoted = next((detail for detail, _ in details.most_common(1)), "")
    for item in items:
        where = f"{item.path} ({item.label})" if item.label else item.path
        record = replace(item.record, detail="") if item.record.detail == quoted else item.record
        text = record.text if record.answered else f"failed: {outcome_of(record)}"
        yield f"{printable(where)}, {record.prompt}:\n  {printable(text)}"
