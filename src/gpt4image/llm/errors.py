"""Map every failed call to one of the errors of `base`. This is the one place that decides what a status code means.

A call fails in one of three forms: the openai SDK raises an exception, a line of a batch's error file holds a status
and a message, or a response of status 200 holds an error. `read_failure`, `batch_api.read_result` and `read_error_body`
bring all into one form, `FailedCall`.
`ErrorClassifier.classify` then decides, by the status:

    no connection, a proxy in between  EndpointDownError    leave the server out until it returns
    429, 503, 529, quota used up       RateLimitedError     send fewer requests, retry
    no money, 401, 403, bad settings   DescribeError        stop the job
    408, 409, 425, 5xx, cut, garbled   RequestFailedError   retryable, the server's fault
    400 and all others                 RequestFailedError   not retryable

Vendors use statuses differently, so their messages decide where they differ (`error_body`): an empty account is a 400,
402, 403 or 429.
"""

from __future__ import annotations

import re
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from gpt4image.core.errors import DescribeError, causes, first_line
from gpt4image.llm.base import (
    MODEL_LOADING,
    NO_CHOICE,
    REFUSED,
    EndpointDownError,
    RateLimitedError,
    RequestFailedError,
)
from gpt4image.llm.body import read_body
from gpt4image.llm.credentials import ApiKey, address_hint, https_hint, proxy_for
from gpt4image.llm.error_body import (
    ACCOUNT,
    BAD_KEY,
    LOADING,
    LONG_QUOTA,
    MODEL_GONE,
    MODERATION,
    NO_MONEY,
    NO_PICTURES,
    PLACE,
    PLAIN_HTTP,
    TOO_LONG,
    error_object,
    error_status,
    error_with_answer,
    plain_words,
    remedy,
    server_message,
)
from gpt4image.llm.waits import asked_wait, limit_reset, retry_after

DETAIL_LENGTH, SAID_LENGTH, EXAMPLES = 300, 4000, 3

# Exception classes in the chain of causes that mean that nothing listens at the address. The SDK's own classes cannot
# tell: it reports a cut connection as a time-out while connecting.
UNREACHABLE = ("ClientConnectorError", "ConnectionRefusedError", "ConnectionTimeoutError", "gaierror")


MOST_FORBIDDEN = 3  # answers of status 403, before any other, after which it is not the pictures that are refused

NO_ANSWER = "connection"  # code of a call whose connection failed, immediately or later

# OpenSSL's codes for a certificate of another name or address.
WRONG_NAME = (62, 64)

