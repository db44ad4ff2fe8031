"""What a describer is asked, what it answers, and the ways in which it may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from gpt4image.llm.picture import Picture


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model draws its answer. What is None is left to the model.

    Attributes:
        max_tokens: most tokens of one answer.
        temperature: 0 for the likeliest words, higher for more variety.
        top_p: share of the probability that words are drawn from.
        seed: seed of the draw, where the server knows one.
    """

    max_tokens: int = 300
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Have 1 and 1.0 ask the same question: the key of a description is made of what JSON holds."""
        for name in ("temperature", "top_p"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; settings left to the model are left out."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One answer of a conversation.

    Attributes:
        text: what was said.
        finish_reason: why it ended.
        tokens_in: tokens read, None where they are not counted.
        tokens_out: tokens written, likewise.
        model: the model as the server names it.
    """

    text: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    model: str

    def __post_init__(self) -> None:
        """Replace lone surrogates: the next request of the conversation repeats the text, and none may hold them."""
        object.__setattr__(self, "text", self.text.encode("utf-8", "replace").decode())


OnAnswer = Callable[[ChatAnswer], None]
"""Called with each answer as it arrives, before the next question is sent."""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """One description to be written.

    Attributes:
        key: what is asked, as 32 hex digits: image, model, prompt and sampling (`describe.tasks`).
        image_id: the image.
        name: what messages call the image; untrusted.
        picture: what the model sees.
        system: system message, if any.
        turns: questions, asked one after the other in one conversation about the picture.
        sampling: how answers are drawn.
        prompt_hash: hash of the prompt, 32 hex digits.
        sample: number of the sample, from 0.
        answers: answers to the first turns from earlier tries. They are paid for; a describer that asks one question
            after the other resumes behind them.
    """

    key: str
    image_id: str
    name: str
    picture: Picture
    system: str | None
    turns: tuple[str, ...]
    sampling: Sampling
    prompt_hash: str
    sample: int = 0
    answers: tuple[ChatAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Attributes:
        texts: one answer a turn.
        finish_reason: why the last answer ended, as the server says (`stop`, `length`, `content_filter`...).
        tokens_in: tokens read over all turns, None where the server does not count them.
        tokens_out: tokens written over all turns, likewise.
        model: the model as the server names it.
    """

    texts: tuple[str, ...]
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    model: str


class Describer(Protocol):
    """One place that answers requests: a server, a model in this process, a recording.

    Attributes:
        name: its name in the table of describers.
        place: where it is, for messages: an address without credentials, or a model's folder.
        model: the model as it is asked for; part of what identifies a description.
        max_concurrency: requests it takes at a time, at most.
    """

    name: str
    place: str
    model: str
    max_concurrency: int

    async def check(self) -> None:
        """Find out, before anything is paid, whether it can answer.

        Raises:
            EndpointDownError: it cannot be reached.
            DescribeError: it cannot answer whatever is asked: wrong key, unknown model. The message names the fix.
        """
        ...

    async def describe(self, request: DescribeRequest, on_answer: OnAnswer) -> Reply:
        """Answer one request. Cancelled when the image's time is up.

        Args:
            request: what is asked.
            on_answer: call it with every answer of a conversation whose questions are sent one by one: the answer is
                then on disk, and paid for once, whatever becomes of the next question. A describer that answers all
                questions at once need not call it.

        Raises:
            RequestFailedError: this request failed; others may go well.
            RateLimitedError: the server asks to be left alone for a while.
            EndpointDownError: the server cannot be reached any more.
            DescribeError: no request can go well.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and memory."""
        ...


class Counted(Protocol):
    """Something that was paid for; counts are None where the server does not count."""

    @property
    def tokens_in(self) -> int | None:
        """Tokens read."""
        ...

    @property
    def tokens_out(self) -> int | None:
        """Tokens written."""
        ...


class RequestFailedError(Exception):
    """One request failed.

    Args:
        reason: the kind of failure in a few words, counted over the job, such as `server error 500`.
        detail: what exactly was said; untrusted.
        retryable: whether another attempt may succeed.
        server_fault: whether it says more about the server than about the request; another server may do better.

    Attributes:
        tokens_in: tokens read all the same; None where nobody says and there may have been some.
        tokens_out: tokens written all the same; likewise.
    """

    def __init__(self, reason: str, detail: str = "", *, retryable: bool, server_fault: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.retryable, self.server_fault = reason, detail, retryable, server_fault
        self.tokens_in: int | None = 0
        self.tokens_out: int | None = 0

    def after(self, paid: Iterable[Counted]) -> Self:
        """The same failure with the tokens of answers that are paid for and of no use."""
        found = list(paid)
        self.tokens_in = add_counts([self.tokens_in, *(answer.tokens_in for answer in found)])
        self.tokens_out = add_counts([self.tokens_out, *(answer.tokens_out for answer in found)])
        return self

    def uncounted(self) -> Self:
        """The same failure of a call that the model may have worked for, which nobody counted."""
        self.tokens_in = self.tokens_out = None
        return self


class RateLimitedError(Exception):
    """The server asks to slow down.

    Args:
        reason: the kind in a few words, such as `too many requests`.
        seconds: how long it wants to be left alone, where it says so.
    """

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.seconds = reason, seconds


class EndpointDownError(Exception):
    """A server cannot be reached. The message says why."""


def add_counts(counts: Iterable[int | None]) -> int | None:
    """Sum of counts, None where one is unknown.

    >>> add_counts([1, 2]), add_counts([1, None])
    (3, None)
    """
    found = list(counts)
    return None if any(count is None for count in found) else sum(count for count in found if count is not None)
