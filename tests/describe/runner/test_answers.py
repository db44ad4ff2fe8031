"""Answers in unusual forms, from the server to the store."""

from __future__ import annotations

import json

import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.descriptions.store import DescriptionStore
from support.describing import described, mark_in, records, store_in
from support.stub_answers import THOUGHT
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubServer

IMAGES = 36


def test_thinking_is_neither_stored_nor_sent_back(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("thinking"),))) as server:
        assert described(image_set, tmp_path, server.base_url, prompts=("questions",)).answered == IMAGES
        last = max((entry for entry in server.log if entry.turn == 3), key=lambda entry: entry.at)
    assert all(mark_in(record) and THOUGHT not in record.text for record in records(tmp_path))
    with StubServer() as plain:
        described(image_set, tmp_path / "plain", plain.base_url, prompts=("questions",))
        same = next(entry for entry in plain.log if (entry.mark, entry.turn) == (last.mark, 3))
    assert last.tokens_in == same.tokens_in


@pytest.mark.parametrize("kind", ["thinking_cut", "reasoning_cut"])
def test_answer_cut_off_while_thinking_is_asked_once(image_set, images, tmp_path, kind):
    fault = Fault(kind, mark=images.ids[5].decode()[:12])
    with StubServer(Scenario(faults=(fault,))) as server:
        tally = described(image_set, tmp_path, server.base_url)
        assert sum(entry.fault == kind for entry in server.log) == 1
    assert (tally.failures, tally.answered) == ({"cut off while thinking": 1}, IMAGES - 1)
    (failed,) = (record for record in records(tmp_path) if not record.answered)
    assert failed.text == "" and "--max-tokens" in failed.detail


def test_broken_off_text_is_retried_and_an_unknown_end_is_kept(image_set, images, tmp_path):
    broken, unknown = (images.ids[number].decode()[:12] for number in (3, 5))
    faults = (Fault("finish", mark=broken, times=1, text="error"), Fault("finish", mark=unknown, text="paused"))
    with StubServer(Scenario(faults=faults)) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.tried_again) == (IMAGES, 1)
    reasons = {record.image_id[:12]: record.finish_reason for record in records(tmp_path)}
    assert (reasons[broken], reasons[unknown]) == ("stop", "paused")


@pytest.mark.parametrize("count", [10**20, -5, 7.5, "twelve", 999_999_999])
def test_implausible_token_count_leaves_the_store_readable(image_set, tmp_path, count):
    usage = json.dumps({"prompt_tokens": count, "completion_tokens": count, "total_tokens": count})
    with StubServer(Scenario(faults=(Fault("usage", text=usage),))) as server:
        tally = described(image_set, tmp_path, server.base_url)
    assert (tally.answered, tally.tokens_in, tally.tokens_out) == (IMAGES, 0, 0)
    DescriptionStore(tmp_path / "descriptions").compact()
    assert {(record.tokens_in, record.tokens_out) for record in records(tmp_path)} == {(None, None)}


def test_thinking_that_only_the_total_shows_is_paid_for(image_set, tmp_path):
    usage = json.dumps({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115})
    with StubServer(Scenario(faults=(Fault("usage", text=usage),))) as server:
        tally = described(image_set, tmp_path, server.base_url, price_in=1.0, price_out=1.0)
    assert tally.cost == pytest.approx(IMAGES * 115 / 1e6)


def test_rate_limit_inside_status_200_is_waited_out_and_costs_nothing(image_set, tmp_path):
    busy = Fault("body", every=6, text='{"error": {"code": 429, "message": "Rate limited upstream"}}')
    with StubServer(Scenario(faults=(busy,))) as server:
        tally = described(image_set, tmp_path, server.base_url, price_in=1.0, price_out=1.0)
        paid = sum(entry.tokens_in + entry.tokens_out for entry in server.log)
    assert (tally.answered, tally.failures.total(), tally.uncounted) == (IMAGES, 0, 0)
    assert tally.cost == pytest.approx(paid / 1e6)


def test_no_credit_inside_status_200_ends_the_job_and_costs_nothing(image_set, tmp_path):
    broke = Fault("body", text='{"error": {"code": 402, "message": "Insufficient credits"}}')
    with (
        StubServer(Scenario(faults=(broke,))) as server,
        pytest.raises(DescribeError, match=r"no credit left.*Insufficient credits"),
    ):
        described(image_set, tmp_path, server.base_url, price_in=1.0, price_out=1.0)
    assert store_in(tmp_path).spent(MODEL).cost == 0


def test_moderated_first_picture_fails_alone(image_set, tmp_path):
    said = json.dumps({"error": {"code": 403, "message": "Your input was flagged for violence"}})
    with StubServer(Scenario(faults=(Fault("body", status=403, numbers=(1,), text=said),))) as server:
        tally = described(image_set, tmp_path, server.base_url, at_once=1)
    assert (tally.failures, tally.answered) == ({"refused by the server (403)": 1}, IMAGES - 1)


def test_commonest_words_of_the_server_are_shown(image_set, images, tmp_path):
    marks = [images.ids[number].decode()[:12] for number in range(3)]
    texts = ['{"detail": "Extra inputs: seed"}'] * 2 + ['{"message": "other"}']
    faults = tuple(Fault("body", status=422, mark=mark, text=text) for mark, text in zip(marks, texts, strict=True))
    with StubServer(Scenario(faults=faults)) as server:
        tally = described(image_set, tmp_path, server.base_url, at_once=1)
    said = 'mostly with "Extra inputs: seed": omit seed (--seed)'
    assert tally.failure_lines() == [f"failed: 3 refused by the server (422), {said}"]


def test_json_sent_as_plain_text_is_an_answer(image_set, tmp_path):
    with StubServer(Scenario(faults=(Fault("plain"),))) as server:
        assert described(image_set, tmp_path, server.base_url).answered == IMAGES
    assert all(map(mark_in, records(tmp_path)))
