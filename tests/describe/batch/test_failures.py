"""Failures of requests, batches and the server, and their consequences."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from gpt4image.core.errors import BusyError, ConfigError, DescribeError
from gpt4image.core.files import exclusive
from gpt4image.describe.batch.run import BatchSettings, run_batches
from gpt4image.descriptions.store.shards import RecordWriter
from gpt4image.llm.batch_api import BatchServer
from gpt4image.llm.budget import Budget
from gpt4image.llm.credentials import ApiKey
from support.batching import IMAGES, QUICK, batched, count, leftovers, make_maker, records, settle, state_of, store_of
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubServer

LASTING = {
    "server error 500": Fault("status", on="line", status=500),
    "too many requests": Fault("rate_limit", on="line"),
    "refused by the server (400)": Fault("invalid_image", on="line"),
    "refused by the server (413)": Fault("too_large", on="line"),
    "empty answer": Fault("null", on="line"),
    "refused by the model": Fault("refusal", on="line"),
    "stopped by the content filter": Fault("content_filter", on="line"),
    "cut off while thinking": Fault("thinking_cut", on="line"),
    "server error 502": Fault(
        "body", on="line", text='{"error": {"code": 502, "message": "upstream"}, "usage": {"prompt_tokens": 9}}'
    ),
    "missing from the batch": Fault("missing", on="line"),
}
PAID = {
    "empty answer": 0,
    "refused by the model": 8,
    "stopped by the content filter": 0,
    "cut off while thinking": 11,
}
"""Tokens written for the failures that are paid for."""


def one_each(images) -> dict[str, str]:
    """Return an image for every lasting failure: reason by image id."""
    ids = [images.ids[number].decode() for number in range(len(LASTING))]
    return dict(zip(ids, LASTING, strict=True))


def with_mark(fault: Fault, image_id: str) -> Fault:
    return Fault(fault.kind, on="line", status=fault.status, mark=image_id[:12], text=fault.text)


def test_lasting_failures_become_records_with_their_reason(image_set, images, tmp_path):
    reasons = one_each(images)
    faults = tuple(with_mark(LASTING[reason], image_id) for image_id, reason in reasons.items())
    with StubServer(Scenario(faults=faults)) as server:
        tally = batched(image_set, tmp_path, server.base_url)
        assert tally.failures == dict.fromkeys(LASTING, 1) and tally.answered == IMAGES - len(LASTING)
        assert tally.tried_again == 4 and count(server.log, "create") == 2
        failed = {record.image_id: record for record in records(tmp_path) if not record.answered}
        assert {image_id: record.error for image_id, record in failed.items()} == reasons
        assert all(record.describer == "batch" and not record.text for record in failed.values())
        paid = {record.error: record.tokens_out for record in failed.values() if record.tokens_in}
        assert paid == PAID
        assert batched(image_set, tmp_path, server.base_url).total == 0
    with StubServer() as mended:
        assert batched(image_set, tmp_path, mended.base_url, retry_failed=True).answered == len(LASTING)
    assert len(store_of(tmp_path).keys().answered) == IMAGES and not leftovers(tmp_path)


def test_failed_request_is_retried_in_the_next_batch(image_set, tmp_path):
    faults = (Fault("empty", on="line", times=1, share=0.3), Fault("status", on="line", status=500, times=1, share=0.6))
    with StubServer(Scenario(faults=faults)) as server:
        tally = batched(image_set, tmp_path, server.base_url)
        assert tally.answered == IMAGES and tally.tried_again > 10 and count(server.log, "create") == 2
        paid = sum(entry.paid for entry in server.log)
    found = records(tmp_path)
    assert len(found) == IMAGES < paid
    assert len({record.tokens_in for record in found}) == 2  # retried tasks count the tokens of both requests


def test_unreadable_result_line_fails_its_task(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("truncated", on="line", every=6),))) as server:
        assert batched(image_set, tmp_path, server.base_url).failures == {"missing from the batch": IMAGES // 6}
    assert len(records(tmp_path)) == IMAGES


def test_hostile_answers_are_recorded_and_repeated_in_conversations(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("hostile", on="line"),))) as server:
        assert batched(image_set, tmp_path, server.base_url, ["questions"]).answered == IMAGES
    assert all(record.text.count("<script>") == 3 for record in records(tmp_path))


def test_expired_batches_are_collected_as_far_as_they_got(image_set, tmp_path):
    with StubServer(Scenario(batch_outcome="expired", batch_done_share=0.5)) as server:
        tally = batched(image_set, tmp_path, server.base_url)
        assert tally.stopped == "a batch expired before the server had answered any of it"
        assert (tally.answered, tally.total, tally.failures.total()) == (IMAGES - 1, IMAGES, 0)
        assert not leftovers(tmp_path)
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == 1
        assert set(server.paid_by_mark.values()) == {1}
    assert len(records(tmp_path)) == IMAGES


@pytest.mark.slow
def test_conversations_resume_after_an_expired_batch(image_set, tmp_path):
    with StubServer(Scenario(batch_outcome="expired", batch_done_share=0.7)) as server:
        batched(image_set, tmp_path, server.base_url, ["questions"])
        server.scenario = Scenario()
        server.stop()
        server.start()
        batched(image_set, tmp_path, server.base_url, ["questions"])
        assert set(server.paid_by_mark.values()) == {3}
    assert all(record.text.count("This is answer") == 3 for record in records(tmp_path))
    assert len(records(tmp_path)) == IMAGES and not leftovers(tmp_path)


def test_cancelled_batch_stops_the_run_and_is_not_resent(image_set, tmp_path):
    with StubServer(Scenario(batch_polls=50)) as server:
        cancelling = CancellingServer(MODEL, server.base_url)
        store = store_of(tmp_path)
        with store.writer() as writer:
            maker, budget = make_maker(image_set, tmp_path), Budget(None, None, 0.0, 50, batch=True)
            tally = run_batches(maker, cancelling, store, writer, state_of(tmp_path), budget, BatchSettings(**QUICK))
        assert tally.stopped == "a batch was cancelled at the server" and count(server.log, "create") == 1
        assert 0 < tally.answered < IMAGES == tally.total
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES - tally.answered
        assert set(server.paid_by_mark.values()) == {1}


class CancellingServer(BatchServer):
    """A server whose user cancels the batch while we wait."""

    def retrieve(self, batch):
        report = super().retrieve(batch)
        if report.answered > 5 and report.status == "in_progress":
            self._client.batches.cancel(batch)
        return report


def test_batch_refused_as_a_whole_reports_the_reason(image_set, tmp_path):
    reason = r"refused a batch of 36 requests as a whole: The batch failed\."
    with StubServer(Scenario(batch_outcome="failed")) as server, pytest.raises(DescribeError, match=reason):
        batched(image_set, tmp_path, server.base_url)
    with StubServer(Scenario(batch_most_lines=10)) as server:
        with pytest.raises(DescribeError, match=r"More than 10 requests\."):
            batched(image_set, tmp_path, server.base_url)
        assert not leftovers(tmp_path) and not records(tmp_path)
        assert batched(image_set, tmp_path, server.base_url, most_requests=10).answered == IMAGES


def test_size_that_the_queue_refused_is_not_tried_again_at_once(image_set, tmp_path):
    with StubServer(Scenario(batch_most_queued=5, batch_polls=1)) as server:
        tally = batched(image_set, tmp_path, server.base_url, most_batches=1)
        assert tally.answered == IMAGES
        sizes = Counter(entry.batch for entry in server.log if entry.endpoint == "line")
        assert list(sizes.values()) == [4] * (IMAGES // 4), "36, 18 and 9 were refused once, 4 is taken each time"
        assert count(server.log, "create") == 3 + len(sizes)


def test_quota_of_hours_stops_the_job_at_once_and_loses_nothing(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("rate_limit", on="create", seconds=7200.0),))) as server:
        with pytest.raises(
            DescribeError, match=r"too many requests \(Rate limit.*\), and to wait 2 h.*Nothing is lost"
        ):
            batched(image_set, tmp_path, server.base_url)
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES


def test_queue_that_takes_no_request_stops_the_job(image_set, tmp_path):
    reason = r"does not queue even a single request.*Enqueued token limit"
    with StubServer(Scenario(batch_most_queued=0)) as server:
        with pytest.raises(DescribeError, match=reason):
            batched(image_set, tmp_path, server.base_url)
        assert not leftovers(tmp_path)
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES


def test_job_stops_when_all_requests_of_a_batch_fail(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("invalid_image", on="line"),))) as server:
        with pytest.raises(DescribeError, match=r"All requests of a batch have failed \(25 refused by the server"):
            batched(image_set, tmp_path, server.base_url, most_requests=25, most_batches=1)
        assert count(server.log, "create") == 1
    assert len(records(tmp_path)) == 25


@pytest.mark.parametrize(
    "fault", [Fault("quota", on="line"), Fault("body", on="line", text='{"error": {"code": 402, "message": "Top up"}}')]
)
def test_empty_account_stops_the_job_and_keeps_answers(image_set, tmp_path, fault):
    faults = (replace(fault, numbers=tuple(range(20, 50))),)
    with StubServer(Scenario(faults=faults)) as server:
        with pytest.raises(DescribeError, match="no credit left"):
            batched(image_set, tmp_path, server.base_url)
        assert len(records(tmp_path)) == 19 and all(record.answered for record in records(tmp_path))


def test_quota_of_a_day_in_the_lines_stops_the_job_and_fails_no_image(image_set, tmp_path):
    text = '{"error": {"message": "Rate limit reached on requests per day (RPD): try again in 3h12m"}}'
    fault = Fault("body", on="line", status=429, numbers=tuple(range(20, 200)), text=text)
    with StubServer(Scenario(faults=(fault,))) as server:
        with pytest.raises(DescribeError, match=r"quota at .* is used up: it resets in 3 h.*same command again"):
            batched(image_set, tmp_path, server.base_url)
        assert len(records(tmp_path)) == 19 and all(record.answered for record in records(tmp_path))
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES - 19


def test_moderated_first_picture_fails_alone(image_set, tmp_path):
    text = '{"error": {"code": 403, "message": "Your input was flagged for violence"}}'
    with StubServer(Scenario(faults=(Fault("body", on="line", status=403, numbers=(1,), text=text),))) as server:
        tally = batched(image_set, tmp_path, server.base_url)
    assert (tally.failures, tally.answered) == ({"refused by the server (403)": 1}, IMAGES - 1)


@pytest.mark.parametrize("endpoint", ["batches", "upload", "create"])
def test_error_of_a_call_with_status_200_is_told(image_set, tmp_path, endpoint):
    text = '{"error": {"message": "Your credit balance is too low", "type": "billing_error"}}'
    with StubServer(Scenario(faults=(Fault("body", on=endpoint, text=text),))) as server:
        with pytest.raises(DescribeError, match=r"no credit left.*Your credit balance is too low"):
            batched(image_set, tmp_path, server.base_url)
        assert count(server.log, endpoint) == 1


@pytest.mark.parametrize("endpoint", ["batches", "upload"])
def test_server_without_batch_interface_is_reported(image_set, tmp_path, endpoint):
    missing, reason = Fault("status", on=endpoint, status=404), r"no batch interface.*Use another describer"
    with StubServer(Scenario(faults=(missing,))) as server, pytest.raises(DescribeError, match=reason):
        batched(image_set, tmp_path, server.base_url)
    with pytest.raises(DescribeError, match="could not connect"):
        batched(image_set, tmp_path, server.base_url)


def test_unknown_model_is_reported(image_set, tmp_path):
    with StubServer() as server:
        with pytest.raises(DescribeError, match=f"has no model 'gpt'. It has: {MODEL}"):
            batched(image_set, tmp_path, server.base_url, model="gpt")
        assert not count(server.log, "upload")
    silent, reason = Fault("status", on="model", status=404), rf"no model 'gpt'.* It has: {MODEL}"
    with StubServer(Scenario(faults=(silent,))) as server, pytest.raises(DescribeError, match=reason):
        batched(image_set, tmp_path, server.base_url, model="gpt")
    assert not records(tmp_path) and not leftovers(tmp_path)


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_wrong_key_is_reported_and_never_shown(image_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VENDOR_KEY", "sk-very-secret-key")
    key = ApiKey.from_environment("VENDOR_KEY")
    reason = "rejects the key in VENDOR_KEY"
    with StubServer(Scenario(expected_key="sk-another")) as server, pytest.raises(DescribeError, match=reason) as error:
        batched(image_set, tmp_path, server.base_url, key=key)
    assert "sk-very" not in str(error.value)
    leak = "the key sk-very-secret-key"
    faults = (Fault("text", on="line", text=leak, every=2), Fault("status", on="upload", status=500, times=2))
    with StubServer(Scenario(expected_key=key.value, faults=faults)) as server:
        assert batched(image_set, tmp_path, server.base_url, ["questions"], key=key).answered == IMAGES
    assert "the key [key]" in records(tmp_path)[0].text + records(tmp_path)[1].text
    assert b"sk-very" not in everything_under(tmp_path)
    assert "sk-very" not in capsys.readouterr().err


TROUBLES = {
    "server errors": [
        Fault("status", on=on, status=500, probability=0.4) for on in ("upload", "batch", "content", "delete")
    ],
    "cut": [Fault("cut", on=on, probability=0.4) for on in ("upload", "batch", "content", "delete", "file")],
    "cut while answering": [
        Fault("cut_body", on=on, probability=0.4) for on in ("upload", "create", "batch", "content")
    ],
    "cut short unnoticed": [Fault("truncated", on=on, every=2) for on in ("batch", "content")],
    "pages": [Fault("html", on=on, probability=0.4) for on in ("upload", "batch", "delete", "file")],
    "busy": [Fault("rate_limit", on=on, every=2, seconds=0.1) for on in ("upload", "create", "batch", "content")],
    "other content types": [Fault("plain", on=on) for on in ("upload", "create", "batch", "files", "file")],
    "lost requests": [Fault("cut", on="create", numbers=(1, 3))],
    "lost answers": [Fault("truncated", on="create", numbers=(1, 2, 3, 4))],
}


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.slow
def test_temporary_faults_are_waited_out_and_nothing_is_paid_twice(image_set, tmp_path, kind):
    with StubServer(Scenario(faults=tuple(TROUBLES[kind]))) as server:
        tally = batched(image_set, tmp_path, server.base_url, most_requests=10)
        assert tally.answered == IMAGES and tally.failures.total() == 0
        assert any(entry.fault for entry in server.log)
        server.scenario = Scenario()
        server.stop()
        server.start()
        settle(server.base_url)
        assert set(server.paid_by_mark.values()) == {1}
    assert len(records(tmp_path)) == IMAGES and not leftovers(tmp_path)


def test_unreachable_server_stops_the_job_and_loses_nothing(image_set, tmp_path, capsys):
    with StubServer(Scenario(faults=(Fault("status", on="batch", status=500),))) as server:
        with pytest.raises(DescribeError, match=r"server error 500.*Nothing is lost"):
            batched(image_set, tmp_path, server.base_url, down_seconds=0.5)
        assert "1 batch under way at" in capsys.readouterr().err
        server.scenario = Scenario()
        server.stop()
        server.start()
        assert batched(image_set, tmp_path, server.base_url).answered == IMAGES
        assert count(server.log, "create") == 1


def test_batch_lost_by_the_server_is_reported(image_set, tmp_path):
    lost, reason = (
        Fault("status", on="batch", status=404),
        r"does not know batch batch_\w+\. .* delete .*jobs.* once more",
    )
    with StubServer(Scenario(faults=(lost,))) as server, pytest.raises(DescribeError, match=reason):
        batched(image_set, tmp_path, server.base_url)


def test_lost_result_file_does_not_block_other_batches(image_set, tmp_path):
    lost, reason = Fault("status", on="content", status=404, numbers=(1,)), r"no longer has the answers of batch \w+"
    with StubServer(Scenario(faults=(lost,))) as server:
        with pytest.raises(DescribeError, match=reason):
            batched(image_set, tmp_path, server.base_url, most_requests=18)
        assert len(records(tmp_path)) == IMAGES // 2
        assert (
            batched(image_set, tmp_path, server.base_url).answered == IMAGES // 2
        )  # the result file is available again
        assert count(server.log, "create") == 2


def test_second_process_gets_a_busy_error(image_set, tmp_path):
    with exclusive(state_of(tmp_path) / "lock", "them"), StubServer() as server:
        with pytest.raises(BusyError, match="Another process is using the batches"):
            batched(image_set, tmp_path, server.base_url)
        assert not server.log


@pytest.mark.parametrize("left", [10, IMAGES - 3])
def test_interrupted_collection_is_repeated_without_duplicates(image_set, tmp_path, monkeypatch, left):
    class Ends(RecordWriter):
        def write(self, record):
            if len(records(tmp_path)) == left:
                raise KeyboardInterrupt
            super().write(record)

    faults = (Fault("invalid_image", on="line", every=4),)
    with StubServer(Scenario(faults=faults)) as server:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("gpt4image.descriptions.store.description_store.RecordWriter", Ends)
            batched(image_set, tmp_path, server.base_url)
        assert len(records(tmp_path)) == left
        tally = batched(image_set, tmp_path, server.base_url)
        assert tally.done == IMAGES - left and count(server.log, "create") == 1
    assert len({record.key for record in records(tmp_path)}) == len(records(tmp_path)) == IMAGES


def test_pictures_too_large_for_a_file_fail_with_the_fix(image_set, tmp_path):
    small = {"most_bytes": 5000}
    with StubServer() as server:
        tally = batched(image_set, tmp_path, server.base_url, **small)
        assert tally.failures == {"too large for a batch": IMAGES} and not server.paid_by_mark
    assert "--max-side" in records(tmp_path)[0].detail and not leftovers(tmp_path)


def test_invalid_settings_are_rejected(image_set, tmp_path):
    with pytest.raises(ConfigError, match="most_bytes should be greater than 0, not 0"):
        batched(image_set, tmp_path, "http://127.0.0.1:1/v1", most_bytes=0)
