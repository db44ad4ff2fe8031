"""Requests, replies and errors: the interface that every describer implements.

A describer sends a request once. Retries, concurrency, time limits, payment and records belong to the runner, which
decides by the class of the error:

    RequestFailedError   this request failed; `retryable` and `server_fault` say what may help
    RateLimitedError     the server asks for fewer requests
    EndpointDownError    the server cannot be reached; the pool leaves it out until it returns
    DescribeError        no request can succeed: wrong key, unknown model, no money; the job stops
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, Self

from gpt4image.core.errors import DescribeError
from gpt4image.llm.picture import Picture
from gpt4image.llm.thinking import find_thinking, strip_thinking


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; the model's own default applies where one is None.

    Attributes:
        max_tokens: maximum tokens per answer.
        temperature: 0 for greedy decoding, higher for more variety.
        top_p: probability mass of nucleus sampling.
        seed: random seed, for servers that support one.
        extra_body: further fields of the request's body, such as `reasoning_effort`, as a JSON object.
    """

    max_tokens: int = 300
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    extra_body: str | None = None

    def __post_init__(self) -> None:
        # 1 and 1.0 must give the same description key, which hashes these values as JSON.
        for name in ("temperature", "top_p"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters that are set, as JSON values."""
        values = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        return values if self.extra_body is None else {**values, "extra_body": json.loads(self.extra_body)}


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer.

    Attributes:
        text: its text.
        log_probability: its log-probability given all before it.
        others: the likeliest tokens at this position with their log-probabilities; may include this token.
    """

    text: str
    log_probability: float
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The answer to one question of a conversation.

    Attributes:
        text: the answer, without the thinking that may precede it.
        finish_reason: why generation stopped, such as `stop`, `length` or `content_filter`.
        tokens_in: prompt tokens; None if the server does not report usage.
        tokens_out: completion tokens, likewise.
        model: model name as reported by the server.
        tokens: the tokens of the text; empty if the server does not send log-probabilities.
        thought: whether the text held thinking.
    """

    text: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    model: str = ""
    tokens: tuple[Token, ...] = ()
    thought: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # The next request of the conversation repeats the text, and UTF-8 cannot encode lone surrogates.
        object.__setattr__(self, "thought", find_thinking(self.text) is not None)
        object.__setattr__(self, "text", strip_thinking(self.text).encode("utf-8", "replace").decode())
        object.__setattr__(self, "tokens", tokens_of(self.text, self.tokens))


def tokens_of(text: str, tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Return the last tokens of an answer that spell a text; none if they do not spell it."""
    start = "".join(token.text for token in tokens).rfind(text.strip())
    if start < 0:
        return ()
    ends = accumulate(len(token.text) for token in tokens)
    return tuple(token for token, end in zip(tokens, ends, strict=True) if end > start)


# Finish reasons, as `plain_reason` writes them, of servers that stopped an answer at its maximum length.
CUT_OFF = frozenset({"length", "max_length", "max_tokens", "max_output_tokens", "max_new_tokens", "model_length"})

# Those of a text that ended by itself.
COMPLETE = frozenset(
    {"", "stop", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token", "complete", "completed"}
)

# How finish reasons begin when a server withholds an answer; Google adds its own reason to the first.
FILTERS = (
    *("sensitive", "content_filter", "safety", "image_safety", "prohibited_content", "blocklist", "recitation", "spii"),
    *("guardrail", "refusal"),
)

# Reason of the failure when a model reaches the maximum length before its answer.
CUT_OFF_THINKING = "cut off while thinking"

# Reason of the failure when a model thinks, stops by itself and answers nothing.
ONLY_THOUGHT = "thought without answering"

# Reason of the failure when a server answers in the form of another API.
OTHER_FORM = "answer in another form"

# Reason of the failure when an answer holds something else in place of a text, such as calls of tools.
NO_TEXT = "answer without a text"

# Reason of a rate limit while a server loads its model.
MODEL_LOADING = "model loading"

# Reason of the failure when a server withholds the answer.
FILTERED = "stopped by the content filter"

# Reason of the failure when a model should pick a class and answers anything else.
NO_CHOICE = "not one of the classes"

# How the reason begins when a server refuses a request because of its content.
REFUSED = "refused by the server"

# Reasons of failures that would recur with the same request.
UNREADABLE, UNDECODED = "unreadable picture", "picture cannot be decoded"
NOT_RECORDED, TOO_LARGE = "not recorded", "too large for a batch"
LASTING = (REFUSED, CUT_OFF_THINKING, FILTERED, OTHER_FORM, NO_TEXT, UNREADABLE, UNDECODED, NOT_RECORDED, TOO_LARGE)

# Called with each answer as it arrives, before the next question is sent.
OnAnswer = Callable[[ChatAnswer], None]


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """A conversation, about one picture or none.

    Attributes:
        key: 32 hex digits that identify image, model, prompt and sampling.
        image_id: the image.
        name: image name for messages; untrusted.
        pictures: the picture to send, or the frames of a clip in the order of time; none for a conversation without.
        system: system message, if any.
        turns: questions, asked one after the other.
        sampling: sampling parameters of every answer.
        prompt_hash: hash of the prompt, 32 hex digits.
        sample: index of the sample, from 0.
        answers: answers to the first turns from earlier attempts. They are paid for; a describer that asks one question
            at a time resumes after them.
        log_probabilities: whether to ask for the log-probabilities of the last answer's tokens, if the server sends
            them.
    """

    key: str
    image_id: str
    name: str
    pictures: tuple[Picture, ...]
    system: str | None
    turns: tuple[str, ...]
    sampling: Sampling
    prompt_hash: str
    sample: int = 0
    answers: tuple[ChatAnswer, ...] = ()
    log_probabilities: bool = False

    @property
    def picture(self) -> Picture | None:
        """The picture; None for a question without any.

        Raises:
            DescribeError: there are several, and the caller can send only one.
        """
        if len(self.pictures) > 1:
            raise DescribeError(
                f"{self.name}: this describer sends one picture per request, and a clip has {len(self.pictures)}. "
                "Choose another (--describer openai, batch or local), or describe a single frame (--frames 1)."
            )
        return self.pictures[0] if self.pictures else None


@dataclass(frozen=True, slots=True)
class Reply:
    """All answers to a request.

    Attributes:
        texts: one answer per turn.
        finish_reason: why generation of the last answer stopped.
        tokens_in: prompt tokens over all turns; None if the server does not report usage.
        tokens_out: completion tokens over all turns, likewise.
        model: model name as reported by the server.
        tokens: tokens of the last answer, if the server sent log-probabilities.
    """

    texts: tuple[str, ...]
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    model: str
    tokens: tuple[Token, ...] = ()

    @classmethod
    def join(cls, answers: Sequence[ChatAnswer], model: str) -> Reply:
        """Build the reply from one answer per turn."""
        return cls(
            texts=tuple(answer.text for answer in answers),
            finish_reason=answers[-1].finish_reason,
            tokens_in=add_counts(answer.tokens_in for answer in answers),
            tokens_out=add_counts(answer.tokens_out for answer in answers),
            model=model,
            tokens=answers[-1].tokens,
        )


class Describer(Protocol):
    """Anything that answers requests: a server, a model in this process, a recording.

    Attributes:
        name: its name in the registry.
        place: its location in messages: a URL without credentials, or a model folder.
        model: requested model name; part of every description's key.
        max_concurrency: maximum requests in flight.
    """

    name: str
    place: str
    model: str
    max_concurrency: int

    async def check(self) -> None:
        """Check, before anything is paid for, that it can answer.

        Raises:
            EndpointDownError: it cannot be reached.
            DescribeError: it cannot answer any request, for example because of a wrong key. The message names the fix.
        """
        ...

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer) -> Reply:
        """Answer one request. The runner cancels the call when the time limit of the image is up.

        Args:
            request: the conversation.
            on_answer: call it with every answer if the questions are sent one at a time: each answer is then saved and
                paid for only once, even if a later question fails. Not needed if one call answers all questions.

        Raises:
            RequestFailedError: this request failed; others may succeed.
            RateLimitedError: the server asks for fewer requests.
            EndpointDownError: the server can no longer be reached.
            DescribeError: no request can succeed.
        """
        ...

    async def close(self) -> None:
        """Close connections and free memory."""
        ...


class RequestFailedError(Exception):
    """One request failed.

    Args:
        reason: kind of failure in a few words, such as `server error 500`; the job counts failures by it.
        detail: the full message; untrusted.
        retryable: whether a retry may succeed.
        server_fault: whether the failure says more about the server than about the request.

    Attributes:
        tokens_in: prompt tokens that were paid for all the same; None if unknown.
        tokens_out: completion tokens, likewise.
    """

    def __init__(self, reason: str, detail: str = "", *, retryable: bool, server_fault: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.retryable, self.server_fault = reason, detail, retryable, server_fault
        self.tokens_in: int | None = 0
        self.tokens_out: int | None = 0

    def with_tokens(self, calls: Iterable[ChatAnswer]) -> Self:
        """Add the tokens of paid calls whose answers cannot be used."""
        calls = list(calls)
        self.tokens_in = add_counts([self.tokens_in, *(call.tokens_in for call in calls)])
        self.tokens_out = add_counts([self.tokens_out, *(call.tokens_out for call in calls)])
        return self

    def uncounted(self) -> Self:
        """Mark the tokens as unknown: the model may have worked, and no usage was reported."""
        self.tokens_in = self.tokens_out = None
        return self


def thought_too_long(answers: Sequence[ChatAnswer]) -> RequestFailedError:
    """Return the failure of a model that reached the token limit before its answer; a retry would end the same way."""
    used = answers[-1].tokens_out
    detail = (
        f"all {used:,} tokens" if used else "all tokens of the answer"
    ) + " went into thinking: raise max_tokens (--max-tokens), or have the model think less (--extra-body)"
    return RequestFailedError(CUT_OFF_THINKING, detail, retryable=False).with_tokens(answers)


def only_thought(answers: Sequence[ChatAnswer]) -> RequestFailedError:
    """Return the failure of a model that thought and stopped before its answer; a retry would cost as much."""
    detail = "the model stopped after thinking: have it think less (--extra-body), or choose another model"
    return RequestFailedError(ONLY_THOUGHT, detail, retryable=False).with_tokens(answers)


# What the tokens of a call are counted for: an answer, all answers, or a failure.
Counted = ChatAnswer | Reply | RequestFailedError


class RateLimitedError(Exception):
    """The server asks for fewer requests.

    Args:
        reason: kind of refusal in a few words, such as `too many requests`.
        seconds: how long the server asks to wait, if it says so.
        detail: the server's words; untrusted.
        long: whether a quota for a day or longer is used up, so that retrying soon is pointless.
    """

    def __init__(self, reason: str, seconds: float | None = None, detail: str = "", *, long: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.seconds, self.detail, self.long = reason, seconds, detail, long


class EndpointDownError(Exception):
    """The server cannot be reached. The message says why."""


def plain_reason(reason: str | None) -> str:
    """Return a finish reason in normalised spelling.

    >>> plain_reason("FinishReason.MAX_TOKENS"), plain_reason("Content-Filter"), plain_reason(None)
    ('max_tokens', 'content_filter', '')
    """
    return re.sub(r"[-\s]", "_", (reason or "").casefold()).removeprefix("finishreason.")


def is_unknown_end(reason: str | None) -> bool:
    """Return whether a finish reason is none that a server is known to give."""
    plain = plain_reason(reason)
    return plain not in COMPLETE | CUT_OFF and not plain.startswith(FILTERS)


def fails_again(reason: str) -> bool:
    """Return whether the request itself caused the failure, so that it would fail again."""
    return reason.startswith(LASTING)


def add_counts(counts: Iterable[int | None]) -> int | None:
    """Return the sum of counts; None if one is unknown.

    >>> add_counts([1, 2]), add_counts([1, None])
    (3, None)
    """
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
