"""Describe jobs against the stub server, put together as the command line does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt4image import load_images
from gpt4image.describe.clients import open_session
from gpt4image.describe.job import DescribeJob, open_job
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.runner import Ledger, RunSettings, run_tasks
from gpt4image.describe.tally import Tally
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from support.stub_scenario import MODEL, Entry

ALL = ("train", "validation", "test")


@contextmanager
def opened(image_set: Path, work: Path, *urls: str, **options) -> Iterator[DescribeJob]:
    chosen = DescribeOptions(**{"model": MODEL, "base_url": urls, "splits": ALL, **options})
    with open_session(chosen) as session:
        images = load_images(image_set, work=work)
        yield open_job(images, DescriptionStore(work / "descriptions"), session, chosen)


def described(image_set: Path, work: Path, *urls: str, patience: RunSettings | None = None, **options) -> Tally:
    with opened(image_set, work, *urls, **options) as job, job.store.writer() as writer:
        maker, session = RequestMaker(job.images, job.question, job.plan()), job.session
        with job.store.conversations() as conversations:
            ledger = Ledger(maker, writer, job.budget(), conversations)
            return run_tasks(maker, session.describers, ledger, session.loop, patience)


def store_in(work: Path) -> DescriptionStore:
    return DescriptionStore(work / "descriptions")


def cost_of(log: Iterable[Entry]) -> float:
    """Return what the server's requests cost, at 10 dollars per million tokens read and 20 per million written."""
    return sum(10.0 * entry.tokens_in + 20.0 * entry.tokens_out for entry in log if entry.paid) / 1e6


def records(work: Path) -> list[DescriptionRecord]:
    return store_in(work).current()


def mark_in(record: DescriptionRecord) -> bool:
    """Whether the text describes the image of its record: the stub server repeats a mark of the image."""
    return record.image_id[:12] in record.text
