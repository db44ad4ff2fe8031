"""What a failed call means for the job, status by status."""

from __future__ import annotations

import re

import openai
import pytest

from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import MODEL_LOADING, EndpointDownError, RateLimitedError, RequestFailedError
from gpt4image.llm.credentials import ApiKey
from gpt4image.llm.error_body import server_message
from gpt4image.llm.errors import (
    ErrorClassifier,
    FailedCall,
    bounded,
    failed_body,
    read_error_body,
    read_failure,
)
from gpt4image.llm.waits import LONGEST_WAIT, asked_wait, limit_reset, retry_after
from support.stub_server import MODEL, Fault, Scenario, StubServer

SEED = "seed: is unknown, is no number"
KEY = ApiKey("A_KEY", "sk-secret-key")


def classified(status: int | None, code: str = "", detail: str = "no", *, answered: bool = False, **more) -> Exception:
    classifier = ErrorClassifier("http://host/v1", KEY)
    classifier.answered = answered
    return classifier.classify(FailedCall(status, code, detail, **more), "a-model")


@pytest.mark.parametrize(("status", "reason"), [(429, "too many requests"), (503, "server busy"), (529, "server busy")])
def test_busy_server_is_a_rate_limit_with_its_waiting_time(status, reason):
    error = classified(status, wait=7.0)
    assert isinstance(error, RateLimitedError)
    assert (error.reason, error.seconds) == (reason, 7.0)


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (429, "insufficient_quota", "no credit left"),
        (None, "insufficient_quota", "no credit left"),
        (402, "", "no credit left"),
        (401, "", "rejects the key in A_KEY"),
        (403, "", "rejects the key in A_KEY"),
        (404, "", "no model 'a-model'"),
    ],
)
def test_fatal_status_stops_the_job_with_the_fix(status, code, advice):
    error = classified(status, code)
    assert isinstance(error, DescribeError)
    with pytest.raises(DescribeError, match=advice):
        raise error


@pytest.mark.parametrize(
    "said",
    [
        'model requires moderation on provider. Your input was flagged for "violence". No credits were charged.',
        "Content violates usage guidelines. Team: t-1, API key ID: k-2, Failed check: SAFETY_CHECK_TYPE_OTHER",
        "This image violates our acceptable use policy.",
        "The prompt was blocked: PROHIBITED_CONTENT",
        "NSFW content detected in the image",
        "The input image was filtered by Responsible AI practices",
    ],
)
def test_flagged_picture_fails_alone_even_as_the_first(said):
    error = classified(403, detail=said)
    assert isinstance(error, RequestFailedError)
    assert not error.retryable


@pytest.mark.parametrize(
    "said",
    [
        "Sorry, your account balance is insufficient",
        "The free tier of the model has been exhausted. Enable paid use.",
        "You are out of credits",
    ],
)
@pytest.mark.parametrize("answered", [False, True])
def test_empty_account_stops_the_job_whatever_the_words(said, answered):
    with pytest.raises(DescribeError, match="no credit left"):
        raise classified(403, detail=said, answered=answered)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (
            "Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 41123 seconds before retrying.",
            41123.0,
        ),
        ("Monthly token quota exceeded.", None),
    ],
)
def test_quota_of_a_day_or_longer_is_told_from_a_rate_limit(said, seconds):
    call = failed_body(429, {"message": said}, KEY)
    error = ErrorClassifier("http://host/v1", KEY).classify(call, "a-model")
    assert isinstance(error, RateLimitedError)
    assert (error.long, error.seconds) == (True, seconds)


def test_rejected_sampling_stops_the_job_unless_the_server_has_answered():
    assert isinstance(classified(400, detail="temperature must be 1"), DescribeError)
    assert isinstance(classified(400, detail="temperature must be 1", answered=True), RequestFailedError)


@pytest.mark.parametrize("status", [403, 404])
def test_refusal_after_an_answer_fails_one_request_only(status):
    error = classified(status, answered=True)
    assert isinstance(error, RequestFailedError)
    assert (error.retryable, error.server_fault, error.tokens_in) == (False, False, 0)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "The model `m` has been deprecated, learn more here."),
        (410, "Model m was retired on 2026-10-01."),
        (400, "This model is no longer supported."),
        (404, "The model `m` does not exist or you do not have access to it."),
    ],
)
def test_model_that_goes_meanwhile_stops_the_job_before_every_image_fails(status, said):
    error = classified(status, detail=said, answered=True)
    assert isinstance(error, DescribeError) and "a-model is no longer available. Set model to another one" in str(error)


