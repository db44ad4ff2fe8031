"""Errors in the forms of different vendors' servers, from the wire to what they mean for the job."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import threading
import time
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.llm.base import (
    DescribeRequest,
    EndpointDownError,
    RateLimitedError,
    RequestFailedError,
    Sampling,
    fails_again,
)
from gpt4image.llm.batch_api import BatchServer
from gpt4image.llm.body import parse_body
from gpt4image.llm.errors import tls_problem
from gpt4image.llm.openai_client import OpenAIDescriber
from gpt4image.llm.picture import Picture, prepare_picture
from support.stub_scenario import MODEL, Fault, Scenario
from support.stub_server import StubServer

GOOGLE = "type.googleapis.com/google.rpc."


@pytest.fixture(scope="module")
def picture(image_set: Path) -> Picture:
    path = next(image_set.rglob("*.png"))
    return prepare_picture(path.read_bytes(), path.name, None, 10**8)


def outcome(picture: Picture, url: str, *, check: bool = False, settled: bool = False) -> Exception | str:
    """Ask about a picture, after a good answer if `settled`; return the text or what was raised."""

    async def ask() -> str:
        describer = OpenAIDescriber(MODEL, url)
        try:
            if check:
                await describer.check()
            request = DescribeRequest("k", "i", "i.png", (picture,), None, ("What?",), Sampling(), "p")
            for _ in range(settled):
                await describer.describe(request, lambda answer: None)
            return (await describer.describe(request, lambda answer: None)).texts[0]
        finally:
            await describer.close()

    try:
        return asyncio.run(ask())
    except Exception as error:  # what is tested
        return error


def said(picture: Picture, status: int, body: object, *, settled: bool = False) -> Exception | str:
    text = body if isinstance(body, str) else json.dumps(body)
    fault = Fault("body", status=status, text=text, numbers=(1 + settled,))
    with StubServer(Scenario(faults=(fault,))) as server:
        return outcome(picture, server.base_url, settled=settled)


NO_MONEY = [
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low."}}),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}),
    (403, {"code": "permission-denied", "error": "Your newly created team doesn't have any credits or licenses yet."}),
    (429, {"error": "Your team has used all available credits or reached its monthly spending limit."}),
    (
        400,
        {"error": {"message": "Budget has been exceeded! Cost: 1.5", "type": "budget_exceeded", "code": "400"}},
    ),
    (
        400,
        {
            "error": {
                "code": "Arrearage",
                "message": "Access denied, make sure it is in good standing.",
            }
        },
    ),
    (400, {"error": {"message": "Your account balance is exhausted, please recharge"}}),
    (402, {"error": "You have exceeded your monthly included credits for Inference Providers."}),
    (400, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}}),
    (429, {"error": {"type": "exceeded_current_quota_error", "message": "Your account is suspended"}}),
]


@pytest.mark.parametrize(("status", "body"), NO_MONEY)
def test_empty_account_stops_the_job_whatever_the_status(picture, status, body):
    error = said(picture, status, body, settled=True)
    assert isinstance(error, DescribeError) and "no credit left" in str(error)


DAILY = [
    (
        429,
        {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock", "code": 429}},
    ),
    (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {
                            "@type": f"{GOOGLE}QuotaFailure",
                            "violations": [{"quotaId": "GenerateRequestsPerDay"}],
                        },
                        {"@type": f"{GOOGLE}RetryInfo", "retryDelay": "31s"},
                    ],
                }
            }
        ],
    ),
    (
        429,
        {"error": {"message": "Rate limit reached on tokens per day (TPD). Please try again in 3h12m."}},
    ),
    (
        400,
        {"error": {"message": "You have reached your API usage limits. You will regain access on 2099-01-01."}},
    ),
    (403, {"error": {"message": "Key limit exceeded (daily limit).", "code": 403}}),
    (429, {"error": {"message": "You have hit your weekly limit. Resets Monday."}}),
    (429, {"error": {"type": "usage_limit_reached", "message": "Limit.", "resets_in_seconds": 7200}}),
    (200, {"error": {"message": "Rate limit exceeded: free-models-per-day.", "code": 429}}),
]


@pytest.mark.parametrize(("status", "body"), DAILY)
def test_quota_of_a_day_is_told_from_a_rate_limit(picture, status, body):
    error = said(picture, status, body)
    assert isinstance(error, RateLimitedError) and error.long


def test_rate_limit_of_a_minute_is_none_of_a_day(picture):
    azure = "Requests to the ChatCompletions_Create Operation have exceeded the call rate limit. Retry after 6 seconds."
    for words in (azure, "Your request rate exceeds the limit, try again in 6 s"):
        error = said(picture, 429, {"error": {"code": "429", "message": words}})
        assert isinstance(error, RateLimitedError) and not error.long and error.seconds == 6.0
    details = [{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]}, {"retryDelay": "31s"}]
    error = said(picture, 429, [{"error": {"code": 429, "message": "You exceeded your quota", "details": details}}])
    assert isinstance(error, RateLimitedError) and not error.long and error.seconds == 31.0


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"message": "Please retry after 86400 seconds."}}, 86400.0),
        ({"error": {"message": "Please try again in 7m12s. Visit our page"}}, 432.0),
        ({"error": {"message": "Try again in 250ms."}}, 0.25),
        ({"error": {"message": "slow", "resets_in_seconds": 7100}}, 7100.0),
        ({"error": {"message": "slow"}, "retry_after": "90"}, 90.0),
        ({"detail": "slow", "retryAfterMs": 1500}, 1.5),
        ({"error": {"message": "slow", "retry_after_ms": 250.0, "resets_at": None}}, 0.25),
        ({"error": {"message": "slow", "details": [{"retryDelay": "39600.5s"}]}}, 39600.5),
        ({"error": {"message": "slow", "metadata": {"headers": {"X-RateLimit-Reset": "{reset}"}}}}, 7200.0),
    ],
)
def test_wait_is_read_from_the_body(picture, body, seconds):
    error = said(picture, 429, json.dumps(body).replace("{reset}", str(round((time.time() + 7200) * 1000))))
    assert isinstance(error, RateLimitedError) and error.seconds == pytest.approx(
        seconds, abs=30 if seconds == 7200 else 0
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            [{"error": {"code": 400, "message": "API key not valid. Pass a valid API key."}}],
            "requires a key",
        ),
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided: xa***89."}, "requires a key"),
        (401, {"statusCode": 401, "message": "Access denied due to invalid subscription key."}, "requires a key"),
        (
            500,
            {"error": {"code": 500, "message": "image input is not supported - hint: mmproj"}},
            "does not accept pictures",
        ),
        (
            404,
            {"error": {"message": "No endpoints found that support image input", "code": 404}},
            "does not accept pictures",
        ),
        (
            400,
            {"object": "error", "message": "At most 0 image(s) may be provided."},
            "does not accept pictures",
        ),
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "omit seed",
        ),
        (400, {"error": {"message": "Unrecognized request argument supplied: reasoning_effort"}}, "extra_body"),
        (403, {"error": {"message": "Country, region, or territory not supported"}}, "does not serve your region"),
        (400, {"error": {"message": "max_tokens is too large: 30000. At most 16384 are supported."}}, "max_tokens"),
        (
            200,
            {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
            "no chat completions at this address",
        ),
    ],
)
def test_fault_of_every_request_stops_the_job_with_the_remedy(picture, status, body, words):
    error = said(picture, status, body)
    with pytest.raises(DescribeError, match=words):
        raise error


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            400,
            {"object": "error", "message": "The prompt (length 15983) is longer than the maximum model length"},
        ),
        (
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 4096 tokens. Reduce the length",
                    "code": "x",
                }
            },
        ),
        (
            400,
            {
                "error": {
                    "type": "exceed_context_size_error",
                    "message": "it exceeds the available context size",
                }
            },
        ),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}),
        (
            429,
            {"error": {"message": "Request too large for gpt-4o on tokens per min (TPM): Requested 30601"}},
        ),
        (400, [{"error": {"code": 400, "message": "Request payload size exceeds the limit: 20971520 bytes."}}]),
        (400, {"error": {"message": "image dimensions exceed max allowed size: 8000 pixels"}}),
        (413, "<html><title>413 Request Entity Too Large</title></html>"),
    ],
)
def test_picture_of_too_many_tokens_fails_alone_even_as_the_first(picture, status, body):
    error = said(picture, status, body)
    assert isinstance(error, RequestFailedError) and not error.retryable


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (424, {"error": "Request failed during generation: Server error", "error_type": "generation"}),
        (500, {"error": {"message": "model requires more system memory (5.5 GiB) than is available"}}),
        (499, [{"error": {"code": 499, "status": "CANCELLED", "message": "The operation was cancelled."}}]),
    ],
)
def test_failure_of_the_server_may_be_retried(picture, status, body):
    error = said(picture, status, body)
    assert isinstance(error, RequestFailedError) and error.retryable and error.server_fault


def test_words_of_a_server_behind_a_gateway_are_unpacked_and_free_of_secrets(picture):
    inner = json.dumps(
        {"error": {"code": 400, "message": "Bad image sk-abcdefghijklmnopqrst data:image/png;base64,AAAA"}}
    )
    for body in ({"error": {"message": inner}}, {"error": {"message": "Provider error", "metadata": {"raw": inner}}}):
        error = said(picture, 400, body)
        assert isinstance(error, RequestFailedError)
        assert error.detail.removeprefix("Provider error: ") == "Bad image [key] data:..."


def test_untrusted_certificate_is_named_with_the_remedy(picture, monkeypatch):
    with StubServer(Scenario(tls=True)) as server:
        for check in (True, False):
            error = outcome(picture, server.base_url, check=check)
            assert isinstance(error, DescribeError)
            assert "certificate is not trusted (self" in str(error) and "SSL_CERT_FILE" in str(error)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        assert "answer 1" in str(outcome(picture, server.base_url, check=True))
        assert "to the name in the certificate" in str(
            outcome(picture, server.base_url.replace("127.0.0.1", "localhost"))
        )


ANSWER = {"choices": [{"message": {"content": "A café."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}
PARTS = ("A ca", "fé.")
CHUNKS = [{"choices": [{"delta": {"content": part}}]} for part in PARTS]
CHUNKS += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"prompt_tokens": 9}}]


def events(*bodies):
    return "".join(f"data: {json.dumps(body)}\r\n\r\n" for body in bodies) + "data: [DONE]\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        "\ufeff" + json.dumps(ANSWER),
        "\r\n" + json.dumps(ANSWER) + "\n\0",
        json.dumps(ANSWER) * 2,
        [ANSWER],
        {"success": True, "result": ANSWER},
        json.dumps(json.dumps(ANSWER)),
        ")]}',\n" + json.dumps(ANSWER),
        f"callback({json.dumps(ANSWER)});",
        f"```json\n{json.dumps(ANSWER)}\n```",
        json.dumps(ANSWER).replace(": 9", f": {'9' * 5000}"),
        events(ANSWER),
        events(*CHUNKS),
    ],
)
def test_paid_answer_in_an_odd_body_is_read(picture, body):
    assert said(picture, 200, body) == "A café."


@pytest.mark.parametrize("packing", ["gzip", "br", "deflate", "zstd", "gzip, br", "aws-chunked"])
def test_answer_that_is_not_packed_as_its_header_says_is_read(picture, packing):
    with StubServer(Scenario(faults=(Fault("packed", text=packing),))) as server:
        assert "answer 1" in str(outcome(picture, server.base_url))
        assert len(server.log) == 1


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_body_that_is_packed_as_its_header_says_is_read(picture, status, pack):
    body = {200: ANSWER, 429: {"error": {"message": "Please try again in 7m12s."}}}[status]
    with ThreadingHTTPServer(("127.0.0.1", 0), Fixed) as server:
        encoding = "gzip" if pack is gzip.compress else "deflate"
        server.status, server.data, server.encoding = status, pack(json.dumps(body).encode()), encoding
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = outcome(picture, f"http://127.0.0.1:{server.server_port}/v1")
        server.shutdown()
    assert found == "A café." if status == 200 else found.seconds == 432.0


class Fixed(BaseHTTPRequestHandler):
    """Sends the same bytes to every question."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.send_header("Content-Encoding", self.server.encoding)
        self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        self.wfile.write(self.server.data)

    def log_message(self, *_):
        pass


