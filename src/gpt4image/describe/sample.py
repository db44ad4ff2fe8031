"""A few descriptions to read, before all of them are paid for."""

from __future__ import annotations

from pathlib import Path

from gpt4image import console
from gpt4image.describe.describers.base import DescribeRequest
from gpt4image.describe.job import DescribeJob, outcome_of
from gpt4image.describe.pages.preview import PreviewHead, PreviewItem, write_preview
from gpt4image.describe.pages.thumbnails import image_thumbnails
from gpt4image.describe.store.parts import now
from gpt4image.describe.store.records import DescriptionRecord
from gpt4image.describe.tasks import RequestMaker, Tasks
from gpt4image.errors import ConfigError, ImageError


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
