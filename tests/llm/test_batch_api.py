"""Result lines and files of the batch interface."""

from __future__ import annotations

import json

import pytest

from gpt4image.llm.base import RequestFailedError
from gpt4image.llm.batch_api import BatchServer, read_report, read_result
from gpt4image.llm.chat import read_answer
from gpt4image.llm.credentials import ApiKey
from support.stub_server import StubServer

KEY = ApiKey("KEY", "sk-secret")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b"3", b'{"custom_id": 3}', b'{"response": {}}', b"\xff\xfe", b"[" * 100_000],
)
def test_result_line_without_a_request_is_ignored(line):
    assert read_result(line, KEY) is None


@pytest.mark.parametrize(
    ("rest", "status", "code", "detail"),
    [
        (
            '"response": {"status_code": 400, "body": {"error": {"code": "c", "message": "sk-secret"}}}',
            400,
            "c",
            "[key]",
        ),
        ('"response": {"status_code": 0, "body": null}', None, "", ""),
        ('"response": {"status_code": "500", "body": "oh"}', None, "", "oh"),
        ('"response": {"status_code": 502, "body": {"detail": "no"}}', 502, "", "no"),
        ('"response": null, "error": {"code": "batch_expired", "message": "late"}', None, "batch_expired", "late"),
        ('"error": null', None, "", ""),
    ],
)
def test_failed_result_line_gives_status_code_and_detail(rest, status, code, detail):
    result = read_result(f'{{"custom_id": "k", {rest}}}'.encode(), KEY)
    assert (result.failure.status, result.failure.code, result.failure.detail) == (status, code, detail)
    assert result.processed == (code != "batch_expired")


def test_line_with_a_number_of_thousands_of_digits_is_read():
    choice = '{"message": {"content": "A cat."}}'
    body = f'{{"choices": [{choice}], "usage": {{"prompt_tokens": {"9" * 5000}}}}}'
    line = f'{{"custom_id": "k", "response": {{"status_code": 200, "body": {body}}}}}'
    result = read_result(line.encode(), KEY)
    assert result is not None and result.failure is None and read_answer(result.body).text == "A cat."


CHOICE = {"choices": [{"message": {"content": "A cat."}}]}
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "A cat."}]}


@pytest.mark.parametrize(
    "response",
    [
        CHOICE,
        {"body": CHOICE},
        {"status_code": "200", "body": CHOICE},
        {"status_code": 200, "body": json.dumps(CHOICE)},
    ],
)
def test_answer_in_a_result_line_of_another_form_is_read(response):
    result = read_result(json.dumps({"custom_id": "k", "response": response}).encode(), KEY)
    assert result.failure is None and read_answer(result.body).text == "A cat."


@pytest.mark.parametrize(
    ("rest", "form"),
    [
        ({"result": {"type": "succeeded", "message": MESSAGE}}, "Anthropic's messages"),
        ({"response": {"status_code": 200, "body": MESSAGE}}, "Anthropic's messages"),
        ({"response": {"candidates": [{"content": {"parts": [{"text": "A cat."}]}}]}}, "Gemini's own API"),
        ({"response": {"status_code": 200, "body": {"object": "response", "output": []}}}, "OpenAI's responses"),
    ],
)
def test_result_line_of_another_api_names_it(rest, form):
    result = read_result(json.dumps({"custom_id": "k", **rest}).encode(), KEY)
    with pytest.raises(RequestFailedError, match=form):
        read_answer(result.body)


def test_failed_result_line_of_anthropic_gives_the_reason():
    line = {"custom_id": "k", "result": {"type": "errored", "error": {"type": "overloaded_error", "message": "Busy"}}}
    failure = read_result(json.dumps(line).encode(), KEY).failure
    assert (failure.status, failure.detail) == (529, "Busy")


@pytest.mark.parametrize("end", [10**400, -1, 1.5, "2026", None])
def test_implausible_end_of_a_batch_counts_as_not_reported(end):
    assert read_report({"status": "completed", "created_at": 1_700_000_000, "completed_at": end}).seconds == 0.0


def test_result_lines_end_at_line_feeds_only():
    rows = [{"custom_id": "a", "text": "one\u2028two\x85three\u000bfour"}, {"custom_id": "b", "text": "x" * 200_000}]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    with StubServer() as stub:
        server = BatchServer("m", stub.base_url)
        file = server._client.files.create(file=("x.jsonl", data), purpose="batch").id
        assert [json.loads(line) for line in server.lines(file)] == rows
        assert server.find_upload("x.jsonl", len(data)) == file and server.find_upload("x.jsonl", 1) is None
        server.delete(file)
        server.delete(file)
        server.close()
