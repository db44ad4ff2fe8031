"""How many requests a server takes at a time, found out while they are sent."""

from __future__ import annotations

START = 4


GROWTH_CUT = 0.7


STEADY_CUT = 0.9


TIMEOUT_CUT = 0.5


PROBING_ROUND_TRIPS = 10


"""Round trips between two attempts to get past the limit at which the server last pushed back."""


class RateLimiter:
    """Grows while all goes well, and shrinks when the server pushes back.

    As in Jacobson, "Congestion Avoidance and Control" (SIGCOMM 1988): the limit doubles each round trip until the
    first push-back and rises by one each round trip after it; more slowly from where the last push-back came. A
    server that says nothing and lets requests queue is known by its answers: where they take too long because of the
    queue, the limit shrinks, before requests run out of time in it.

    Args:
        most: requests at a time, at most.
        start: requests at a time in the beginning.
        slow_seconds: time that an answer should not take where others took less than half of it.
    """

    def __init__(self, most: int, start: int = START, slow_seconds: float = float("inf")) -> None:
        self.most, self.slow_seconds = most, slow_seconds
        self.limit = float(min(start, most))
        self.in_flight = 0
        self.paused_until = 0.0
        self._growing = True
        self._ceiling = float(most)
        self._cut_before = 0.0
        self._fastest = float("inf")

    @property
    def room(self) -> int:
        """Requests that may be sent now, pauses aside."""
        return int(self.limit) - self.in_flight

    def on_success(self, sent: float, now: float, *, was_full: bool) -> None:
        """An answer came. The limit rises only where it was what held requests back, and the answer came soon.

        Args:
            sent: when the request was sent.
            now: the time.
            was_full: whether as many requests as the limit allows were under way.
        """
        seconds = now - sent
        self._fastest = min(self._fastest, seconds)
        queued = seconds > 2 * self._fastest
        if queued and seconds > self.slow_seconds:
            self._cut(sent, now, STEADY_CUT)
        elif was_full and not (queued and seconds > self.slow_seconds / 2):
            self._grow()

    def _grow(self) -> None:
        round_trips = PROBING_ROUND_TRIPS if self.limit >= self._ceiling else 1
        step = 1.0 if self._growing else 1.0 / (round_trips * self.limit)
        self.limit = min(float(self.most), self.limit + step)

    def on_rate_limit(self, sent: float, now: float, wait: float | None) -> None:
        """The server asked to slow down.

        Args:
            sent: when the request was sent; requests of one round trip cut the limit once.
            now: the time.
            wait: seconds that the server wants to be left alone, where it says so.
        """
        self._cut(sent, now, GROWTH_CUT if self._growing else STEADY_CUT)
        if wait is not None:
            self.paused_until = max(self.paused_until, now + wait)

    def on_timeout(self, sent: float, now: float) -> None:
        """A request took too long, or one of several in a row has failed."""
        self._cut(sent, now, TIMEOUT_CUT)

    def _cut(self, sent: float, now: float, share: float) -> None:
        self._growing = False
        if sent >= self._cut_before:
            self._ceiling = max(1.0, self.limit - 1.0)
            self.limit = max(1.0, self.limit * share)
            self._cut_before = now
