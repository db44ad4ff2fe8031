"""Replay: a recorded set answers in place of a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt4image.core.errors import DescribeError, DescriptionError
from gpt4image.core.files import digest
from gpt4image.describe.replay import ReplayDescriber
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.exchange import export_descriptions, import_descriptions
from gpt4image.descriptions.prompts import Prompt, load_prompts
from gpt4image.descriptions.store import DescriptionStore
from gpt4image.llm.base import DescribeRequest, RequestFailedError, Sampling
from gpt4image.llm.picture import Picture
from support.stored import ask, fill, shared_rows

PLAIN, QUESTIONS, ATTRIBUTES = load_prompts(["plain", "questions", "attributes"])


@pytest.fixture(scope="module")
def work(images, tmp_path_factory):
    """Two prompts of one model, two samples of another."""
    return fill(tmp_path_factory.mktemp("work"), images, ask("m/1"), ask("m2", ["plain"], samples=2))


@pytest.fixture(scope="module")
def shared(work, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared") / "set"
    export_descriptions(work, images, out, images_inside=False)
    return out


def request(image_id: str, prompt: Prompt, sample: int = 0, key: str | None = None) -> DescribeRequest:
    return DescribeRequest(
        key=key or digest("another setting", image_id, prompt.hash, str(sample)),
        image_id=image_id,
        name="red/001.png",
        pictures=(Picture(b"", "image/png", 1, 1),),
        system=prompt.system,
        turns=prompt.turns,
        sampling=Sampling(),
        prompt_hash=prompt.hash,
        sample=sample,
    )


def ask_one(describer: ReplayDescriber, asked: DescribeRequest):
    return asyncio.run(describer.describe(asked))


@pytest.mark.parametrize("form", ["work directory", "store", "exported folder", "Parquet file", "JSON Lines"])
def test_every_recorded_answer_is_replayed(work, shared, tmp_path, form):
    pq.write_table(pa.Table.from_pylist(shared_rows(shared)), tmp_path / "all.parquet")
    place = {
        "work directory": work.folder.parent,
        "store": work.folder,
        "exported folder": shared,
        "Parquet file": tmp_path / "all.parquet",
        "JSON Lines": shared / "metadata.jsonl",
    }[form]
    prompts = {prompt.hash: prompt for prompt in (PLAIN, QUESTIONS)}
    describers = {model: ReplayDescriber(place, model=model) for model in ("m/1", "m2")}
    for record in work.current():
        asked = request(record.image_id, prompts[record.prompt_hash], record.sample)
        reply = ask_one(describers[record.model], asked)
        assert reply.texts == (record.text,)
        assert (reply.tokens_in, reply.tokens_out) == (record.tokens_in, record.tokens_out)
        assert (reply.finish_reason, reply.model) == (record.finish_reason, record.served_model)
    assert {describer.model for describer in describers.values()} == {"m/1", "m2"}


def test_replayed_job_writes_the_same_records(work, shared, images, tmp_path):
    """The one text of a conversation stays as it is, and keys are the same as before."""
    question = ask("m/1")
    describer = ReplayDescriber(shared, model="m/1", prompts=question.prompts)
    asyncio.run(describer.check())
    store = DescriptionStore(tmp_path / "descriptions")
    maker = RequestMaker(images, question, plan_tasks(images, np.arange(len(images)), question, store))
    with store.writer() as writer:
        for number in range(len(maker)):
            reply = ask_one(describer, maker.request(number))
            writer.write(replace(maker.record(number), **maker.outcome(number, reply)))
    first = {record.key: record.text for record in work.current() if record.model == "m/1"}
    assert {record.key: record.text for record in store.current()} == {key: text.strip() for key, text in first.items()}


def test_same_key_is_preferred_to_the_sample_number(images, tmp_path):
    store = fill(tmp_path, images, ask("m", ["plain"]))
    record = store.current()[0]
    other = replace(record, key=digest("larger picture"), text="larger", created="2020-01-01T00:00:00.000000+00:00")
    with store.writer() as writer:
        writer.write(other)
    describer = ReplayDescriber(tmp_path)
    assert ask_one(describer, request(record.image_id, PLAIN, key=record.key)).texts == (record.text,)
    assert ask_one(describer, request(record.image_id, PLAIN, key=other.key)).texts == ("larger",)
    assert ask_one(describer, request(record.image_id, PLAIN)).texts == ("larger",)
    assert ask_one(describer, request(record.image_id, PLAIN, sample=1)).texts == (record.text,)


@pytest.mark.parametrize(("image", "sample"), [("elsewhere", 0), ("first", 1), ("last", 1), ("last", 99)])
def test_unrecorded_question_is_not_retryable(work, shared, images, image, sample):
    ids = sorted(images.ids.tolist())
    image_id = {"elsewhere": digest("x"), "first": ids[0].decode(), "last": ids[-1].decode()}[image]
    with pytest.raises(RequestFailedError, match=r"not recorded: red/001\.png, sample") as caught:
        ask_one(ReplayDescriber(shared, model="m/1"), request(image_id, PLAIN, sample))
    assert (caught.value.reason, caught.value.retryable) == ("not recorded", False)


def test_dropped_texts_and_failures_are_not_replayed(images, tmp_path):
    store = fill(tmp_path, images, ask("m", ["plain"]))
    dropped, failed, *_ = store.current()
    store.mark([dropped.key], "drop", "refusal")
    with store.writer() as writer:
        writer.write(replace(failed, key=digest("x"), image_id=digest("y"), text="", error="time limit"))
    describer = ReplayDescriber(tmp_path)
    for asked in (request(dropped.image_id, PLAIN, key=dropped.key), request(digest("y"), PLAIN, key=digest("x"))):
        with pytest.raises(RequestFailedError):
            ask_one(describer, asked)


def test_recorded_thinking_is_not_replayed(images, tmp_path):
    work = fill(tmp_path, images, ask("m/1", ["plain"]))
    thought, cut, *_ = work.current()
    with work.writer() as writer:
        writer.write(replace(thought, text=f"<think>A cat?</think>\n{thought.text}", created="2999"))
        writer.write(replace(cut, text="<think>A cat?", created="2999"))
    describer = ReplayDescriber(work.folder, model="m/1")
    assert ask_one(describer, request(thought.image_id, PLAIN)).texts == (thought.text,)
    with pytest.raises(RequestFailedError, match="thought without answering"):
        ask_one(describer, request(cut.image_id, PLAIN))


def test_unrecorded_prompt_fails_the_check(shared):
    changed = Prompt("plain", ("Describe the image in a word.",))
    for prompt, models in ((ATTRIBUTES, "m/1"), (changed, "m/1"), (QUESTIONS, "m2")):
        describer = ReplayDescriber(shared, model=models, prompts=[PLAIN, prompt])
        with pytest.raises(DescribeError, match=rf"'{prompt.name}' as it is now.*plain \({PLAIN.hash}\)"):
            asyncio.run(describer.check())
        with pytest.raises(DescribeError, match=f"of hash {prompt.hash}"):
            ask_one(describer, request(digest("x"), prompt))
    asyncio.run(ReplayDescriber(shared, model="m/1", prompts=[PLAIN, QUESTIONS]).check())


def test_recording_of_several_models_needs_a_name(shared, work):
    for place in (shared, work.folder.parent):
        with pytest.raises(DescribeError, match=r"several models: m/1, m2\. Name one as model"):
            ReplayDescriber(place)
    with pytest.raises(DescribeError, match=r"Unknown model 'gpt'.*Known: m/1, m2"):
        ReplayDescriber(shared, model="gpt")


def test_unusable_recording_is_rejected(shared, images, tmp_path):
    with pytest.raises(DescriptionError, match="does not exist"):
        ReplayDescriber(tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("path,text\nx,y\n")
    with pytest.raises(DescribeError, match="does not record which questions its texts answer"):
        ReplayDescriber(tmp_path / "a.csv")
    row = shared_rows(shared)[0]
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "image_id": None}) + "\n")
    with pytest.raises(DescribeError, match=r"line 1: has no image_id"):
        ReplayDescriber(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "key": "no"}) + "\n")
    with pytest.raises(DescriptionError, match=r"line 1: key: must be 32 hex digits"):
        ReplayDescriber(tmp_path / "a.jsonl")
    (tmp_path / "work" / "descriptions" / "parts").mkdir(parents=True)
    with pytest.raises(DescribeError, match="has no answers"):
        ReplayDescriber(tmp_path / "work")


def test_imported_texts_of_unknown_prompt_are_listed_as_imported(images, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": images.path(0), "text": "a disc"}))
    store = DescriptionStore(tmp_path / "work" / "descriptions")
    import_descriptions(tmp_path / "a.jsonl", images, store)
    with pytest.raises(DescribeError, match=r"Recorded: imported \(hash not known\)"):
        asyncio.run(ReplayDescriber(tmp_path / "work", prompts=[PLAIN]).check())