def test_gateway_before_a_server_that_starts_is_waited_for():
    error = classified(502, is_json=False)
    assert isinstance(error, RateLimitedError) and error.reason == MODEL_LOADING
    assert isinstance(classified(502, is_json=False, answered=True), RequestFailedError)


def test_wrong_key_stops_the_job_even_after_an_answer():
    assert isinstance(classified(401, answered=True), DescribeError)


@pytest.mark.parametrize(
    ("status", "reason", "counted"),
    [
        (500, "server error 500", True),
        (502, "server error 502", True),
        (409, "server error 409", True),
        (425, "server error 425", True),
        (408, "server error 408", False),
        (504, "server error 504", False),
        (524, "server error 524", False),
        (None, "unreadable answer", False),
    ],
)
def test_server_error_is_retryable_and_unknown_tokens_are_marked(status, reason, counted):
    error = classified(status)
    assert isinstance(error, RequestFailedError)
    assert (error.reason, error.retryable, error.server_fault) == (reason, True, True)
    assert (error.tokens_in == 0) == counted


def test_cut_connection_is_retryable_and_a_missing_server_is_down():
    assert classified(None, "connection").reason == "connection cut"
    assert isinstance(classified(None, "connection", unreachable=True), EndpointDownError)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_other_refusals_are_not_retryable(status):
    error = classified(status)
    assert isinstance(error, RequestFailedError)
    assert (error.reason, error.retryable) == (f"refused by the server ({status})", False)


def test_unknown_exception_is_an_unreadable_answer_without_the_key():
    call = read_failure(ValueError("bad sk-secret-key\n" + "x" * 400), KEY)
    assert (call.status, call.code, len(call.detail)) == (None, "unreadable", 300)
    assert call.detail.startswith("bad [key] xxx") and bounded(call.detail) == call.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": "1e400"}, LONGEST_WAIT),
        ({"retry-after": "99999999999999999"}, LONGEST_WAIT),
        ({"retry-after": "nan"}, 0.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds):
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "1h2m3.5s", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        (
            {
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360.0,
        ),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": "1000000001"}, 0.0),
        ({"x-ratelimit-reset": "9" * 400}, LONGEST_WAIT),
        ({"x-ratelimit-reset-requests": "soon"}, None),
        ({}, None),
    ],
)
def test_time_to_the_reset_of_a_limit_is_read_in_every_form(headers, seconds):
    assert limit_reset(headers) == seconds


@pytest.mark.parametrize("body", [{"retryDelay": f"{10**30}s"}, {"X-RateLimit-Reset": "9" * 40}])
def test_time_to_wait_is_never_beyond_all_dates(body):
    assert asked_wait(body, "") == LONGEST_WAIT == asked_wait(None, f"Try again in {10**30} days.")


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (b'{"error": "Bad Request", "message": "seed is unknown"}', "", "Bad Request: seed is unknown"),
        (b'{"error": {"code": "c"}, "message": "seed is unknown"}', "", "seed is unknown"),
        (b'{"error": {"code": "c"}}', "c", "code: c"),
        (b'{"errors": {"seed": ["is unknown", "is no number"], "n": "too high"}}', "", f"{SEED}; n: too high"),
        (b'{"error": {"seed": [["is unknown"], ["is no number"]]}}', "", SEED),
        (b'{"title": "Not valid.", "errors": {"seed": ["is unknown", "is no number"]}}', "", f"Not valid: {SEED}"),
        (
            b'{"success": false, "data": {"why": ["seed", "is unknown"]}}',
            "",
            "success: false; data: why: seed, is unknown",
        ),
        (
            b"{\"message\": \"Error code: 400 - {'error': {'message': 'no seed', 'code': None}}. Group=x\"}",
            "",
            "Error code: 400: no seed. Group=x",
        ),
        (
            b"{\"message\": \"[{'type': 'extra', 'loc': ('body', 'seed'), 'msg': 'Not permitted'}]\"}",
            "",
            "body.seed: Not permitted",
        ),
        (b"{\"message\": \"one of ['a', 'b'] is [unknown] {here}\"}", "", "one of ['a', 'b'] is [unknown] {here}"),
        (b'[{"error": {"code": "c", "message": "no"}}]', "c", "no"),
        (b"", "", "Error code: 422"),
        (b"plain words", "", "plain words"),
    ],
)
def test_words_beside_the_field_error_are_kept(sent, code, said):
    with StubServer(Scenario(faults=(Fault("body", status=422, text=sent.decode()),))) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        with pytest.raises(openai.APIStatusError) as caught:
            client.post("/chat/completions", cast_to=object, body={"messages": [], "model": MODEL})
        client.close()
    call = read_failure(caught.value, KEY)
    assert (call.status, call.code, call.detail) == (422, code, said)


