"""A job's plan: what is asked now, what waits in a batch."""

import numpy as np

from gpt4image.describe import job as job_module
from support.describing import opened
from support.stub_server import StubServer

IMAGES = 36


def test_tasks_inside_a_batch_are_planned_for_the_batch_interface_only(image_set, tmp_path, monkeypatch):
    """For workers too: they plan their shards themselves."""
    with StubServer() as server, opened(image_set, tmp_path, server.base_url) as job:
        held = job.plan().keys[::4]
        job.batch_folder.mkdir(parents=True)
        monkeypatch.setattr(job_module, "keys_under_way", lambda folder: held)
        plan = job.plan()
        assert (len(plan), plan.in_batches) == (IMAGES - len(held), len(held))
        assert not np.isin(plan.keys, held).any()
        assert not np.isin(job.first(IMAGES).keys, held).any()
        assert len(job.unanswered()) == IMAGES