OLLAMA = {"model": "llava", "message": {"role": "assistant", "content": "A cat."}, "done": True, "eval_count": 3}
ANTHROPIC = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
RESPONSES = {"object": "response", "status": "completed", "output": [{"type": "message", "content": []}], "error": None}
OTHER_FORMS = [
    (OLLAMA, "Ollama's own API", "11434/v1"),
    ({"model": "llava", "response": "A cat.", "done": True}, "Ollama's own API", "11434/v1"),
    ("\n".join(json.dumps(OLLAMA | {"done": done}) for done in (False, True)), "Ollama's own API", "11434/v1"),
    (ANTHROPIC, "Anthropic's messages", "https://api.anthropic.com/v1"),
    (events({"type": "message_start", "message": ANTHROPIC}), "Anthropic's messages", "https://api.anthropic.com/v1"),
    (RESPONSES, "OpenAI's responses", "https://api.openai.com/v1"),
    (events({"type": "response.created", "response": RESPONSES}), "OpenAI's responses", "https://api.openai.com/v1"),
    ({"candidates": [{"content": {"parts": [{"text": "A cat."}]}}]}, "Gemini's own API", "v1beta/openai"),
    ([{"generated_text": "A cat."}], "generated_text: A cat.", "base_url"),
    ("A cat on a mat.", "A cat on a mat.", "base_url"),
]