def test_model_list_gives_names_and_shutdown_dates():
    classifier = ErrorClassifier("http://host/v1", KEY)
    rows = [{"id": "a", "shutdown_date": "2027-01-14"}, {"id": "b", "shutdown_date": None}, {"id": 3}, "x"]
    assert classifier.read_models({"data": rows}) == ("a", "b")
    assert {name: str(day) for name, day in classifier.shutdown_dates.items()} == {"a": "2027-01-14"}
    assert classifier.read_models(["no list"]) == ()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ({"code": 429, "message": "slow down"}, RateLimitedError, "too many requests"),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, RateLimitedError, "too many requests"),
        ({"status": "RESOURCE_EXHAUSTED", "message": "slow down"}, RateLimitedError, "too many requests"),
        ({"type": "overloaded_error"}, RateLimitedError, "server busy"),
        ({"code": "402", "message": "Add credits"}, DescribeError, "no credit left.*Add credits"),
        ({"code": "insufficient_quota"}, DescribeError, "no credit left"),
        ({"code": 401, "message": "No auth"}, DescribeError, "rejects the key"),
        ({"code": 400, "message": "bad"}, RequestFailedError, r"refused by the server \(400\): bad"),
        ({"code": 502, "message": "upstream"}, RequestFailedError, "server error 502: upstream"),
        ({"code": 10**20, "message": "odd"}, RequestFailedError, "server error: odd"),
        ({"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, RateLimitedError, "too many"),
        ({"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded"}, RateLimitedError, "too many"),
        ({"code": "DataInspectionFailed", "message": "inappropriate"}, RequestFailedError, r"refused .* \(400\)"),
        ({"code": "data_inspection_failed", "message": "inappropriate"}, RequestFailedError, r"refused .* \(400\)"),
        ({"code": "InvalidApiKey", "message": "Invalid API-key provided."}, DescribeError, "rejects the key"),
        ({"code": "Arrearage", "message": "Access denied"}, DescribeError, "no credit left"),
        ({"code": "InternalError.Algo", "message": "odd"}, RequestFailedError, "server error 500"),
        ({"code": "RateLimitExceeded.EndpointRPMExceeded", "message": "x"}, RateLimitedError, "too many"),
        ({"code": "AccountOverdueError", "message": "x"}, DescribeError, "no credit left"),
        ("rate limit exceeded, retry in 20s", RateLimitedError, "too many requests"),
        ({"message": "The server is too busy"}, RateLimitedError, "server busy"),
        ({"code": 10000, "message": "Authentication error"}, DescribeError, "rejects the key"),
        ({"code": "1113", "message": "余额不足或无可用资源包,请充值。"}, DescribeError, "no credit left"),
        ("Model unloaded sk-secret-key", RequestFailedError, r"server error: Model unloaded \[key\]"),
    ],
)
def test_error_in_a_body_of_status_200_counts_as_its_status(error, kind, said):
    for body in ({"error": error}, {"error": error, "choices": []}):
        call = read_error_body(body, KEY)
        found = ErrorClassifier("http://host/v1", KEY).classify(call, "a-model")
        assert isinstance(found, kind) and re.search(said, str(found))
        assert getattr(found, "tokens_in", 0) == 0


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"code": 429, "message": "slow down"}}],
        {"object": "error", "message": "slow down", "code": 429},
        {"code": "429", "msg": "slow down"},
        {"error": True, "code": 429, "message": "slow down"},
    ],
)
def test_error_of_status_200_is_found_without_its_usual_place(body):
    assert read_error_body(body, KEY).status == 429
    assert read_error_body({"choices": [], "message": "hello"}, KEY) is None


