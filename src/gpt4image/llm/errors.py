"""What the openai SDK raises, sorted by what it means for the job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from gpt4image.core.errors import DescribeError, first_line
from gpt4image.llm.base import ChatAnswer, EndpointDownError, RateLimitedError, RequestFailedError
from gpt4image.llm.chat import read_answer
from gpt4image.llm.credentials import ApiKey, address_hint

BUSY = (429, 503, 529)


DETAIL_LENGTH = 300


UNREACHABLE = ("ClientConnectorError", "ConnectionRefusedError", "ConnectionTimeoutError", "gaierror")


"""Names of the errors, anywhere in the chain of causes, that mean that nobody listens. The SDK's own names do not tell:
it calls a connection that was cut a time-out while connecting."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A call that failed.

    Attributes:
        status: HTTP status, None where there was no answer.
        code: the server's code for it, such as `insufficient_quota`.
        detail: what the server said, without the key, shortened; untrusted.
        down: nobody listens at the address.
        wait: seconds that the server wants to be left alone, where it says so.
    """

    status: int | None
    code: str
    detail: str
    down: bool = False
    wait: float | None = None

    @property
    def is_unsupported_limit(self) -> bool:
        """Whether the server wants the answer's length limited by `max_completion_tokens`."""
        return self.status in (400, 422) and "max_completion_tokens" in self.detail


def sort_out(error: Exception, key: ApiKey) -> Trouble:
    """Sort out an exception of the SDK. Anything else that was raised counts as an answer that cannot be read."""
    import openai

    detail = shorten(key.scrub(message_of(error)))
    if isinstance(error, openai.APIStatusError):
        wait = retry_after(error.response.headers)
        return Trouble(error.status_code, str(error.code or ""), detail, wait=wait)
    if isinstance(error, openai.APIConnectionError):
        return Trouble(None, "connection", detail, down=nobody_listens(error))
    return Trouble(None, "unreadable", detail)


def message_of(error: Exception) -> str:
    """What an exception says, with its cause where it says little."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])
    text = str(getattr(error, "message", "")) or str(error)
    return f"{text} {first_line(error.__cause__)}" if error.__cause__ else text


def shorten(text: str) -> str:
    """A text in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."


def nobody_listens(error: BaseException) -> bool:
    """Whether a connection could not be made at all."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(kind.__name__ in UNREACHABLE for link in chain for kind in type(link).__mro__)


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds to wait that an answer's headers ask for: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


OUT_OF_PATIENCE = (408, 504, 524)


"""Something between us and the model did not wait for its answer, which may be paid for."""


class ErrorClassifier:
    """Tells a request that failed from a job that cannot go well.

    Args:
        place: the server's address.
        key: its key, which is cut out of all that it says.

    Attributes:
        answered: whether it has answered a request; from then on one that it refuses says nothing about the others.
        models: names of the models that it has, as far as it says.
    """

    def __init__(self, place: str, key: ApiKey) -> None:
        self._place, self._key = place, key
        self.answered = False
        self.models: tuple[str, ...] = ()

    def note_models(self, listed: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever a server sends
        """Take down the models of a server's list; none where it is not of the protocol's form."""
        rows = listed.get("data") if isinstance(listed, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        self.models = tuple(self._key.scrub(name) for name in names if isinstance(name, str))
        return self.models

    def read(self, body: Any) -> ChatAnswer:  # noqa: ANN401 - whatever a server sends
        """Take the answer out of a server's JSON without the key. RequestFailedError as `read_answer` raises it."""
        return read_answer(self._key.scrub_all(body))

    def of(self, trouble: Trouble, model: str) -> Exception:
        """What a failed call means: one of the errors that a describer raises.

        Args:
            trouble: the call.
            model: the model that was asked for.
        """
        if trouble.down:
            return EndpointDownError(f"could not connect to {self._place}")
        if trouble.status in BUSY and trouble.code != "insufficient_quota":
            return RateLimitedError("too many requests" if trouble.status == 429 else "server busy", trouble.wait)
        if hopeless := self._hopeless(trouble, model):
            return DescribeError(f"{self._place}: {hopeless} The server says: {trouble.detail}")
        if trouble.status is None:
            reason = "connection cut" if trouble.code == "connection" else "unreadable answer"
            return RequestFailedError(reason, trouble.detail, retryable=True, server_fault=True).uncounted()
        if trouble.status >= 500 or trouble.status in (408, 409, 425):
            error = RequestFailedError(
                f"server error {trouble.status}", trouble.detail, retryable=True, server_fault=True
            )
            return error.uncounted() if trouble.status in OUT_OF_PATIENCE else error
        return RequestFailedError(f"refused by the server ({trouble.status})", trouble.detail, retryable=False)

    def _hopeless(self, trouble: Trouble, model: str) -> str:
        """Why no request can go well, with the fix; nothing where this one alone failed."""
        if trouble.code == "insufficient_quota" or trouble.status == 402:
            return "the account has no money left. Top it up, and give the same command again."
        if trouble.status in (401, 403) and not (self.answered and trouble.status == 403):
            if self._key.variable:
                return f"it does not take the key in {self._key.variable}. Export the right one."
            return "it wants a key. Name the environment variable that holds it: --key-env NAME."
        return "" if self.answered else self._misfit(trouble, model)

    def _misfit(self, trouble: Trouble, model: str) -> str:
        """Why a server that has answered nothing yet never will, where the request as such is at fault."""
        if trouble.status == 404:
            known = f" It has: {', '.join(self.models[:10])}." if self.models else address_hint(self._place)
            return f"it has no model {model!r}, or no chat completions at this address.{known}"
        if trouble.status in (400, 422) and ("temperature" in trouble.detail or "top_p" in trouble.detail):
            return "the model takes no such sampling: leave --temperature and --top-p out."
        return ""