# Codes for a certificate that is not yet valid or has expired.
WRONG_TIME = (9, 10)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A failed call, however it was made.

    Attributes:
        status: HTTP status; None if there was no response.
        code: the server's error code, such as `insufficient_quota`.
        detail: the server's message without the key, shortened; untrusted.
        said: a longer version of it, to search for words.
        unreachable: whether nothing listens at the address.
        wait: seconds that the server asks to wait, if it says so.
        in_body: the server sent the error in a body of status 200.
        long_quota: a quota of a day or longer is used up.
        untrusted: the TLS problem; empty if there is none.
        is_json: whether the server answered with JSON, unlike a proxy's error page.
        moved: the address to which the server redirects.
    """

    status: int | None
    code: str
    detail: str
    said: str = ""
    unreachable: bool = False
    wait: float | None = None
    in_body: bool = False
    long_quota: bool = False
    untrusted: str = ""
    is_json: bool = True
    moved: str = ""

    def says(self, meaning: re.Pattern[str]) -> bool:
        """Return whether the code or message matches a pattern."""
        return meaning.search(f"{self.code} {self.said or self.detail}") is not None

    @property
    def is_moderation(self) -> bool:
        """Whether the server objects to the picture rather than the account."""
        return self.says(MODERATION) and not self.says(ACCOUNT)

    @property
    def is_unsupported_limit(self) -> bool:
        """Whether the server insists on `max_completion_tokens`."""
        return self.status in (400, 422) and "max_completion_tokens" in (self.said or self.detail)

    @property
    def is_unsupported_log_probabilities(self) -> bool:
        """Whether the server sends no log-probabilities, or only for fewer tokens."""
        return self.status in (400, 403, 404, 422, 501) and "logprobs" in (self.said or self.detail).casefold()


def read_failure(error: Exception, key: ApiKey) -> FailedCall:
    """Read an exception of the openai SDK; any other exception counts as an unreadable response."""
    import openai

    match error:
        case openai.APIStatusError():  # the server responded; its subclasses are one per status
            body, wait = read_body(error.response), retry_after(error.response.headers)
            call = failed_body(error.status_code, error_object(body) or error.message, key)
            is_json, moved = isinstance(body, Mapping | list), ""
            if 300 <= error.status_code < 400:
                moved = key.scrub_message(str(error.response.url.join(error.response.headers.get("location", ""))))
            known = next((each for each in (wait, call.wait, asked_wait(body, "")) if each is not None), None)
            if known is None and error.status_code == 429:
                known = limit_reset(error.response.headers)
            return replace(call, wait=known, is_json=is_json, moved=moved)
        case openai.APIConnectionError():  # also APITimeoutError
            detail, untrusted = bounded(key.scrub_message(message_of(error))), tls_problem(error)
            return FailedCall(None, NO_ANSWER, detail, unreachable=nothing_listens(error), untrusted=untrusted)
        case _:
            return FailedCall(None, "unreadable", bounded(key.scrub_message(message_of(error))))


def read_error_body(body: Any, key: ApiKey) -> FailedCall | None:  # noqa: ANN401 - whatever a server sends
    """Read an error sent with status 200; None if the body contains none."""
    error = error_with_answer(body)
    return None if error is None else replace(failed_body(error_status(error), error, key), in_body=True)


def failed_body(status: int | None, error: Any, key: ApiKey) -> FailedCall:  # noqa: ANN401 - whatever a server sends
    """Return the failure for an error without headers, in any form."""
    said = key.scrub_message(server_message(error) or plain_words(error))
    code = error.get("code") if isinstance(error, Mapping) else None
    return FailedCall(
        status,
        code if isinstance(code, str) else "",
        bounded(said),
        said=said[:SAID_LENGTH],
        wait=asked_wait(error, said),
        long_quota=LONG_QUOTA.search(f"{said} {error}") is not None,
    )


class ErrorClassifier:
    """Decides what a failed call to one server means for the job.

    Args:
        place: the server's address.
        key: its key; the messages name the variable that holds it.

    Attributes:
        answered: whether the server has answered a request. After that, a refused request says nothing about the
            others.
        models: names of the models that the server lists.
        shutdown_dates: announced shutdown dates by model, where the server lists them.
    """

    def __init__(self, place: str, key: ApiKey) -> None:
        self._place, self._key = place, key
        self.answered, self._forbidden = False, 0
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

    def classify(self, call: FailedCall, model: str, *, of_picture: bool = False) -> Exception:
        """Return the error that a describer raises for a failed call.

        Args:
            call: the call.
            model: the requested model.
            of_picture: the call sent a picture, to which a first 403 may object: others are tried before the job stops.
        """
        by_words = self._by_words(call, model)
        found = by_words or self._by_status(call, model)
        if of_picture and call.status == 403 and not call.says(ACCOUNT):
            self._forbidden += 1
            stops = by_words is None and isinstance(found, DescribeError)
            if stops and not self.answered and self._forbidden < MOST_FORBIDDEN:
                return RequestFailedError(f"{REFUSED} (403)", call.detail, retryable=True)
        return found

    def _by_words(self, call: FailedCall, model: str) -> Exception | None:  # noqa: PLR0911 - one per meaning
        """Return the error if something other than the status identifies it, else None."""
        first = not self.answered  # no request has succeeded yet, so the cause may affect all of them
        match call.status:
            case None if call.untrusted:
                return DescribeError(f"{self._place}: {call.untrusted}")
            case None if call.unreachable:
                return EndpointDownError(f"could not connect to {self._place}{self.proxy_hint()}")
            case _ if call.moved:
                return DescribeError(
                    f"{self._place}: the server redirects to {bounded(call.moved)}. If that is the API, set base_url "
                    f"(--base-url) to {api_base(call.moved)}; otherwise sign in there, or ask your network "
                    "administrator."
                )
            case _ if first and not call.is_json and (hint := self.proxy_hint()):
                return EndpointDownError(f"a proxy answers instead of {self._place} ({call.detail}){hint}")
            case None | 400 | 403 | 429 if call.long_quota:
                return RateLimitedError("quota used up", call.wait, call.detail, long=True)
            case None | 400 | 401 | 402 | 403 | 429 if call.status == 402 or call.says(NO_MONEY):
                return self._fatal("the account has no credit left. Top it up and run the same command again.", call)
            case int() if first and call.says(PLAIN_HTTP):
                return self._fatal(f"the server speaks HTTPS only{https_hint(self._place)}.", call)
            case 403 if first and call.says(PLACE):
                return self._fatal("the vendor does not serve your region.", call)
            case 400 | 404 | 410 if call.says(MODEL_GONE) and (call.status != 404 or not first):
                return self._fatal(f"{model} is no longer available. Set model (--model) to another one.", call)
            case 400 if call.says(BAD_KEY):
                return self._fatal(self._key_advice(), call)
            case int() if first and call.says(NO_PICTURES):
                return self._fatal(
                    f"{model} does not accept pictures. Choose a vision model, or load its projector.", call
                )
            case 400 | 422 if first and not call.says(TOO_LONG) and (advice := remedy(call.said or call.detail)):
                return self._fatal(f"the model rejects these settings: {advice}.", call)
        return None

    def _by_status(self, call: FailedCall, model: str) -> Exception:  # noqa: PLR0911 - one per row of the table above
        first = not self.answered
        match call.status:
            case None:
                return without_status(call)
            case 429 if not call.says(TOO_LONG):  # else it exceeds the limit of a minute and never succeeds
                return RateLimitedError("too many requests", call.wait, call.detail)
            case 502 if first and not call.is_json:  # from a gateway whose server is starting
                return RateLimitedError(MODEL_LOADING, call.wait, call.detail)
            case 503 | 529:
                reason = MODEL_LOADING if call.says(LOADING) else "server busy"
                return RateLimitedError(reason, call.wait, call.detail)
            case 401:
                return self._fatal(self._key_advice(), call)
            case 407:
                return self._fatal(
                    "the proxy requires a user name and password, as in http://USER:PASSWORD@HOST.", call
                )
            case 403 if first and not call.is_moderation:
                return self._fatal(self._key_advice(), call)
            case 404 if first:
                known = f" It has: {', '.join(self.models[:10])}." if self.models else address_hint(self._place)
                return self._fatal(f"no model {model!r}, or no chat completions at this address.{known}", call)
            case 408 | 504 | 524:  # a proxy did not wait for the model, and the answer may be charged
                return server_error(f"server error {call.status}", call).uncounted()
            case status if status >= 500 or status in (409, 424, 425, 499):
                return server_error(f"server error {status}", call)
            case status:
                return RequestFailedError(f"{REFUSED} ({status})", call.detail, retryable=False)

    def proxy_hint(self) -> str:
        """Return how to bypass the proxy that the environment names for the server; empty if there is none."""
        proxy, host = proxy_for(self._place), urlsplit(self._place).hostname
        if not proxy:
            return ""
        return f". Requests go through {proxy}; to bypass it: export NO_PROXY={host}"

    def _fatal(self, problem: str, call: FailedCall) -> DescribeError:
        return DescribeError(f"{self._place}: {problem} The server says: {call.detail or 'nothing'}")

    def _key_advice(self) -> str:
        if self._key.variable:
            return f"the server rejects the key in {self._key.variable}. Export the right one."
        return "the server requires a key. Name the environment variable that holds it in key_env (--key-env NAME)."


def api_base(url: str) -> str:
    """Return the base address of an API from the address of one of its calls.

    >>> api_base("https://host/v1/chat/completions?from=http"), api_base("https://host/login")
    ('https://host/v1', 'https://host/login')
    """
    parts = urlsplit(url)
    path = re.sub(r"/(?:chat/completions|models(?:/.*)?|files|batches)/?$", "", parts.path)
    return parts._replace(path=path, query="", fragment="").geturl()


def server_error(reason: str, call: FailedCall) -> RequestFailedError:
    """Return a retryable failure that is the server's fault."""
    return RequestFailedError(reason, call.detail, retryable=True, server_fault=True)


