"""Map every failed call to one of the errors of `base`. This is the one place that decides what a status code means.

A call fails in one of three forms: the openai SDK raises an exception, a line of a batch's error file holds a status
and a message, or a response of status 200 holds an error. `read_failure`, `batch_api.read_result` and `read_error_body`
bring all into one form, `FailedCall`.
`ErrorClassifier.classify` then decides, by the status:

    no connection                      EndpointDownError    leave the server out until it returns
    429, 503, 529                      RateLimitedError     send fewer requests, retry
    402, insufficient_quota, 401, 403  DescribeError        stop the job
    408, 409, 425, 5xx, cut, garbled   RequestFailedError   retryable, the server's fault
    400 and all others                 RequestFailedError   not retryable
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any

from gpt4image.core.errors import DescribeError, first_line
from gpt4image.llm.base import EndpointDownError, RateLimitedError, RequestFailedError
from gpt4image.llm.credentials import ApiKey, address_hint
from gpt4image.llm.error_body import error_status, error_with_answer, server_message

DETAIL_LENGTH = 300

# Class names, anywhere in the chain of causes, that mean that nothing listens at the address. The SDK's own classes do
# not tell: it reports a connection that was cut as a time-out while connecting.
UNREACHABLE = ("ClientConnectorError", "ConnectionRefusedError", "ConnectionTimeoutError", "gaierror")

# A 403 with these words concerns one picture; with words of the second pattern, the account.
MODERATION = re.compile(
    r"moderat|flagged|content[ _-]?(?:policy|filter|management)|safety|inappropriate", re.IGNORECASE
)
ACCOUNT = re.compile(r"\b(?:account|organi[sz]ation|api[ _-]?key|credentials?)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A failed call, whichever way it was made.

    Attributes:
        status: HTTP status; None if there was no response.
        code: the server's error code, such as `insufficient_quota`.
        detail: the server's message without the key, shortened; untrusted.
        unreachable: nothing listens at the address.
        wait: seconds that the server asks to wait, if it says so.
        in_body: the server sent the error in a body of status 200.
    """

    status: int | None
    code: str
    detail: str
    unreachable: bool = False
    wait: float | None = None
    in_body: bool = False

    @property
    def is_moderation(self) -> bool:
        """Whether the server objects to the picture, not to the account."""
        said = f"{self.code} {self.detail}"
        return MODERATION.search(said) is not None and ACCOUNT.search(said) is None

    @property
    def is_unsupported_limit(self) -> bool:
        """Whether the server insists on `max_completion_tokens`."""
        return self.status in (400, 422) and "max_completion_tokens" in self.detail


def read_failure(error: Exception, key: ApiKey) -> FailedCall:
    """Read an exception of the openai SDK; any other exception counts as an unreadable response."""
    import openai

    detail = shorten(key.scrub(message_of(error)))
    match error:
        case openai.APIStatusError():  # the server responded; its subclasses are one per status
            wait = retry_after(error.response.headers)
            return FailedCall(error.status_code, str(error.code or ""), detail, wait=wait)
        case openai.APIConnectionError():  # also APITimeoutError
            return FailedCall(None, "connection", detail, unreachable=nothing_listens(error))
        case _:
            return FailedCall(None, "unreadable", detail)


def read_error_body(body: Any, key: ApiKey) -> FailedCall | None:  # noqa: ANN401 - whatever a server sends
    """Read an error that a server sends with status 200; None if the body is an answer, or neither."""
    error = error_with_answer(body)
    if error is None:
        return None
    detail = shorten(key.scrub(server_message(error) or str(error)))
    code = error.get("code") if isinstance(error, Mapping) else None
    return FailedCall(error_status(error), code if isinstance(code, str) else "", detail, in_body=True)