@pytest.mark.parametrize(("body", "form", "address"), OTHER_FORMS)
def test_answer_in_the_form_of_another_api_names_it_and_the_address_to_use(picture, body, form, address):
    first, later = said(picture, 200, body), said(picture, 200, body, settled=True)
    assert isinstance(first, DescribeError)
    assert isinstance(later, RequestFailedError) and not later.retryable and fails_again(later.reason)
    for error in (first, later):
        assert form in str(error) and address in str(error)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(ANSWER, ensure_ascii=False).encode("latin-1"),
        json.dumps(ANSWER, ensure_ascii=False).encode("utf-8-sig"),
        json.dumps(ANSWER, ensure_ascii=False).encode("utf-16"),
        gzip.compress(json.dumps(ANSWER).encode(), mtime=0),
    ],
)
def test_body_in_any_encoding_is_read(data):
    assert parse_body(data) == ANSWER


def test_events_keep_reason_usage_and_thinking():
    thought = {"choices": [{"delta": {"reasoning_content": "Hm."}}]}
    body = parse_body(events(thought, *CHUNKS).encode())
    (choice,) = body["choices"]
    assert choice["message"] == {"content": "A café.", "reasoning_content": "Hm.", "refusal": ""}
    assert choice["finish_reason"] == "stop" and body["usage"] == {"prompt_tokens": 9}
    assert parse_body(events({"error": {"message": "no"}}).encode()) == {"error": {"message": "no"}}