def without_status(call: FailedCall) -> RequestFailedError:
    """Return the failure of a call without a status. It may have used tokens, unless the server reports a failure."""
    if call.in_body:
        return server_error("server error", call)
    reason = "connection cut" if call.code == NO_ANSWER else "unreadable answer"
    return server_error(reason, call).uncounted()


def commonest(reason: str, details: Counter[str]) -> str:
    """Return the commonest message among failures with one reason, and the remedy, as the end of a line.

    For answers that are not one of the classes, return a few examples.
    """
    if reason == NO_CHOICE and details:
        return ", such as " + ", ".join(f'"{answer}"' for answer, _ in details.most_common(EXAMPLES))
    said = details.most_common(1)[0][0] if details else ""
    if not said:
        return ""
    advice = remedy(said) if reason.startswith(REFUSED) else ""
    return f', mostly with "{said}"' + (f": {advice}" if advice else "")


def message_of(error: Exception) -> str:
    """Return an exception's message, with its cause if the message says little."""
    text = str(getattr(error, "message", "")) or str(error)
    return f"{text} {first_line(error.__cause__)}" if error.__cause__ else text


def bounded(text: str) -> str:
    """Return a text as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_LENGTH else line[: DETAIL_LENGTH - 3] + "..."


def nothing_listens(error: BaseException) -> bool:
    """Return whether the connection was never established."""
    return any(kind.__name__ in UNREACHABLE for link in causes(error) for kind in type(link).__mro__)


def tls_problem(error: BaseException) -> str:
    """Return why the encryption of a connection failed, and the remedy; empty if it did not."""
    for link in causes(error):  # aiohttp's own subclasses of these errors lack the reason
        if isinstance(link, ssl.SSLCertVerificationError) and (reason := getattr(link, "verify_message", "")):
            advice = "If it is the right server: export SSL_CERT_FILE=FILE, with the certificate of its authority"
            if link.verify_code in WRONG_NAME:
                advice = "Set base_url (--base-url) to the name in the certificate"
            if link.verify_code in WRONG_TIME:
                advice = f"This machine's date is {date.today()}; if that is right, the server needs a new certificate"
            return f"the server's certificate is not trusted ({reason.rstrip('.')}). {advice}."
        if isinstance(link, ssl.SSLError) and (reason := getattr(link, "reason", "")):
            problem = reason.replace("_", " ").lower()
            advice = "If the server speaks plain HTTP, write http:// in base_url (--base-url)."
            return f"TLS connection failed ({problem}). {advice}"
    return ""
