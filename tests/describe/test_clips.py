"""Clips described: several frames in one request, in the key, in batches and in the estimate."""

from __future__ import annotations

import json

import pytest

from gpt4image import load_images
from gpt4image.core.errors import DescribeError
from gpt4image.describe.estimate import estimate
from gpt4image.describe.options import DescribeOptions
from gpt4image.describe.tasks import RequestMaker
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.chat import chat_body
from support.clips import write_clip_set
from support.describing import DescribeJob, open_job, open_session
from support.stub_server import MODEL, StubServer

ALL = ("train", "validation", "test")


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("clips") / "set")


@pytest.fixture
def server():
    with StubServer() as server:
        yield server


def job_of(clip_set, work, session, frames=3, **options) -> DescribeJob:
    images = load_images(clip_set, work=work, frames=frames)
    return open_job(images, DescriptionStore(work / "descriptions"), session, chosen(**options))


def chosen(**options) -> DescribeOptions:
    return DescribeOptions(**{"model": MODEL, "splits": ALL, "max_side": 32, "price_in": 1, "price_out": 10, **options})


def test_request_holds_the_frames_in_order_and_says_what_they_are(clip_set, tmp_path, server):
    with open_session(chosen(base_url=(server.base_url,))) as session:
        job = job_of(clip_set, tmp_path, session)
        maker = RequestMaker(job.images, job.question, job.plan())
        request = maker.request(0)
        assert [(picture.width, picture.height) for picture in request.pictures] == [(32, 32)] * 3
        assert request.turns[0].startswith("These 3 pictures are frames of one video clip, in the order of time.")
        content = chat_body("m", request, ())["messages"][0]["content"]
        assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]
        assert [part["image_url"]["url"] for part in content[:3]] == [each.data_url for each in request.pictures]
        with pytest.raises(DescribeError, match="one picture per request"):
            _ = request.picture


def test_number_of_frames_is_part_of_the_key_and_of_the_settings(clip_set, tmp_path, server):
    with open_session(chosen(base_url=(server.base_url,))) as session:
        keys = {}
        for frames in (2, 3):
            job = job_of(clip_set, tmp_path, session, frames)
            keys[frames] = set(job.plan().keys.tolist())
            record = RequestMaker(job.images, job.question, job.plan()).record(0)
            assert json.loads(record.settings) == {"frames": f"{frames} even 768", "max_side": 32, "max_tokens": 300}
        assert not keys[2] & keys[3] and len(keys[2]) == len(keys[3]) == 18


def test_estimate_states_the_frames_and_measures_what_they_cost(clip_set, tmp_path, server):
    with open_session(chosen(base_url=(server.base_url,))) as session:
        few, many = (estimate(job_of(clip_set, tmp_path, session, frames), sizes=(24, 48)) for frames in (2, 6))
    assert "clips: 2 frames each, evenly spaced, up to 768 pixels, in one request" in "\n".join(few.lines())
    assert few.fields()["frames"] == 2 and few.remaining == many.remaining == 10
    assert many.tokens_in - few.tokens_in == pytest.approx(4 * 255, abs=2)  # a tile each, in the stub's tokens
    assert many.dollars() > few.dollars()
    assert "input tokens of the frames of a clip and their question" in "\n".join(few.lines())
