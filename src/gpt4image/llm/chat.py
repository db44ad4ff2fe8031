"""OpenAI's chat completions protocol: build the body of a call and read the answer out of the response."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpt4image.llm.base import (
    CUT_OFF,
    FILTERED,
    FILTERS,
    NO_TEXT,
    OTHER_FORM,
    ChatAnswer,
    DescribeRequest,
    RequestFailedError,
    Token,
    only_thought,
    plain_reason,
    thought_too_long,
)
from gpt4image.llm.error_body import plain_words, server_message

Body = dict[str, Any]

DETAIL_LENGTH = 200

# Starts of bodies that are no answer but may be followed by one: a page of a gateway, JSON or events that were cut.
BROKEN_BODY = ("<", "{", "[", '"', "data:", "event:")

# vLLM and SGLang abort what they cannot finish; the others are from DeepSeek and Zhipu
BROKEN_OFF = ("error", "abort", "cancelled", "timeout", "network_error", "insufficient_system_resource", "server_error")
# What a server may add to a model's name: a date, a number of three digits or more, a tag.
VERSION = re.compile(r"(?:[-@](?:\d{3,}(?:-\d+)*|latest|preview|exp)[\w-]*|:.*)?")

# The highest plausible token count: no model reads or writes more in one call, and one wrong count must not use up a
# budget.
MAX_TOKENS = 10**6

COUNT = re.compile(r"\d{1,12}(?:\.0*)?")

# Stands for the log-probability of an impossible token: its exponential is 0.
LOWEST = -1000.0


def chat_body(
    model: str,
    request: DescribeRequest,
    answers: Sequence[str],
    *,
    old_limit: bool = True,
    top_log_probabilities: int = 0,
) -> Body:
    """Build the body of the call that asks the next question of a request.

    Args:
        model: the model.
        request: the conversation.
        answers: answers to its first questions.
        old_limit: limit the answer by `max_tokens`, which every server once accepted, instead of the newer
            `max_completion_tokens`.
        top_log_probabilities: number of alternative tokens per position whose log-probabilities to ask for.
    """
    content: list[Body] = [{"type": "image_url", "image_url": {"url": each.data_url}} for each in request.pictures]
    content.append({"type": "text", "text": request.turns[0]})
    messages: list[Body] = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": content})
    for answer, question in zip(answers, request.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    sampling = request.sampling.to_dict()
    limit: Body = {"max_tokens" if old_limit else "max_completion_tokens": sampling.pop("max_tokens")}
    extra: Body = sampling.pop("extra_body", {})
    if top_log_probabilities:
        limit |= {"logprobs": True, "top_logprobs": top_log_probabilities}
    return {"model": model, "messages": messages, **limit, **sampling, **extra}


def read_answer(body: Any) -> ChatAnswer:  # noqa: ANN401 - whatever a server sends
    """Read the answer out of a server's JSON.

    Raises:
        RequestFailedError: the answer was refused, filtered, empty or malformed. The error has the tokens that were
            used nevertheless.
    """
    match body:
        case {"choices": [{"message": Mapping() as message} as choice, *_]}:
            pass
        case {"choices": [Mapping() as choice, *_]}:  # a text as in the legacy API, or only a reason
            message = {"content": choice.get("message") or choice.get("text")}
        case _:
            raise malformed(body)
    text, written = content_text(message.get("content")), completion_tokens(body)
    answer = ChatAnswer(
        text=text,
        finish_reason=str_or_none(choice.get("finish_reason")),
        tokens_in=prompt_tokens(body),
        tokens_out=None if written == 0 and text.strip() else written,
        model=str_or_none(body.get("model")) or "",
        tokens=read_tokens(choice.get("logprobs")),
    )
    refusal = str_or_none(message.get("refusal"))
    if refusal and not answer.text.strip():
        raise RequestFailedError("refused by the model", refusal, retryable=False).with_tokens([answer])
    reason = plain_reason(answer.finish_reason)
    if reason.startswith(FILTERS):
        raise RequestFailedError(FILTERED, answer.text, retryable=False).with_tokens([answer])
    if reason in BROKEN_OFF:
        raise broken_off(choice, answer)
    if not answer.text.strip():
        if reason in CUT_OFF:
            raise thought_too_long([answer])
        if answer.thought or has_reasoning(message, body):
            raise only_thought([answer])
        if found := other_content(message):
            raise without_text(found, answer)
        detail = f"finish reason {answer.finish_reason}"
        raise RequestFailedError("empty answer", detail, retryable=True).with_tokens([answer])
    return answer


def read_tokens(found: Any) -> tuple[Token, ...]:  # noqa: ANN401 - whatever a server sends
    """Read the tokens of an answer with their log-probabilities; none if they are missing or malformed."""
    rows = found.get("content") if isinstance(found, Mapping) else None
    try:
        return tuple(
            Token(*read_log_probability(row), tuple(map(read_log_probability, row.get("top_logprobs") or ())))
            for row in rows or ()
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def read_log_probability(row: Mapping[str, Any]) -> tuple[str, float]:
    """Read a token and its log-probability. An error of any kind if it is malformed."""
    value = float(row["logprob"])
    if math.isnan(value) or not isinstance(row["token"], str):
        raise ValueError(value)
    return row["token"], min(0.0, max(LOWEST, value))


def has_reasoning(message: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Return whether a message has thinking in a field or part of its own, or a count of it."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    fields = [message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details", "thinking")]
    in_parts = any(isinstance(part, Mapping) and part.get("type") == "thinking" for part in parts)
    return any(fields) or in_parts or bool(thinking_tokens(body))


def thinking_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the thinking tokens if the response counts them separately, else None."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    places = (usage.get("completion_tokens_details"), usage.get("output_tokens_details"), usage)
    counts = (token_count({"usage": place}, "reasoning_tokens") for place in places)
    return next((count for count in counts if count is not None), None)


def is_other_model(asked: str, served: str) -> bool:
    """Return whether the server used another model than requested, apart from folders, versions and tags.

    >>> is_other_model("openai/gpt-4o", "gpt-4o-2024-08-06"), is_other_model("gpt-4o", "gpt-4o-mini")
    (False, True)
    """
    names = (name.casefold().rpartition("/")[2].removesuffix("-latest") for name in (asked, served))
    shorter, longer = sorted(names, key=len)
    return bool(shorter) and not (longer.startswith(shorter) and VERSION.fullmatch(longer[len(shorter) :]))


def malformed(body: Any) -> RequestFailedError:  # noqa: ANN401 - whatever a server sends
    """Return the error for a body that is no chat completion; the call may still report the tokens it used.

    A whole answer in another form would come again, so only what may be a part of one, or a page, is retried.
    """
    usage = body if isinstance(body, Mapping) else {}
    said = server_message(body) or plain_words(body) or json.dumps(body)
    detail = "the body is empty" if body == "" else said[:DETAIL_LENGTH]
    if not body or "choices" in usage or (isinstance(body, str) and body.lstrip().startswith(BROKEN_BODY)):
        error = RequestFailedError("unreadable answer", detail, retryable=True, server_fault=True)
    else:
        unknown = f"no chat completion ({detail}): set base_url (--base-url) to a server that sends those"
        error = RequestFailedError(OTHER_FORM, other_form(body) or unknown, retryable=False)
    counts = prompt_tokens(usage), completion_tokens(usage)
    return error.with_tokens([ChatAnswer("", None, *counts)])


def other_form(body: Any) -> str:  # noqa: ANN401 - whatever a server sends
    """Return which other API an answer is of, and where the same server speaks OpenAI's; empty if it is not known.

    >>> other_form({"type": "message", "content": [{"type": "text", "text": "A cat."}]})[:31]
    "the form of Anthropic's message"
    """
    match body:
        case {"done": bool()} | {"eval_count": _}:
            name, address = "Ollama's own API", "http://HOST:11434/v1"
        case {"type": "message", "content": _} | {"type": "message_start"}:
            name, address = "Anthropic's messages", "https://api.anthropic.com/v1"
        case {"object": "response"} | {"type": "response.created"}:
            name, address = "OpenAI's responses", "https://api.openai.com/v1"
        case {"candidates": _}:
            name, address = "Gemini's own API", "https://generativelanguage.googleapis.com/v1beta/openai"
        case _:
            return ""
    return (
        f"the form of {name}, not of OpenAI's chat completions: set base_url (--base-url) to the address that speaks "
        f"those, such as {address}"
    )


def other_content(message: Mapping[str, Any]) -> str:
    """Return what a message without a text holds instead, such as `tool_calls`; empty if it holds nothing."""
    parts = message["content"] if isinstance(message.get("content"), list) else []
    kinds = [str(part.get("type")) for part in parts if isinstance(part, Mapping) and part.get("type") != "text"]
    others = {name: value for name, value in message.items() if name != "content" and isinstance(value, Mapping | list)}
    fields = [name for name, value in others.items() if plain_words(value)]
    return ", ".join(dict.fromkeys(kinds or fields))


def without_text(found: str, answer: ChatAnswer) -> RequestFailedError:
    """Return the error for an answer that holds something else than a text; a retry would cost as much."""
    advice = "choose another model, or set what keeps it to text in extra_body (--extra-body)"
    if "tool" in found or "function" in found:
        advice = 'turn off the server\'s tools, or send {"tool_choice": "none"} in extra_body (--extra-body)'
    detail = f"{found} in place of a text: {advice}"
    return RequestFailedError(NO_TEXT, detail, retryable=False).with_tokens([answer])


def broken_off(choice: Mapping[str, Any], answer: ChatAnswer) -> RequestFailedError:
    """Return the error for an answer that the server cut off."""
    error = choice.get("error")
    detail = str_or_none(error.get("message")) if isinstance(error, Mapping) else None
    reason = "cut off by the server"
    failure = RequestFailedError(reason, detail or answer.text[:DETAIL_LENGTH], retryable=True, server_fault=True)
    return failure.with_tokens([answer])


def content_text(content: Any) -> str:  # noqa: ANN401 - whatever a server sends
    """Return the text of a message's content, which is a string, a part, or a list of parts."""
    if isinstance(content, list):
        return "".join(map(content_text, filter(lambda part: isinstance(part, Mapping), content)))
    if isinstance(content, Mapping):
        return content_text(content.get("text"))
    return content if isinstance(content, str) else ""


def str_or_none(value: Any) -> str | None:  # noqa: ANN401 - whatever a server sends
    """Return the value if it is a string."""
    return value if isinstance(value, str) else None


def token_count(body: Mapping[str, Any], name: str) -> int | None:
    """Return a token count from the `usage` of a response; None if it is missing or implausible.

    Some gateways write counts as `120.0` or `"120"`.
    """
    usage = body.get("usage")
    value = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(value, str) and COUNT.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def prompt_tokens(body: Mapping[str, Any]) -> int | None:
    """Return a call's input tokens. No call has none, so 0 means that the server does not count."""
    return token_count(body, "prompt_tokens") or token_count(body, "input_tokens") or None


def completion_tokens(body: Mapping[str, Any]) -> int | None:
    """Return a call's output tokens. Some servers count thinking in `total_tokens` only, or separately."""
    total, read, thought = token_count(body, "total_tokens"), prompt_tokens(body), thinking_tokens(body) or 0
    written = token_count(body, "completion_tokens")
    if written is None:
        written = token_count(body, "output_tokens")
    if written is not None and thought > written:
        written += thought
    if total is not None and read is not None and total > read:
        return max(written or 0, total - read)
    return written