@pytest.mark.parametrize(
    ("body", "words"), [("", "the body is empty"), ("null", "null"), ("<html><title>Sign in</title>", "Sign in")]
)
def test_body_without_an_answer_is_told_in_words(picture, body, words):
    error = said(picture, 200, body)
    assert isinstance(error, RequestFailedError) and str(error) == f"unreadable answer: {words}"


class Redirects(BaseHTTPRequestHandler):
    """Sends every request on."""

    def do_POST(self):
        self.send_response(self.server.status)
        self.send_header("Location", self.server.target + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - as the library calls it

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("check", [True, False])
def test_redirect_is_named_and_not_followed(picture, status, check):
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as server:
        server.status, server.target = status, "https://other.example"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        error = outcome(picture, f"http://127.0.0.1:{server.server_port}/v1", check=check)
        server.shutdown()
    assert isinstance(error, DescribeError)
    assert "redirects to https://other.example/v1/" in str(error)
    assert "set base_url to https://other.example/v1" in str(error)


def test_encrypted_address_of_a_plain_server_is_named_with_the_remedy(picture):
    with StubServer() as server:
        error = outcome(picture, server.base_url.replace("http:", "https:"))
    assert isinstance(error, DescribeError) and "http:// in base_url" in str(error)


def test_plain_address_of_an_encrypted_server_is_named_with_the_remedy(picture):
    with StubServer(Scenario(tls=True)) as server:
        error = outcome(picture, server.base_url.replace("https:", "http:"), check=True)
    assert isinstance(error, EndpointDownError) and "write https:// in base_url" in str(error)
    said = Fault("body", status=400, text="Client sent an HTTP request to an HTTPS server.\n")
    with StubServer(Scenario(faults=(said,))) as server:
        error = outcome(picture, server.base_url)
    assert isinstance(error, DescribeError) and "write https:// in base_url" in str(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:port/v1", "its port is not a number"),
        ("http://127.0.0.1:99999/v1", "its port is not a number up to 65,535"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
        ("http://my host/v1", "the host name is invalid"),
    ],
)
@pytest.mark.parametrize("server", [OpenAIDescriber, BatchServer])
def test_address_that_cannot_be_read_is_refused_with_the_reason(url, words, server):
    with pytest.raises(ConfigError, match=words):
        server(MODEL, url)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://user:secret@127.0.0.1:port", "HTTP_PROXY is '127.0.0.1:port': its port"),
        ("not a url", "HTTP_PROXY is 'not a url': the host name is invalid"),
        ("socks5://127.0.0.1:9", "only proxies that speak HTTP are supported"),
    ],
)
def test_proxy_that_cannot_be_used_is_named_by_its_variable(picture, monkeypatch, proxy, words):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    for check in (True, False):
        error = outcome(picture, "http://127.0.0.1:9/v1", check=check)
        assert isinstance(error, ConfigError) and words in str(error) and "secret" not in str(error)
    with pytest.raises(ConfigError, match=words):
        BatchServer(MODEL, "http://127.0.0.1:9/v1").check()


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere.pem", "No such file"), ("empty.pem", "contains no certificates")]
)
def test_file_of_certificates_that_cannot_be_used_is_named(picture, monkeypatch, tmp_path, name, words):
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
    error = outcome(picture, "https://127.0.0.1:9/v1", check=True)
    assert isinstance(error, ConfigError) and "SSL_CERT_FILE" in str(error) and words in str(error)


