"""The runner against a misbehaving server: every image ends as one record, and passing trouble is waited out."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.describe.runner import RunSettings
from gpt4image.descriptions.store import DescriptionStore
from support.describing import described, mark_in, opened, records
from support.stub_scenario import Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36
PASSING = (
    Fault("empty", every=19),
    Fault("html", every=17),
    Fault("truncated", every=13),
    Fault("cut_body", every=11),
    Fault("cut", every=9),
    Fault("status", status=503, every=8),
    Fault("rate_limit", every=7, seconds=0.2),
    Fault("rate_limit", every=5),
    Fault("status", status=500, every=3),
)
LASTING = {
    "server error 500": Fault("status", status=500),
    "refused by the server (400)": Fault("invalid_image"),
    "refused by the server (413)": Fault("too_large"),
    "empty answer": Fault("null"),
    "refused by the model": Fault("refusal"),
    "stopped by the content filter": Fault("content_filter"),
    "unreadable answer": Fault("truncated"),
    "connection cut": Fault("cut"),
    "time limit": Fault("slow", seconds=12.0),
}


def test_each_image_is_described_once_and_a_rerun_asks_nothing(image_set, tmp_path):
    with StubServer() as server:
        tally = described(image_set, tmp_path, server.base_url)
        assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
        found = records(tmp_path)
        assert len({record.image_id for record in found}) == IMAGES
        assert all(map(mark_in, found))
        assert all(r.tokens_in and r.tokens_out and r.finish_reason == "stop" and r.cost == 0 for r in found)
        assert described(image_set, tmp_path, server.base_url, at_once=3).total == 0
        assert set(server.answers_by_mark.values()) == {1}


def test_new_prompts_and_samples_ask_for_new_descriptions_only(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url)
        assert described(image_set, tmp_path, server.base_url, prompts=("plain", "class-conditioned")).total == IMAGES
        assert described(image_set, tmp_path, server.base_url, samples=3, temperature=0.7).total == 3 * IMAGES
        assert described(image_set, tmp_path, server.base_url, samples=4, temperature=0.7).total == IMAGES
        questions = {entry.question for entry in server.log if entry.endpoint == "chat"}
    assert any("This is a picture of: red." in question for question in questions)
    assert len(records(tmp_path)) == 6 * IMAGES


def test_conversation_repeats_its_answers(image_set, tmp_path):
    with StubServer() as server:
        described(image_set, tmp_path, server.base_url, prompts=("questions",))
        turns = Counter(entry.turn for entry in server.log if entry.endpoint == "chat")
        assert turns == {1: IMAGES, 2: IMAGES, 3: IMAGES}
        assert all(entry.system for entry in server.log if entry.endpoint == "chat")
        first = server.log[-1]
    record = next(r for r in records(tmp_path) if r.image_id.startswith(first.mark))
    assert record.text.count(record.image_id[:12]) == 3
    assert record.tokens_out == len(record.text.split())


@pytest.mark.slow
def test_passing_failures_are_retried(image_set, tmp_path):
    patience = RunSettings(attempts=12, max_failures_at_first=10**6)
    with StubServer(Scenario(faults=PASSING, latency=0.01)) as server:
        tally = described(image_set, tmp_path, server.base_url, patience=patience)
        assert {entry.fault for entry in server.log} >= {fault.kind for fault in PASSING}
    assert (tally.answered, tally.failures.total()) == (IMAGES, 0)
    assert tally.tried_again > 0
    assert all(map(mark_in, records(tmp_path)))


@pytest.mark.parametrize("reason", LASTING)
@pytest.mark.slow
def test_image_that_always_fails_is_recorded_and_delays_no_other(image_set, images, tmp_path, reason):
    image_id = images.ids[5].decode()
    fault = replace(LASTING[reason], mark=image_id[:12])
    patience = RunSettings(image_seconds=5.0 if reason == "time limit" else 180.0, attempts=2)
    with StubServer(Scenario(faults=(fault,))) as server:
        tally = described(image_set, tmp_path, server.base_url, patience=patience)
        assert (tally.failures, tally.answered) == ({reason: 1}, IMAGES - 1)
        failed = [record for record in records(tmp_path) if not record.answered]
        assert [(record.image_id, record.text) for record in failed] == [(image_id, "")]
        asked = len(server.log)
        assert described(image_set, tmp_path, server.base_url).total == 0
        assert [entry.endpoint for entry in server.log[asked:]] == ["models"]
    with StubServer() as healthy:
        assert described(image_set, tmp_path, healthy.base_url, retry_failed=True).answered == 1
    assert all(map(mark_in, records(tmp_path)))


def test_failed_requests_cost_their_tokens(image_set, images, tmp_path):
    scenario = Scenario(faults=(Fault("empty", mark=images.ids[5].decode()[:12], times=2),))
    with StubServer(scenario) as server:
        described(image_set, tmp_path, server.base_url, price_in=1.0, price_out=1.0)
        paid = [entry for entry in server.log if entry.paid and images.ids[5].decode().startswith(entry.mark)]
    one, another = (next(r for r in records(tmp_path) if r.image_id == images.ids[i].decode()) for i in (5, 6))
    assert len(paid) == 3
    assert one.tokens_in == 3 * another.tokens_in
    assert one.cost == pytest.approx((one.tokens_in + one.tokens_out) / 1e6)


@pytest.mark.slow
def test_full_server_is_not_overrun(image_set, tmp_path):
    with StubServer(Scenario(slots=3, when_full="429", latency=0.05, retry_after="none")) as server:
        tally = described(image_set, tmp_path, server.base_url, samples=6, temperature=1.0, at_once=32)
        assert tally.answered == 6 * IMAGES
        late = [entry.fault for entry in server.log if entry.endpoint == "chat"][-5 * IMAGES :]
    assert late.count("full") < 0.2 * len(late)


@pytest.mark.slow
def test_no_image_times_out_in_a_queue(image_set, tmp_path):
    with StubServer(Scenario(slots=1, latency=0.15)) as server:
        patience = RunSettings(image_seconds=3.0)
        tally = described(image_set, tmp_path, server.base_url, samples=3, temperature=1.0, patience=patience)
        assert (tally.answered, tally.failures.total()) == (3 * IMAGES, 0)
        assert server.peak_concurrency < 12


@pytest.mark.slow
def test_retry_after_is_obeyed(image_set, tmp_path):
    scenario = Scenario(faults=(Fault("rate_limit", numbers=(5,), seconds=3.0),), latency=0.01)
    with StubServer(scenario) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES
        chat = [entry for entry in server.log if entry.endpoint == "chat"]
    limited = next(entry for entry in chat if entry.fault)
    later = [entry.at for entry in chat if entry.at > limited.done_at + 0.5]  # others were open
    assert min(later) - limited.done_at > 2.9


@pytest.mark.parametrize("retry_after", ["seconds", "date", "ms", "reset", "none"])
def test_rate_limit_by_time_window_is_obeyed(image_set, tmp_path, retry_after):
    with StubServer(Scenario(rate_limit=20, rate_window=1.0, retry_after=retry_after)) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES


@pytest.mark.slow
def test_slow_start_is_waited_out(image_set, tmp_path):
    with StubServer(Scenario(ready_after=2.0)) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES


def test_run_stops_when_everything_fails(image_set, tmp_path):
    scenario = Scenario(faults=(Fault("invalid_image"),))
    with StubServer(scenario) as server, pytest.raises(DescribeError, match=r"20 descriptions in a row.*400") as ended:
        described(image_set, tmp_path, server.base_url, at_once=4)
    assert str(ended.value).count("refused by the server") == 1 and ".." not in str(ended.value)


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        (Scenario(expected_key="sk-right"), {}, "the server requires a key.*key_env"),
        (Scenario(expected_key="sk-right"), {"key_env": "STUB_KEY"}, "rejects the key in STUB_KEY"),
        (Scenario(models=("a", "b")), {"model": "c"}, "no model 'c'.*It has: a, b"),
        (Scenario(models=("a", "b")), {"model": None}, "Set model .* It has: a, b"),
        (Scenario(no_temperature=True), {"temperature": 0.5}, "omit temperature"),
        (Scenario(faults=(Fault("quota"),)), {}, "no credit left"),
        (Scenario(faults=(Fault("unknown_model"),)), {}, "no model"),
    ],
)
def test_error_that_fails_every_request_stops_the_run_at_once(
    image_set, tmp_path, monkeypatch, scenario, options, message
):
    monkeypatch.setenv("STUB_KEY", "sk-wrong-0123456789")
    with StubServer(scenario) as server:
        with pytest.raises(DescribeError, match=f"(?s){message}") as raised:
            described(image_set, tmp_path, server.base_url, **options)
        assert sum(entry.endpoint == "chat" for entry in server.log) <= 4
    assert "sk-wrong" not in str(raised.value)
    assert records(tmp_path) == []


def test_key_from_the_environment_is_used(image_set, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_KEY", "sk-right")
    with StubServer(Scenario(expected_key="sk-right")) as server:
        assert described(image_set, tmp_path, server.base_url, key_env="STUB_KEY").answered == IMAGES


def test_max_completion_tokens_is_used_where_the_server_wants_it(image_set, tmp_path):
    with StubServer(Scenario(no_max_tokens=True)) as server:
        assert described(image_set, tmp_path, server.base_url, max_tokens=77).answered == IMAGES
        assert {e.settings.get("max_completion_tokens") for e in server.log if e.paid} == {77}


def test_hostile_answers_are_stored_as_text(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("hostile"),))) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES
    DescriptionStore(tmp_path / "descriptions").compact()
    texts = {record.text for record in records(tmp_path)}
    assert any("<script>" in text and "\x1b" in text for text in texts)


def test_changed_and_missing_files_fail_alone(image_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(image_set, folder)
    with StubServer() as server, opened(folder, tmp_path / "work", server.base_url) as job:
        (folder / "red" / "000.png").write_bytes((folder / "red" / "001.png").read_bytes())
        (folder / "red" / "002.png").unlink()
        tally = job.run(job.plan())
    assert (tally.failures, tally.answered) == ({"unreadable picture": 2}, IMAGES - 2)
    details = sorted(r.detail for r in records(tmp_path / "work") if not r.answered)
    assert "red/000.png" in details[0] and "changed" in details[0] and "red/002.png" in details[1]
