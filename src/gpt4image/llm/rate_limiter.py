"""Adapt the number of concurrent requests to the server while requests are being sent.

The limit follows TCP congestion control (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988): it doubles every
round trip until the first rate limit and rises by one per round trip afterwards, more slowly near the level of the last
rate limit. A server that queues requests silently shows in its response times: the limit shrinks before requests run
out of time in the queue.
"""

from __future__ import annotations

START = 4

# Factors of the limit: at a first rate limit, which may have overshot by half; at later ones; after a time-out.
FIRST_CUT, STEADY_CUT, TIMEOUT_CUT = 0.7, 0.9, 0.5

# Round trips between two attempts to exceed the level of the last rate limit.
PROBING_ROUND_TRIPS = 10


class RateLimiter:
    """Adapts the number of concurrent requests to the server.

    Args:
        most: maximum requests in flight.
        start: initial limit.
        slow_seconds: response time that counts as queueing if other responses took less than half of it.

    Attributes:
        limit: requests that may be in flight now; the fraction accumulates until the next whole request.
        in_flight: requests in flight; the caller keeps count.
        paused_until: time before which nothing may be sent.
    """

    def __init__(self, most: int, start: int = START, slow_seconds: float = float("inf")) -> None:
        self.most, self.slow_seconds = most, slow_seconds
        self.limit = float(min(start, most))
        self.in_flight = 0
        self.paused_until = 0.0
        self._doubling = True  # until the first cut
        self._ceiling = float(most)  # just below the limit at the last cut
        self._last_cut = 0.0
        self._fastest = float("inf")

    @property
    def room(self) -> int:
        """Requests that may be sent now, pauses aside."""
        return int(self.limit) - self.in_flight

    def on_success(self, sent: float, now: float, *, was_full: bool) -> None:
        """Raise the limit if it held requests back and the response was fast; lower it if the request was queued.

        Args:
            sent: when the request was sent.
            now: the current time.
            was_full: whether as many requests were in flight as the limit allows.
        """
        seconds = now - sent
        self._fastest = min(self._fastest, seconds)
        queued = seconds > 2 * self._fastest
        if queued and seconds > self.slow_seconds:
            self._cut(sent, now, STEADY_CUT)
        elif was_full and not (queued and seconds > self.slow_seconds / 2):
            # A round trip has `limit` responses: +1 each doubles the limit, +1 / limit each adds one.
            round_trips = PROBING_ROUND_TRIPS if self.limit >= self._ceiling else 1
            step = 1.0 if self._doubling else 1.0 / (round_trips * self.limit)
            self.limit = min(float(self.most), self.limit + step)

    def on_rate_limit(self, sent: float, now: float, wait: float | None) -> None:
        """Lower the limit, and pause for as long as the server asks.

        Args:
            sent: when the request was sent.
            now: the current time.
            wait: seconds that the server asks to wait, if it says so.
        """
        self._cut(sent, now, FIRST_CUT if self._doubling else STEADY_CUT)
        if wait is not None:
            self.paused_until = max(self.paused_until, now + wait)

    def on_timeout(self, sent: float, now: float) -> None:
        """Halve the limit: a request timed out, or one of several failures in a row."""
        self._cut(sent, now, TIMEOUT_CUT)

    def _cut(self, sent: float, now: float, factor: float) -> None:
        self._doubling = False
        if sent >= self._last_cut:  # the requests of one round trip cut the limit only once
            self._ceiling = max(1.0, self.limit - 1.0)
            self.limit = max(1.0, self.limit * factor)
            self._last_cut = now
