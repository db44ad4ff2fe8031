"""How long servers ask to wait, read from headers, error bodies and messages."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

UNIT = r"(ms|milli|s|m|h|d)"
PART = re.compile(rf"(\d+(?:\.\d+)?)\s*{UNIT}[a-z]*", re.IGNORECASE)
DURATION = re.compile(
    rf"(?:(?:again|retry|wait|reset\w*|available)\b[^.;]{{0,20}}?\b(?:in|after|for)|\bwait)\s+"
    rf"(?P<span>(?:{PART.pattern}\s*)+)",
    re.IGNORECASE,
)
DATE = re.compile(r"\b(?:on|at|until|after)\s+(\d{4}-\d\d-\d\d)(?:(?: at |[ T])(\d\d:\d\d))?", re.IGNORECASE)
WAIT_NAME = re.compile("^(?:x-ratelimit-)?resets?|^retry_?(?:after|delay|in)|^wait")  # of fields, in lower case
LONGEST_WAIT = 366 * 86400.0
"""The longest plausible wait in seconds: later moments have no date, and no limit resets later."""
SECONDS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MILLISECONDS, EARLIEST = 10**11, 10**9
"""Times since 1970 above the first are in milliseconds; values below the second are durations."""


def retry_after(headers: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait from `retry-after-ms`, or from `retry-after` in seconds or as an HTTP date."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return bounded_wait(float(milliseconds) / 1000)
        if value is None:
            return None
        try:
            return bounded_wait(float(value))
        except ValueError:
            return bounded_wait(parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def limit_reset(headers: Mapping[str, Any]) -> float | None:
    """Return the seconds until the exhausted limits reset; if it is unknown which are, until the first one resets.

    Args:
        headers: those of OpenAI and others, `x-ratelimit-remaining-requests` and `x-ratelimit-reset-requests`, and
            likewise for tokens; or without the last word if there is a single limit.
    """
    kinds = ("", "-requests", "-tokens")
    resets = ((reset_wait(headers.get(f"x-ratelimit-reset{kind}", "")), kind) for kind in kinds)
    waits = [(wait, headers.get(f"x-ratelimit-remaining{kind}")) for wait, kind in resets if wait is not None]
    if any(left is not None for _, left in waits):
        return max((wait for wait, left in waits if left is not None and not left.strip("0. ")), default=None)
    return min((wait for wait, _ in waits), default=None)


def asked_wait(body: Any, said: str) -> float | None:  # noqa: ANN401 - whatever a server sends
    """Return the seconds that a server asks to wait in the body of an error; None if it does not say.

    Google sends a `retryDelay`, OpenRouter the time of the reset; others another such field, or they say it in words.

    >>> asked_wait({"details": [{"retryDelay": "39600s"}]}, ""), asked_wait(None, "Please try again in 3h12m1.5s.")
    (39600.0, 11521.5)
    """
    for name, value in pairs(body):
        unit = "ms" if name.endswith(("ms", "milliseconds")) else ""
        if WAIT_NAME.search(name) and (wait := reset_wait(f"{value}{unit}")) is not None:
            return wait
    if found := DURATION.search(said):
        return reset_wait(found["span"])
    if found := DATE.search(said):
        try:
            reset = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}").replace(tzinfo=UTC)
        except ValueError:
            return None
        return bounded_wait(reset.timestamp() - time.time())
    return None


def reset_wait(value: str) -> float | None:
    """Return the seconds until a limit resets, from OpenAI's notation, from seconds, or from the time of the reset.

    >>> reset_wait("6m0s"), reset_wait("20ms"), reset_wait("1.5"), reset_wait("soon")
    (360.0, 0.02, 1.5, None)
    """
    text = value.strip()
    if re.fullmatch(rf"(?:{PART.pattern}\s*)+", text, re.IGNORECASE):
        return bounded_wait(sum(float(part[1]) * SECONDS[part[2].casefold()] for part in PART.finditer(text)))
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        return None
    number = float(text[:40])
    moment = number / 1000 if number > MILLISECONDS else number
    return bounded_wait(moment - time.time() if moment > EARLIEST else moment)


def bounded_wait(seconds: float) -> float:
    """Limit a wait to the plausible range."""
    return min(max(0.0, seconds), LONGEST_WAIT)


def pairs(body: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever a server sends
    """Yield every name (in lower case) and value in an error body, at any depth."""
    match body:
        case Mapping():
            for name, value in body.items():
                yield str(name).casefold(), value
                yield from pairs(value)
        case list():
            for part in body:
                yield from pairs(part)
