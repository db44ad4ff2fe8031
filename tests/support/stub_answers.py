"""Answers of the stub server: a description made of the picture itself, or an error in the real API's wording."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, ImageStat

from support.stub_scenario import ANSWERS, ERRORS, Entry, Fault, Scenario

THOUGHT = "The user wants a description. Let me look at the picture."
REFUSAL = "I'm sorry, but I can't help with that."
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[2J\x1b]0;owned\x07\x1b[31m \u202egnp.exe\u202c "
    "\u2066hidden\u2069 \x00 \r\n=HYPERLINK(0) {{7*7}} \ud83d end"
)
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>nginx</body></html>"
COMPLETION = (
    '{"id": "chatcmpl-%d", "object": "chat.completion", "created": 1700000000, "model": %s, "choices": [{"index": 0, '
    '"message": {"role": "assistant", "content": %s, "refusal": %s}, "logprobs": null, "finish_reason": "%s"}], '
    '"usage": {"prompt_tokens": %d, "completion_tokens": %d, "total_tokens": %d}}'
)
PICTURE_TOKENS, TILE_TOKENS, TILE = 85, 170, 512


@dataclass(frozen=True, slots=True)
class Question:
    """A chat request.

    Attributes:
        width: width of the first picture, 0 without one.
        height: its height, likewise.
        tokens: prompt tokens: one per 4 characters of a message, 4 per message, and per picture 85 + 170 per tile of
            512 x 512 pixels.
        picture: bytes of the first picture.
    """

    mark: str = ""
    width: int = 0
    height: int = 0
    turn: int = 1
    system: bool = False
    text: str = ""
    tokens: int = 0
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    picture: bytes = b""

    def note(self, entry: Entry) -> None:
        """Copy the request into its log entry."""
        entry.mark, entry.turn, entry.system = self.mark, self.turn, self.system
        entry.question, entry.model, entry.settings = self.text, self.model, self.settings

    @property
    def most_tokens(self) -> float:
        """Maximum tokens of the answer."""
        limits = (self.settings.get(name) for name in ("max_tokens", "max_completion_tokens"))
        return min((limit for limit in limits if limit is not None), default=math.inf)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and headers of a response, and whether it is charged."""

    status: int
    body: bytes
    paid: bool = False
    fault: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


class RefusedError(Exception):
    """A request is invalid.

    Args:
        answer: the server's response.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.fault)
        self.answer = answer


def error(
    status: int,
    message: str,
    code: str | None = None,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    fault: str = "",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Return an error in the API's form."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Answer(status, json.dumps(body).encode(), fault=fault or code or kind, headers=headers or {})


def wrong_key(header: str | None) -> Answer:
    """Return a 401 that repeats the header it was sent, as careless servers do."""
    message = f"Incorrect API key provided: {header}. You can find your API key in your account settings."
    return error(401, message, "invalid_api_key", fault="wrong_key")


def unknown_model(model: str) -> Answer:
    return error(404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found")


def invalid_picture() -> Answer:
    message = (
        "You uploaded an unsupported image. Please make sure your image is below 20 MB in size and is of one the "
        "following formats: ['png', 'jpeg', 'gif', 'webp']."
    )
    return error(400, message, "image_parse_error", fault="invalid_image")


def too_large() -> Answer:
    return error(413, "Request body too large.", "request_too_large", fault="too_large")


def ask(body: bytes | dict[str, Any]) -> Question:
    """Parse a chat request from a body or a line of a batch.

    Raises:
        RefusedError: it is invalid.
    """
    try:
        data: dict[str, Any] = json.loads(body) if isinstance(body, bytes) else body
        messages, model = data.pop("messages"), data.pop("model")
        return read_messages(messages, model, data)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RefusedError(error(400, f"We could not parse the body of your request: {problem!r}")) from problem


def read_messages(messages: list[dict[str, Any]], model: str, settings: dict[str, Any]) -> Question:
    mark, width, height, turn, system, text, tokens, picture = "", 0, 0, 0, False, "", 3, b""
    for message in messages:
        content, role = message["content"], message["role"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        words = " ".join(part["text"] for part in parts if part["type"] == "text")
        tokens += 4 + math.ceil(len(words) / 4)
        system |= role in ("system", "developer")
        if role == "user":
            turn, text = turn + 1, words
        for part in parts:
            if part["type"] == "image_url":
                name, across, down, data = decode_picture(part["image_url"]["url"])
                tokens += PICTURE_TOKENS + TILE_TOKENS * math.ceil(across / TILE) * math.ceil(down / TILE)
                if not mark:
                    mark, width, height, picture = name, across, down, data
    return Question(mark, width, height, turn, system, text, tokens, model, settings, picture)


def decode_picture(url: str) -> tuple[str, int, int, bytes]:
    """Return mark, width, height and bytes of the picture in a `data:` URL."""
    head, _, coded = url.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise RefusedError(error(400, f"Failed to download image from {head[:60]}.", "invalid_image_url"))
    try:
        data = base64.b64decode(coded, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            width, height = image.size
    except (binascii.Error, OSError, SyntaxError) as problem:
        raise RefusedError(invalid_picture()) from problem
    return mark_of(data), width, height, data


def mark_of(data: bytes) -> str:
    """Return the mark of a picture: the first 12 digits of its `image_id`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()[:12]


