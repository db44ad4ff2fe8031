"""A describe job whose tasks go through a vendor's batch interface."""

from __future__ import annotations

from gpt4image.describe.batch.run import run_batches
from gpt4image.describe.batch.server import BatchServer
from gpt4image.describe.describers.known import key_for
from gpt4image.describe.job import DescribeJob
from gpt4image.describe.runner import Tally
from gpt4image.describe.tasks import RequestMaker, Tasks


def describe_in_batches(job: DescribeJob, tasks: Tasks) -> Tally:
    """Have tasks described through the batch interface, batches that are under way already included.

    Raises:
        DescribeError: no request can go well, or the server is gone. Batches under way go on at the server.
        KeyboardInterrupt: the job was stopped. Batches under way go on at the server.
    """
    place = job.session.describers[0].place
    server = BatchServer(job.question.model, place, key_for(place, job.options.key_env))
    spent = job.store.spent(job.question.model).cost
    budget = job.budget_of(job.options.budget, spent, batch=True)
    maker = RequestMaker(job.images, job.question, tasks)
    with job.store.writer() as writer:
        return run_batches(maker, server, job.store, writer, job.batch_folder, budget)