@pytest.mark.parametrize(
    ("code", "said", "kind", "words"),
    [
        (1002, "rate limit", RateLimitedError, "too many requests"),
        (1039, "token limit", RateLimitedError, "too many requests"),
        (1004, "login fail", DescribeError, "rejects the key"),
        (2049, "invalid api key", DescribeError, "rejects the key"),
        (1008, "insufficient balance", DescribeError, "no credit left"),
        (1026, "input new_sensitive", RequestFailedError, r"refused by the server \(400\): input new_sensitive"),
        (2013, "invalid params", RequestFailedError, r"refused by the server \(400\)"),
        (1000, "unknown error", RequestFailedError, "server error 500: unknown error"),
        (7777, "new error", RequestFailedError, "server error: new error"),
    ],
)
def test_error_of_minimax_counts_as_its_status(code, said, kind, words):
    empty = [{"message": {"content": ""}, "finish_reason": "stop"}]
    for choices in (None, [], empty):
        call = read_error_body({"choices": choices, "base_resp": {"status_code": code, "status_msg": said}}, KEY)
        found = ErrorClassifier("http://host/v1", KEY).classify(call, "a-model")
        assert isinstance(found, kind) and re.search(words, str(found))


def test_answer_of_minimax_is_an_answer():
    base = {"status_code": 0, "status_msg": ""}
    choices = [{"message": {"content": "A cat."}, "finish_reason": "stop"}]
    assert read_error_body({"choices": choices, "base_resp": base}, KEY) is None
    assert read_error_body({"choices": choices, "base_resp": {**base, "status_code": 1027}}, KEY) is None
    assert read_error_body({"choices": [], "base_resp": base}, KEY) is None


def test_answer_next_to_an_error_is_no_error():
    choice = {"message": {"content": "A cat."}, "finish_reason": "stop"}
    assert read_error_body({"error": {"code": 500}, "choices": [choice]}, KEY) is None
    assert read_error_body({"error": None, "choices": [choice]}, KEY) is None
    broken = {"finish_reason": "error", "error": {"code": 429, "message": "later"}}
    for message in ({"message": {"content": ""}}, {"message": None}, {}):
        assert read_error_body({"choices": [broken | message]}, KEY).status == 429


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Unsupported: seed"}, "Unsupported: seed"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "not permitted", "type": "x"}]}, "body.seed: not permitted"),
        ({"message": "no"}, "no"),
        ({"error": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a; b"),
        ({"message": "Provider returned error", "metadata": {"raw": "too big"}}, "Provider returned error: too big"),
        ("plain words\n", "plain words"),
        ("<html><head><title>413 Too Large</title></head><body>x</body></html>", "413 Too Large"),
        ("<h1>Bad</h1>", "Bad"),
        ({"error": "Bad Request", "message": ["size", "format"]}, "Bad Request: size; format"),
        ({"error": "invalid", "error_description": "no seed"}, "invalid: no seed"),
        ({"error": "no", "message": "no"}, "no"),
        ({"error": True, "Message": "no"}, "no"),
        ({"fault": {"faultstring": "no"}}, "no"),
        ({"code": 7}, ""),
        (None, ""),
    ],
)
def test_words_of_the_server_are_found_in_every_form(body, said):
    assert server_message(body) == said


@pytest.mark.parametrize(
    ("detail", "one_image"),
    [
        ("This model requires moderation. Your input was flagged for violence.", True),
        ("The image was rejected by our safety system", True),
        ("Your request was rejected by our risk control system (image)", True),
        ("Your request was rejected by our risk control system", True),
        ("The image may depict a minor or a real person.", True),
        ("This picture was rejected.", True),
        ("Your account was rejected by our risk control system", False),
        ("Your account has been flagged", False),
        ("This API key has no access to the moderated model", False),
        ("Forbidden", False),
    ],
)
def test_moderation_of_the_first_picture_concerns_it_alone(detail, one_image):
    assert isinstance(classified(403, detail=detail), RequestFailedError if one_image else DescribeError)