def describe(question: Question) -> str:
    """Return the description of a picture, or a class of the question's list; equal questions get equal texts."""
    if names := listed(question):
        return pick(question, names)
    if not question.mark:
        return "There is no picture."
    size = f"{question.width} x {question.height} pixels"
    with_system = " There is a system message." if question.system else ""
    return f"A picture of {size} with the mark {question.mark}. This is answer {question.turn}.{with_system}"


def listed(question: Question) -> list[str]:
    """Return the names that a question lists, one per line; the last stands for none of them."""
    return [line[2:].partition(":")[0] for line in question.text.splitlines() if line.startswith("- ")]


def pick(question: Question, names: list[str]) -> str:
    """Return the colour of the picture if it is listed, the last name if other colours are, else one by the mark."""
    if not {"red", "green", "blue"} & set(names):
        return names[int(question.mark or "0", 16) % len(names)]
    with Image.open(io.BytesIO(question.picture)) as image:
        red, green, blue = ImageStat.Stat(image.convert("RGB")).mean
    colour = max((red, "red"), (green, "green"), (blue, "blue"))[1]
    return colour if colour in names else names[-1]


def with_log_probabilities(answer: Answer, question: Question) -> Answer:
    """Return an answer with the log-probabilities of its two tokens: 0.7 for what it says, the rest for other names."""
    (choice,) = json.loads(answer.body)["choices"]
    said, most = choice["message"]["content"], question.settings["top_logprobs"]
    others = [name for name in listed(question) if name != said][: most - 1]
    first = {said[:2]: 0.7} | {name[:2]: 0.3 / len(others) for name in others}
    content = [
        {"token": token, "logprob": math.log(shares[token]), "top_logprobs": [
            {"token": other, "logprob": math.log(share)} for other, share in shares.items()
        ]}
        for token, shares in ((said[:2], first), (said[2:], {said[2:]: 1.0}))
    ]  # fmt: skip
    return with_fields(answer, choices=[{**choice, "logprobs": {"content": content}}])


def check(question: Question, scenario: Scenario) -> Answer | None:
    """Return the error for a well-formed request with unsupported settings, if any."""
    settings = question.settings
    if scenario.models and question.model not in scenario.models:
        return unknown_model(question.model)
    if settings.get("stream"):
        return error(400, "Streaming is not supported.", "unsupported_value", param="stream")
    if scenario.no_max_tokens and "max_tokens" in settings:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return error(400, message, "unsupported_parameter", param="max_tokens")
    if settings.get("top_logprobs", 0) > {"refuse": 0, "five": 5}.get(scenario.logprobs, 20):
        status, message = (
            (403, "You are not allowed to request logprobs from this model.")
            if scenario.logprobs == "refuse"
            else (400, "Invalid value for 'top_logprobs': must be at most 5.")
        )
        return error(status, message, "unsupported_parameter", param="top_logprobs")
    if scenario.no_temperature and settings.get("temperature", 1) != 1:
        message = (
            f"Unsupported value: 'temperature' does not support {settings['temperature']} with this model. Only the "
            "default (1) value is supported."
        )
        return error(400, message, "unsupported_value", param="temperature")
    return None


def fault_answer(question: Question, fault: Fault, entry: Entry, header: str | None) -> Answer | None:
    """Return the answer that a fault turns a question into; None if the fault does not affect the answer."""
    if fault.kind in ERRORS:
        return error_answer(fault, question.model, header)
    if fault.kind == "no_choices":
        return unlike_an_answer(completion(question, entry, describe(question), fault=fault.kind), header)
    if fault.kind == "echo":
        return completion(question, entry, describe(question), str(header), fault=fault.kind)
    if fault.kind in ANSWERS:
        text, refusal, reason = faulty(describe(question), fault)
        answer = completion(question, entry, text, reason, refusal=refusal, fault=fault.kind)
        return with_more_fields(answer, fault)
    return None


