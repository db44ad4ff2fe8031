"""How patient a run is, and what it says when its patience ends."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gpt4image.core.errors import DescribeError
from gpt4image.core.format import as_end, duration, moment
from gpt4image.describe.tally import Tally
from gpt4image.llm.base import NOT_RECORDED, UNREADABLE, RateLimitedError

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
WAIT_SHOWN = 5.0
"""Seconds from which on a line says that the server asks to wait."""
IGNORED_FAILURES = (UNREADABLE, NOT_RECORDED)
"""Failures that say nothing about the describer: any number of them may come in a row."""
LONG_WAIT = 60.0
"""A shorter wait beside a quota of a day is not the time of its reset."""


@dataclass(frozen=True)
class RunSettings:
    """Limits of a run. None of them changes what is asked.

    Attributes:
        image_seconds: time for one description, all its requests together, waiting excluded.
        attempts: requests for one description that may fail because of it.
        servers_lost: times that a server may go down, or only fail, under one description before that counts as failed.
        patience_seconds: how long the servers may rate limit every request before the run stops.
        load_seconds: how long a server may take to load its model, that is, to its first answer.
        down_seconds: how long all servers may be down before the run stops.
        check_seconds: time limit of a health check of a server that owes an answer.
        max_failures_at_first: failed descriptions before the first answer after which the run stops.
        max_failures_in_a_row: failed descriptions in a row after which the run stops.
        grace_seconds: time that open requests get to finish when the run is stopped.
    """

    image_seconds: float = 180.0
    attempts: int = 4
    servers_lost: int = 10
    patience_seconds: float = 600.0
    load_seconds: float = 1800.0
    down_seconds: float = 60.0
    check_seconds: float = 15.0
    max_failures_at_first: int = 20
    max_failures_in_a_row: int = 200
    grace_seconds: float = 30.0


def retry_delay(failures: int) -> float:
    """Return seconds to wait after some failures: exponential, with jitter so that retries do not bunch."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)


def too_many_failures(in_a_row: int, tally: Tally, last: Exception) -> DescribeError:
    """Return the error that ends a run in which everything fails: the images are hardly to blame."""
    several = ", ".join(f"{count:,} {reason}" for reason, count in tally.failures.most_common(3))
    reasons = f" ({several})" if len(tally.failures) > 1 else ""
    return DescribeError(
        f"{in_a_row:,} descriptions in a row have failed{reasons}, the last one with: {as_end(str(last))} Fix the "
        "cause, then run it again with retry_failed (--retry-failed)."
    )


def standstill(seconds: float, last: RateLimitedError | None) -> DescribeError:
    """Return the error that ends a run whose servers turn every request away."""
    words = f" The last refusal: {last.reason}{f' ({last.detail})' if last.detail else ''}." if last else ""
    return DescribeError(
        f"The servers have rate limited every request for {seconds:.0f} s.{words} Answers so far are kept: run the "
        "same command again later."
    )


def asked_to_wait(seconds: float, last: RateLimitedError | None) -> str:
    """Return the line that says how long a server asks to wait before the next request."""
    return f"the server asks to wait {duration(seconds)}{_quote(last)}"


def _quote(refusal: RateLimitedError | None) -> str:
    return f'; it says "{refusal.detail}"' if refusal and refusal.detail else ""


def out_of_quota(place: str, error: RateLimitedError) -> str:
    """Return why a server that asks for hours of patience gets no more requests."""
    when = "it resets within a day"
    if error.seconds is not None and error.seconds >= LONG_WAIT:
        reset = datetime.now(UTC) + timedelta(seconds=error.seconds)
        when = f"it resets in {duration(error.seconds)}, at {moment(reset.isoformat())}"
    return f"the quota at {place} is used up: {when}{_quote(error)}"


def never_answered(place: str, seconds: float) -> str:
    """Return why a server that takes requests and answers none gets no more of them."""
    return f"{place} takes requests and has answered none in {duration(seconds)}. Its log may say what it waits for"