class ErrorClassifier:
    """Decides what a failed call to one server means for the job.

    Args:
        place: the server's address.
        key: its key; the messages name the variable that holds it.

    Attributes:
        answered: whether the server has answered a request. From then on, a request that it refuses says nothing about
            the others.
        models: names of the models that the server lists.
        shutdown_dates: announced shutdown dates by model, where the server lists them.
    """

    def __init__(self, place: str, key: ApiKey) -> None:
        self._place, self._key = place, key
        self.answered = False
        self.models: tuple[str, ...] = ()
        self.shutdown_dates: dict[str, date] = {}

    def read_models(self, listed: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever a server sends
        """Remember and return the models of a server's list; none if the list is malformed."""
        data = self._key.scrub_all(listed.get("data")) if isinstance(listed, Mapping) else None
        rows = [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) else []
        rows = [row for row in rows if isinstance(row.get("id"), str)]
        self.models = tuple(row["id"] for row in rows)
        for row in rows:
            with suppress(KeyError, TypeError, ValueError):  # only OpenAI announces dates; any other value is ignored
                self.shutdown_dates[row["id"]] = date.fromisoformat(row["shutdown_date"])
        return self.models

    def classify(self, call: FailedCall, model: str) -> Exception:  # noqa: PLR0911 - one per row of the table above
        """Return the error that a describer raises for a failed call.

        Args:
            call: the call.
            model: the requested model.
        """
        first = not self.answered  # nothing has worked yet, so the fault may lie in every request
        match call.status:
            case status if status == 402 or call.code == "insufficient_quota":  # OpenAI sends this code with a 429
                return self._fatal("the account has no money left. Top it up and run the same command again.", call)
            case None if call.unreachable:
                return EndpointDownError(f"could not connect to {self._place}")
            case None:
                return without_status(call)
            case 429:
                return RateLimitedError("too many requests", call.wait)
            case 503 | 529:
                return RateLimitedError("server busy", call.wait)
            case 401:
                return self._fatal(self._key_advice(), call)
            case 403 if first and not call.is_moderation:
                return self._fatal(self._key_advice(), call)
            case 404 if first:
                known = f" It has: {', '.join(self.models[:10])}." if self.models else address_hint(self._place)
                return self._fatal(f"no model {model!r}, or no chat completions at this address.{known}", call)
            case 400 | 422 if first and ("temperature" in call.detail or "top_p" in call.detail):
                return self._fatal("the model rejects these settings: omit temperature and top_p.", call)
            case 408 | 504 | 524:  # a proxy did not wait for the model, whose answer may be charged
                return server_error(f"server error {call.status}", call).uncounted()
            case status if status >= 500 or status in (409, 425):
                return server_error(f"server error {status}", call)
            case status:
                return RequestFailedError(f"refused by the server ({status})", call.detail, retryable=False)

    def _fatal(self, problem: str, call: FailedCall) -> DescribeError:
        return DescribeError(f"{self._place}: {problem} The server says: {call.detail}")

    def _key_advice(self) -> str:
        if self._key.variable:
            return f"the server rejects the key in {self._key.variable}. Export the right one."
        return "the server requires a key. Name the environment variable that holds it in key_env (--key-env NAME)."


def server_error(reason: str, call: FailedCall) -> RequestFailedError:
    """Return a retryable failure that is the server's fault."""
    return RequestFailedError(reason, call.detail, retryable=True, server_fault=True)


def without_status(call: FailedCall) -> RequestFailedError:
    """Return the failure of a call without a status. It may have cost tokens, unless the server says that it failed."""
    if call.in_body:
        return server_error("server error", call)
    reason = "connection cut" if call.code == "connection" else "unreadable answer"
    return server_error(reason, call).uncounted()


def message_of(error: Exception) -> str:
    """Return an exception's message, with its cause if the message says little."""
    if said := server_message(getattr(error, "body", None)):
        return said
    text = str(getattr(error, "message", "")) or str(error)
    return f"{text} {first_line(error.__cause__)}" if error.__cause__ else text


def shorten(text: str) -> str:
    """Return a text as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."


def nothing_listens(error: BaseException) -> bool:
    """Return whether the connection was never established."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(kind.__name__ in UNREACHABLE for link in chain for kind in type(link).__mro__)


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait from `retry-after-ms`, or from `retry-after` in seconds or as an HTTP date."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
