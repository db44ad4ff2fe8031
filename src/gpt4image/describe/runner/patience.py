"""Time limits and failure limits of a run, and the messages when they are reached."""

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
"""A line tells the user about waits of at least this many seconds."""
IGNORED_FAILURES = (UNREADABLE, NOT_RECORDED)
"""Failures that say nothing about the describer; any number of them in a row is tolerated."""
LONG_WAIT = 60.0
"""If a daily quota is used up, a shorter wait is not the time of its reset."""


@dataclass(frozen=True)
class RunSettings:
    """Limits of a run. None of them changes what is asked.

    Attributes:
        image_seconds: time for one description, all its requests together, waiting excluded.
        attempts: requests for one description that may fail because of it.
        servers_lost: times that a server may go down or only fail during one description before the description counts
            as failed.
        patience_seconds: how long the servers may rate limit every request before the run stops.
        load_seconds: how long a server may take to load its model, that is, until its first answer.
        down_seconds: how long all servers may be down before the run stops.
        check_seconds: time limit of a health check of a server that has not answered.
        max_failures_at_first: failures without any answer after which the run stops.
        max_failures_in_a_row: failed descriptions in a row after which the run stops.
        grace_seconds: time for open requests to finish when the run is stopped.
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
    """Return the error that ends a run in which everything fails, so that the images are unlikely to be the cause."""
    several = ", ".join(f"{count:,} {reason}" for reason, count in tally.failures.most_common(3))
    reasons = f" ({several})" if len(tally.failures) > 1 else ""
    return DescribeError(
        f"{in_a_row:,} descriptions in a row have failed{reasons}, the last one with: {as_end(str(last))} Fix the "
        "cause and run the command again with retry_failed (--retry-failed)."
    )


def standstill(seconds: float, last: RateLimitedError | None) -> DescribeError:
    """Return the error that ends a run whose servers reject every request."""
    words = f" The last refusal: {last.reason}{f' ({last.detail})' if last.detail else ''}." if last else ""
    return DescribeError(
        f"The servers have rate limited every request for {seconds:.0f} s.{words} Answers so far are kept; run the "
        "same command again later."
    )


def asked_to_wait(seconds: float, last: RateLimitedError | None) -> str:
    """Return the message about how long a server asks to wait."""
    return f"the server asks to wait {duration(seconds)}{_quote(last)}"


def _quote(refusal: RateLimitedError | None) -> str:
    return f'; it says "{refusal.detail}"' if refusal and refusal.detail else ""


def out_of_quota(place: str, error: RateLimitedError) -> str:
    """Return why a server that asks to wait for hours gets no more requests."""
    when = "it resets within a day"
    if error.seconds is not None and error.seconds >= LONG_WAIT:
        reset = datetime.now(UTC) + timedelta(seconds=error.seconds)
        when = f"it resets in {duration(error.seconds)}, at {moment(reset.isoformat())}"
    return f"the quota at {place} is used up: {when}{_quote(error)}"


def never_answered(place: str, seconds: float) -> str:
    """Return why a server that accepts requests and never answers gets no more of them."""
    return f"{place} accepts requests but has not answered any in {duration(seconds)}. Its log may say why"
