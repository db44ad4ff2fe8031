"""The limit on concurrent requests, checked by hand."""

import pytest

from gpt4image.llm.rate_limiter import RateLimiter


def grown(limit: int = 20, **more) -> RateLimiter:
    """Return a limiter that grew to a limit while responses took a tenth of a second."""
    limiter = RateLimiter(64, **more)
    for _ in range(limit - 4):
        limiter.on_success(0.0, 0.1, was_full=True)
    assert limiter.limit == limit
    return limiter


def test_limit_grows_only_if_it_held_requests_back():
    limiter = grown()
    limiter.on_success(1.0, 1.1, was_full=False)
    assert limiter.limit == 20
    limiter.on_success(1.0, 1.1, was_full=True)
    assert limiter.limit == 21


def test_timeout_halves_the_limit():
    limiter = grown()
    limiter.on_timeout(1.0, 5.0)
    assert limiter.limit == 10


def test_queued_response_lowers_the_limit():
    limiter = grown(slow_seconds=2.0)
    limiter.on_success(1.0, 3.5, was_full=True)
    assert limiter.limit == pytest.approx(18)
    patient = grown(slow_seconds=4.0)
    patient.on_success(1.0, 3.2, was_full=True)
    assert patient.limit == 20, "slower than half of that does not let it grow"


def test_rate_limits_of_one_round_trip_cut_the_limit_once():
    limiter = grown()
    for seconds in (0.0, 0.01, 0.02):
        limiter.on_rate_limit(1.0 + seconds, 1.5 + seconds, None)
    assert limiter.limit == pytest.approx(14)
    limiter.on_rate_limit(1.6, 1.7, None)
    assert limiter.limit == pytest.approx(12.6)


def test_pause_lasts_as_long_as_the_server_asks():
    limiter = grown()
    limiter.on_rate_limit(1.0, 1.5, 7.0)
    limiter.on_rate_limit(1.0, 1.6, 2.0)
    assert limiter.paused_until == 8.5
