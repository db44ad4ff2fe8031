"""Behaviour of the stub server, and its log of requests."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

MODEL = "stub-vision"

Endpoint = Literal[
    "chat",
    "line",
    "models",
    "model",
    "upload",
    "files",
    "file",
    "content",
    "delete",
    "create",
    "batch",
    "batches",
    "cancel",
]
"""`line` is one line of a batch; `create` creates a batch, `batch` retrieves one, `batches` lists them."""

AnswerKind = Literal[
    "empty",
    "null",
    "refusal",
    "refusal_text",
    "content_filter",
    "length",
    "hostile",
    "text",
    "no_choices",
    "echo",
    "thinking",
    "thinking_cut",
    "reasoning_cut",
    "finish",
    "usage",
    "model",
]
ErrorKind = Literal[
    "status", "rate_limit", "quota", "invalid_image", "too_large", "too_long", "wrong_key", "unknown_model", "body"
]
CutKind = Literal["slow", "cut", "cut_body", "truncated", "html", "missing", "die", "plain", "packed"]
FaultKind = AnswerKind | ErrorKind | CutKind

ANSWERS, ERRORS, CUTS = (frozenset(get_args(kinds)) for kinds in (AnswerKind, ErrorKind, CutKind))
LINE_KINDS = ANSWERS | ERRORS | {"truncated", "missing"}
OTHER_KINDS = {"status", "rate_limit", "wrong_key", "body", *CUTS} - {"missing", "packed"}


@dataclass(frozen=True)
class Fault:
    """A rule for which requests fail, and how. All given conditions must hold.

    Kinds that are answers (status 200, paid): `empty`, `null` (content), `refusal` (message.refusal), `refusal_text`,
    `content_filter`, `length` (half the text), `hostile` (script, terminal codes, bidi, NUL), `text` (the given text),
    `no_choices` (usage without an answer, the key in a long text), `echo` (the key as finish reason), `thinking` (in
    the content, before the text), `thinking_cut` (in the content, without an end), `reasoning_cut` (in a field of its
    own, content null), `finish` (half the text, the given text as finish reason), `usage` (the given JSON as usage),
    `model` (the given name as the model that answered).
    Kinds that are errors: `status` (500, 502, 503...), `rate_limit` (429), `quota` (429 for an empty account),
    `invalid_image` (400), `too_large` (413), `too_long` (400, context length), `wrong_key` (401, echoes the header),
    `unknown_model` (404), `body` (the given text as body, status 200 or `status`).
    Kinds that break the connection or the body: `slow`, `cut` (no work done, no answer), `cut_body` (work done, half
    the answer), `plain` (the answer as text/plain), `packed` (the answer as it is, the given text as
    Content-Encoding), `truncated` (status 200, half the JSON), `html` (status 200 or
    `status`), `missing` (a line of a batch without a result), `die` (cut every connection; stop
    listening for `seconds`, or for good).

    Attributes:
        kind: the failure.
        on: the kind of request; each kind has its own running numbers.
        every: every n-th request.
        numbers: these requests, from 1.
        mark: requests for pictures whose mark starts with this.
        turn: this question of a conversation, from 1.
        probability: share of the attempts, drawn from seed, mark, turn and attempt, whatever the order of arrival.
        share: share of the pictures, drawn from seed and mark; such a picture fails at every attempt.
        times: only the first attempts of a picture's turn, or the first requests of another kind; None for all.
        status: status code of `status`, `html` and `body`.
        seconds: delay (`slow`), downtime (`die`), or Retry-After (`status`, `rate_limit`).
        text: text of `text`, `finish`, `usage`, `model`, `packed` and `body`.
    """

    kind: FaultKind
    on: Endpoint = "chat"
    every: int | None = None
    numbers: tuple[int, ...] = ()
    mark: str = ""
    turn: int | None = None
    probability: float | None = None
    share: float | None = None
    times: int | None = None
    status: int | None = None
    seconds: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        allowed = {"chat": (ANSWERS | ERRORS | CUTS) - {"missing"}, "line": LINE_KINDS}.get(self.on, OTHER_KINDS)
        if self.kind not in allowed or self.on not in get_args(Endpoint):
            raise ValueError(f"No fault {self.kind!r} on {self.on!r}; there are {sorted(allowed)}.")
        if self.kind == "status" and self.status is None:
            raise ValueError("A fault of kind 'status' needs a status.")

    def hits(self, entry: Entry, seed: int) -> bool:
        """Return whether the rule applies to a request."""
        who = entry.mark or f"#{entry.number}"
        one_try = (seed, who, entry.turn, entry.tries)
        return (
            entry.endpoint == self.on
            and (self.every is None or entry.number % self.every == 0)
            and (not self.numbers or entry.number in self.numbers)
            and entry.mark.startswith(self.mark)
            and (self.turn is None or entry.turn == self.turn)
            and (self.times is None or entry.tries <= self.times)
            and (self.probability is None or random.Random(repr(one_try)).random() < self.probability)
            and (self.share is None or random.Random(repr((seed, who))).random() < self.share)
        )


@dataclass(frozen=True)
class Scenario:
    """Behaviour of the server. The default answers every request immediately.

    Attributes:
        models: models of the server; any other is a 404. If empty, every name works and `MODEL` is listed.
        shutdown_date: the shutdown date that every listed model announces, as OpenAI's list does.
        expected_key: the only valid key; any other, or none, is a 401 that echoes the header.
        slots: maximum concurrent requests, including ones whose client has left; None for no limit.
        when_full: requests beyond the slots wait in a queue, or get a 429.
        latency: seconds that a request takes in its slot.
        jitter: maximum additional seconds, drawn from the seed.
        ready_after: seconds from the start until it is ready.
        not_ready: until then it responds 503 "Loading model", or refuses connections.
        rate_limit: requests per sliding window; further ones get a 429 and do not count.
        rate_window: seconds of the window.
        retry_after: form of a 429's waiting time: none, whole seconds, a date, `retry-after-ms` beside the seconds, or
            OpenAI's `x-ratelimit-reset-requests`.
        retry_after_value: value of that header instead of the true one.
        no_max_tokens: reject `max_tokens` with a 400 that names `max_completion_tokens`.
        no_temperature: reject any temperature but 1 with a 400.
        logprobs: send log-probabilities to those who ask, at most 5 at each place, refuse the parameter, or ignore it.
        marks: parse requests. Otherwise: no mark, no turn, a fixed answer, full speed.
        text: a fixed text for every answer instead of the description.
        usage: report usage.
        faults: the first rule that applies decides; `slow` rules apply in addition.
        seed: seed of all random draws.
        batch_polls: times that a batch is retrieved until it is done.
        batch_seconds: seconds until a batch is done, instead of `batch_polls`.
        batch_outcome: final status of batches.
        batch_done_share: share of the lines that are done when a batch expires.
        batch_most_lines: maximum lines of a batch; one with more fails.
        batch_most_bytes: maximum size of an upload; a larger one is a 413.
        batch_most_queued: maximum lines in all unfinished batches; one batch more fails with `token_limit_exceeded`.
        most_bytes: maximum size of a body; a larger one is a 413.
        load_seconds: time that the model takes to load, from the first question on; until then no question is answered.
        tls: speak HTTPS, with a certificate that no authority signed.
    """

    models: tuple[str, ...] = (MODEL,)
    shutdown_date: str | None = None
    expected_key: str | None = None
    slots: int | None = None
    when_full: Literal["queue", "429"] = "queue"
    latency: float = 0.0
    jitter: float = 0.0
    ready_after: float = 0.0
    not_ready: Literal["503", "refuse"] = "503"
    rate_limit: int | None = None
    rate_window: float = 60.0
    retry_after: Literal["none", "seconds", "date", "ms", "reset"] = "seconds"
    retry_after_value: str | None = None
    no_max_tokens: bool = False
    no_temperature: bool = False
    logprobs: Literal["send", "five", "refuse", "ignore"] = "ignore"
    marks: bool = True
    text: str | None = None
    usage: bool = True
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    batch_polls: int = 2
    batch_seconds: float | None = None
    batch_outcome: Literal["completed", "failed", "expired"] = "completed"
    batch_done_share: float = 0.5
    batch_most_lines: int = 50_000
    batch_most_bytes: int = 200 * 10**6
    batch_most_queued: int | None = None
    most_bytes: int = 64 * 2**20
    load_seconds: float = 0.0
    tls: bool = False

    @classmethod
    def from_json(cls, text: str) -> Scenario:
        """Parse a scenario from JSON; TypeError for an unknown name."""
        data = json.loads(text)
        faults = tuple(
            Fault(**{**fault, "numbers": tuple(fault.get("numbers", ()))}) for fault in data.pop("faults", ())
        )
        return cls(**{**data, "models": tuple(data.get("models", (MODEL,))), "faults": faults})

    def to_json(self) -> str:
        """Return the scenario as JSON."""
        return json.dumps(asdict(self))

    def fault(self, entry: Entry) -> Fault | None:
        """Return the fault of a request, if any, apart from `slow`."""
        return next((f for f in self.faults if f.kind != "slow" and f.hits(entry, self.seed)), None)

    def extra_seconds(self, entry: Entry) -> float:
        """Return the seconds that `slow` rules add to a request."""
        return sum(f.seconds or 0.0 for f in self.faults if f.kind == "slow" and f.hits(entry, self.seed))


@dataclass(slots=True)
class Entry:
    """Log entry of one request, or one line of a batch.

    Attributes:
        endpoint: the kind of request.
        number: running number of its kind, from 1, in order of arrival, since the server started.
        at: arrival, `time.monotonic()`.
        concurrency: chat requests in the server on arrival, including this one.
        has_key: whether it had an Authorization header.
        key_ok: whether that was the expected key; the key itself is not kept.
        mark: first 12 hex digits of the 128-bit BLAKE2b of the picture's bytes, as in `image_id`; empty without one.
        turn: number of questions in the conversation so far.
        tries: attempt at this picture's turn, from 1; for other requests their number.
        system: whether there was a system message.
        question: the last question.
        model: requested model.
        settings: all other parameters: max_tokens, temperature...
        batch: batch of a line.
        custom_id: `custom_id` of a line.
        fault: its fault, or the server's own error (`not_ready`, `full`, `rate`, `left` by the client...); else empty.
        status: status code of the response; 0 if there was none.
        paid: whether the model did its work, so that a vendor would charge for it.
        tokens_in: prompt tokens.
        tokens_out: completion tokens.
        sent: whether the whole response was handed to an open connection.
        read: whether it has arrived, the body of an upload excepted.
        done_at: end, `time.monotonic()`.
    """

    endpoint: str
    number: int = 0
    at: float = 0.0
    concurrency: int = 0
    has_key: bool = False
    key_ok: bool = False
    mark: str = ""
    turn: int = 0
    tries: int = 1
    system: bool = False
    question: str = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    batch: str = ""
    custom_id: str = ""
    fault: str = ""
    status: int = 0
    paid: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    sent: bool = False
    read: bool = False
    done_at: float = 0.0

    def to_json(self) -> str:
        """Return the entry as a line of JSON."""
        return json.dumps({name: getattr(self, name) for name in ENTRY_FIELDS})


ENTRY_FIELDS = tuple(f.name for f in fields(Entry))


def read_log(path: Path) -> list[Entry]:
    """Read the log file of a server process, in order of arrival, without an incomplete last line."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return sorted((Entry(**json.loads(line)) for line in lines), key=lambda entry: entry.at)


def answers_by_mark(log: Iterable[Entry]) -> Counter[str]:
    """Count the complete answers per picture. A conversation counts once per turn."""
    return Counter(entry.mark for entry in log if entry.sent and entry.paid and entry.mark)


def paid_by_mark(log: Iterable[Entry]) -> Counter[str]:
    """Count the charged requests per picture, including answers that nobody received."""
    return Counter(entry.mark for entry in log if entry.paid and entry.mark)


def peak_concurrency(log: Iterable[Entry]) -> int:
    """Return the maximum number of concurrent chat requests."""
    return max((entry.concurrency for entry in log), default=0)
