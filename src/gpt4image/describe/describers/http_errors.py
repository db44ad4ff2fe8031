"""What the openai SDK raises, sorted by what it means for the job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from gpt4image.describe.secrets import ApiKey
from gpt4image.errors import first_line

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
