"""Answers in unusual forms, from the server to the store."""

from __future__ import annotations

import json

import pytest

from gpt4image.descriptions.store import DescriptionStore
from support.describing import described, mark_in, records
from support.stub_answers import THOUGHT
from support.stub_scenario import Fault, Scenario
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


@pytest.mark.parametrize("count", [10**20, -5, 7.5, "12"])
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
