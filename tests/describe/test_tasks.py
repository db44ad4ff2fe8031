"""Tasks and their requests."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from gpt4image import load_images
from gpt4image.core.errors import ImageError
from gpt4image.describe.question import Question
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.base import Sampling
from support.describing import described, opened, records, store_in
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36


def settings_sent(server) -> list[dict]:
    return [entry.settings for entry in server.log if entry.paid]


def test_each_sample_has_its_own_seed(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, samples=2, seed=5, temperature=0.7)
        sent = [entry["seed"] for entry in settings_sent(server)]
    assert sorted(sent) == [5] * IMAGES + [6] * IMAGES


def test_retry_uses_retry_temperature(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, temperature=0.1)
        again = [record.key for record in records(tmp_path)[:3]]
        store_in(tmp_path).mark(again, "retry", "refusal")
        tally = described(image_set, tmp_path, server.base_url, temperature=0.1, retry_temperature=0.9)
        assert tally.answered == 3
        assert [sent["temperature"] for sent in settings_sent(server)] == [0.1] * IMAGES + [0.9] * 3
    assert sum('"temperature": 0.9' in record.settings for record in records(tmp_path)) == 3


def test_plan_counts_earlier_failures_apart(image_set, images, tmp_path):
    mark = images.ids[5].decode()[:12]
    with StubServer(Scenario(faults=(Fault("invalid_image", mark=mark),))) as server:
        described(image_set, tmp_path, server.base_url)
        for retry, expected in ((False, (0, 35, 1)), (True, (1, 35, 0))):
            with opened(image_set, tmp_path, server.base_url, retry_failed=retry) as job:
                plan = job.plan()
            assert (len(plan), plan.done, plan.failed.total()) == expected


def test_image_that_changed_since_the_scan_raises(image_set, tmp_path):
    folder = shutil.copytree(image_set, tmp_path / "images")
    images = load_images(folder)
    question = Question("m", tuple(load_prompts(["plain"])), PromptValues(images.classes), Sampling())
    tasks = plan_tasks(images, np.arange(1), question, DescriptionStore(tmp_path / "descriptions"))
    maker = RequestMaker(images, question, tasks)
    assert maker.request(0).image_id == images.ids[0].decode()
    with (folder / images.path(0)).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ImageError, match="has changed since it was checked"):
        maker.request(0)