def with_more_fields(answer: Answer, fault: Fault) -> Answer:
    """Return an answer with the fields that its fault changes."""
    if fault.kind == "usage":
        return with_fields(answer, usage=json.loads(fault.text))
    if fault.kind == "model":
        return with_fields(answer, model=fault.text)
    if fault.kind == "reasoning_cut":
        (choice,) = json.loads(answer.body)["choices"]
        choice["message"]["reasoning_content"] = THOUGHT
        return with_fields(answer, choices=[choice])
    return answer


def unlike_an_answer(answer: Answer, header: str | None) -> Answer:
    """Return a completion without choices that repeats the key at a position where clients cut long messages."""
    body = {**json.loads(answer.body), "choices": []}
    return replace(answer, body=json.dumps({"note": "x" * 150, "header": header, **body}).encode())


def with_fields(answer: Answer, **fields: Any) -> Answer:
    """Return an answer with other fields in its body."""
    return replace(answer, body=json.dumps({**json.loads(answer.body), **fields}).encode())


def without_usage(answer: Answer) -> Answer:
    """Return an answer without usage."""
    body = json.loads(answer.body)
    body.pop("usage", None)
    return replace(answer, body=json.dumps(body).encode())


def error_answer(fault: Fault, model: str, header: str | None) -> Answer:
    later = {} if fault.seconds is None else {"Retry-After": f"{fault.seconds:g}"}
    quota = "You exceeded your current quota, please check your plan and billing details."
    long = "This model's maximum context length is 4096 tokens. Please reduce the length of the messages."
    failed = "The server had an error while processing your request. Sorry about that!"
    answers = {
        "body": Answer(fault.status or 200, fault.text.encode(), fault="body"),
        "rate_limit": too_many("Rate limit reached for requests.", later, "rate_limit"),
        "quota": error(429, quota, "insufficient_quota", kind="insufficient_quota", fault="quota"),
        "invalid_image": invalid_picture(),
        "too_large": too_large(),
        "too_long": error(400, long, "context_length_exceeded", param="messages", fault="too_long"),
        "wrong_key": wrong_key(header),
        "unknown_model": unknown_model(model),
        "status": error(fault.status or 500, failed, kind="server_error", fault="status", headers=later),
    }
    return answers[fault.kind]


def too_many(message: str, headers: dict[str, str], fault: str) -> Answer:
    return error(429, message, "rate_limit_exceeded", kind="requests", fault=fault, headers=headers)


def faulty(text: str, fault: Fault) -> tuple[str | None, str | None, str]:
    """Return content, refusal and finish reason of an answer with a fault."""
    words = text.split(" ")
    faulty_answers: dict[str, tuple[str | None, str | None, str]] = {
        "empty": ("", None, "stop"),
        "null": (None, None, "stop"),
        "refusal": (None, REFUSAL, "stop"),
        "refusal_text": (REFUSAL, None, "stop"),
        "content_filter": ("", None, "content_filter"),
        "length": (" ".join(words[: len(words) // 2]), None, "length"),
        "hostile": (f"{text} {HOSTILE}", None, "stop"),
        "text": (fault.text, None, "stop"),
        "thinking": (f"<think>\n{THOUGHT}\n</think>\n\n{text}", None, "stop"),
        "thinking_cut": (f"<think>\n{THOUGHT}", None, "length"),
        "reasoning_cut": (None, None, "length"),
        "usage": (text, None, "stop"),
        "model": (text, None, "stop"),
        "finish": (" ".join(words[: len(words) // 2]), None, fault.text),
    }
    return faulty_answers[fault.kind]


def completion(
    question: Question,
    entry: Entry,
    text: str | None,
    reason: str = "stop",
    *,
    refusal: str | None = None,
    fault: str = "",
) -> Answer:
    """Return a chat completion; a text longer than the request allows is cut."""
    words = (text or refusal or "").split(" ") if text or refusal else []
    if text and len(words) > question.most_tokens:
        words = words[: int(question.most_tokens)]
        text, reason = " ".join(words), "length"
    read, written = entry.tokens_in, entry.tokens_out = question.tokens, len(words)
    content, declined, model = json.dumps(text), json.dumps(refusal), json.dumps(question.model)
    body = COMPLETION % (entry.number, model, content, declined, reason, read, written, read + written)
    return Answer(200, body.encode(), paid=True, fault=fault)
