"""What counts as the same question, and what outlives a machine: neither is paid for twice."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest

from gpt4image import load_images
from gpt4image.core.errors import ImageError, StoreError
from gpt4image.describe.question import Question
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.prompts import PromptValues, load_prompts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store import shards as parts
from gpt4image.llm.base import Sampling
from support.describing import described, opened, records, store_in
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36


def settings_sent(server) -> list[dict]:
    return [entry.settings for entry in server.log if entry.paid]


def test_another_name_of_a_class_is_another_question(image_set, tmp_path):
    path = tmp_path / "names.json"
    options = {"prompts": ("class-conditioned",), "class_names": path}
    with StubServer() as server:
        for number, name in enumerate(("tench", "goldfish")):
            path.write_text(json.dumps({"red": name}))
            asked = described(image_set, tmp_path, server.base_url, **options).total
            assert asked == (12 if number else IMAGES), "the other classes are asked about once"
        questions = [entry.question for entry in server.log if entry.paid]
    assert sum("goldfish" in question for question in questions) == 12


@pytest.mark.parametrize("changed", [{"model": "b"}, {"max_side": 32}, {"max_tokens": 7}, {"seed": 3}])
def test_what_changes_the_answer_is_another_question(image_set, tmp_path, changed):
    first = {"model": "a", "max_side": 40, "max_tokens": 9, "seed": 2}
    with StubServer(Scenario(models=("a", "b"))) as server:
        assert described(image_set, tmp_path, server.base_url, **first).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, **first).total == 0
        assert described(image_set, tmp_path, server.base_url, **{**first, **changed}).total == IMAGES


def test_every_sample_has_a_seed_of_its_own(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, samples=2, seed=5, temperature=0.7)
        sent = [entry["seed"] for entry in settings_sent(server)]
    assert sorted(sent) == [5] * IMAGES + [6] * IMAGES


def test_what_is_written_again_is_drawn_as_it_was_asked_to(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, temperature=0.1)
        again = [record.key for record in records(tmp_path)[:3]]
        store_in(tmp_path).mark(again, "retry", "refusal")
        tally = described(image_set, tmp_path, server.base_url, temperature=0.1, retry_temperature=0.9)
        assert tally.answered == 3
        assert [sent["temperature"] for sent in settings_sent(server)] == [0.1] * IMAGES + [0.9] * 3
    assert sum('"temperature": 0.9' in record.settings for record in records(tmp_path)) == 3


def test_failures_of_the_past_are_not_counted_as_done(image_set, images, tmp_path):
    mark = images.ids[5].decode()[:12]
    with StubServer(Scenario(faults=(Fault("invalid_image", mark=mark),))) as server:
        described(image_set, tmp_path, server.base_url)
        for retry, expected in ((False, (0, 35, 1)), (True, (1, 35, 0))):
            with opened(image_set, tmp_path, server.base_url, retry_failed=retry) as job:
                plan = job.plan()
            assert (len(plan), plan.done, plan.failed) == expected


def test_answers_are_brought_to_the_disk(image_set, tmp_path, monkeypatch):
    """While the job goes on, and all of them at its end."""
    synced, sync = [], os.fsync

    def count(file: int) -> None:
        synced.append((os.fstat(file).st_ino, os.fstat(file).st_size))
        sync(file)

    monkeypatch.setattr(parts.os, "fsync", count)
    with StubServer(Scenario(latency=0.2, slots=4)) as server:
        described(image_set, tmp_path, server.base_url)
    (part,) = (tmp_path / "descriptions" / "parts").glob("*.jsonl")
    sizes = [size for node, size in synced if node == part.stat().st_ino]
    assert sizes[-1] == part.stat().st_size
    assert any(0 < size < sizes[-1] for size in sizes)


def test_a_part_is_not_closed_while_it_goes_to_the_disk(tmp_path, monkeypatch):
    """The event loop closes a file of conversations that another thread brings to the disk."""
    begun, failed, sync = threading.Event(), [], os.fsync

    def slow(file: int) -> None:
        begun.set()
        time.sleep(0.3)
        try:
            sync(file)
        except OSError as error:
            failed.append(error)

    writer = store_in(tmp_path).writer()
    writer.write(DescriptionRecord("a" * 32, "i", "text"))
    monkeypatch.setattr(parts.os, "fsync", slow)
    thread = threading.Thread(target=writer.sync)
    thread.start()
    begun.wait()
    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "fsync", sync)
        writer.close()
    thread.join()
    writer.sync()
    assert not failed and len(records(tmp_path)) == 1


def test_a_record_that_was_written_in_half_is_taken_back(tmp_path, monkeypatch):
    """As on a disk that becomes full: the system takes a part of what it is given."""
    write = os.write
    with store_in(tmp_path).writer() as writer:
        writer.write(DescriptionRecord("a" * 32, "i", "whole"))
        monkeypatch.setattr(parts.os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(StoreError, match="free some space"):
            writer.write(DescriptionRecord("b" * 32, "i", "half"))
        monkeypatch.setattr(parts.os, "write", write)
        assert writer.path.read_bytes().endswith(b"}\n")
        writer.write(DescriptionRecord("c" * 32, "i", "whole again"))
    assert [record.key[0] for record in records(tmp_path)] == ["a", "c"]


def test_parts_that_were_put_together_do_not_count_twice(image_set, tmp_path):
    """A process was killed before it could delete the old parts."""
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "parts"
    with StubServer() as server:
        for prompt in ("plain", "attributes"):
            described(image_set, tmp_path, server.base_url, prompts=(prompt,), price_in=1.0, price_out=1.0)
    before = store.spent()
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    store.compact()
    for old in kept.glob("*.jsonl"):
        shutil.copy(old, folder)
    assert len(list(folder.glob("*.jsonl"))) == 2 and len(list(folder.glob("*.parquet"))) == 1
    assert store.spent().cost == pytest.approx(before.cost)
    assert len(list(store.records())) == 2 * IMAGES
    store.compact()
    assert not list(folder.glob("*.jsonl"))
    assert len(list(store.records())) == 2 * IMAGES


def test_the_few_of_an_estimate_are_found_without_the_others(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url)
        with opened(image_set, tmp_path, server.base_url) as job:
            few = job.first(3)
            assert sorted(record.key for record in job.records_of(few)) == [key.decode() for key in few.keys.tolist()]


def test_how_a_number_is_written_does_not_make_another_question(image_set, tmp_path):
    """The command line reads 1 as 1.0."""
    with StubServer() as server:
        assert described(image_set, tmp_path, server.base_url, temperature=1, top_p=1).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, temperature=1.0, top_p=1.0).total == 0
        assert described(image_set, tmp_path, server.base_url, temperature=1.5, top_p=1).total == IMAGES


def test_an_image_that_changed_since_it_was_checked_is_not_asked_about(image_set, tmp_path):
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