@pytest.mark.parametrize("code", [9, 10])
def test_certificate_of_another_time_is_told_from_an_untrusted_one(code):
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "certificate has expired"
    assert "This machine's date is 20" in tls_problem(error) and "SSL_CERT_FILE" not in tls_problem(error)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_proxy_that_catches_a_local_address_is_named_with_the_remedy(picture, monkeypatch, variable):
    page = Fault("html", status=503)
    catches = Scenario(faults=(page, Fault("html", on="models", status=503)))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with StubServer(catches) as proxy, StubServer() as server:
        monkeypatch.setenv(variable, f"http://user:password@127.0.0.1:{proxy.port}")
        for check in (True, False):
            error = outcome(picture, server.base_url, check=check)
            assert isinstance(error, EndpointDownError)
            assert f"127.0.0.1:{proxy.port} ({variable})" in str(error) and "NO_PROXY=127.0.0.1" in str(error)
            assert "password" not in str(error)
        proxy.stop()
        assert "NO_PROXY=127.0.0.1" in str(outcome(picture, server.base_url))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert "answer 1" in str(outcome(picture, server.base_url, check=True))


def test_proxy_that_wants_a_password_says_so(picture, monkeypatch, recwarn):
    monkeypatch.delenv("NO_PROXY", raising=False)
    warnings.simplefilter("always")
    with StubServer(Scenario(faults=(Fault("body", status=407, text='{"message": "Login"}'),))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:wrong@127.0.0.1:{proxy.port}")
        error = outcome(picture, "http://far.example/v1")
    assert isinstance(error, DescribeError) and "proxy requires a user name and password" in str(error)
    assert not recwarn.list and "wrong" not in str(error)
