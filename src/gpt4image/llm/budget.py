"""The budget: no request is sent whose worst-case cost would exceed it.

Invariant: `spent` + (requests in flight) x (worst case of one) never exceeds the limit. A call whose tokens the server
did not count is charged at its worst case: the most prompt tokens seen so far, and the maximum answer length, or the
longest answer so far if thinking makes answers longer than that. Only requests that are open when this is first seen
can exceed the limit.
"""

from __future__ import annotations

from gpt4image.core.errors import ConfigError
from gpt4image.core.format import money
from gpt4image.llm.prices import Price

# Prompt tokens assumed for a call before any was measured.
UNKNOWN_TOKENS_IN = 4096

# Prompt tokens assumed for each request of a first batch; some models count 37,000 for a picture of 768 pixels.
UNSEEN_TOKENS_IN = 65_536
OVER_BUDGET = "the budget may not cover one more description of maximum length"
EXCEEDED = "the budget is exceeded"

# After this many uncounted calls and no counted one, we assume that the server never counts tokens.
MAX_UNCOUNTED = 8

# Limit on the requests of a batch, per answer with known tokens.
BATCH_GROWTH = 100


class Budget:
    """The money that may be spent, and what has been spent.

    Args:
        dollars: the limit; None for none.
        price: price of the model; None if it is not known.
        spent: US dollars spent by earlier runs.
        most_out: maximum completion tokens of one call.
        turns: calls per description, retries aside.
        batch: whether the price of the batch interface applies.

    Attributes:
        spent: US dollars spent so far.
        uncounted: calls that were charged at their worst case.

    Raises:
        ConfigError: there is a limit but no price, or the limit is not an amount.
    """

    def __init__(
        self,
        dollars: float | None,
        price: Price | None,
        spent: float,
        most_out: int,
        *,
        turns: int = 1,
        batch: bool = False,
    ) -> None:
        if dollars is not None and price is None:
            raise ConfigError(
                "A budget needs the price of the model, which is unknown: set prices (--prices FILE), or price_in "
                "and price_out (--price-in, --price-out) in dollars per million tokens."
            )
        if dollars is not None and not 0 <= dollars < float("inf"):
            raise ConfigError(f"The budget must be an amount in dollars, not {dollars}.")
        self._dollars, self._price, self.spent = dollars, price, spent
        self._max_tokens = self._most_out = most_out
        self._turns, self._batch = turns, batch
        self._most_in = 0  # most prompt tokens of any counted call
        self._measured = self.uncounted = 0

    def affords(self, in_flight: int) -> bool:
        """Return whether the budget covers the worst case of one more description besides those in flight.

        Until the first answer shows what a picture costs, descriptions go out one at a time.
        """
        if self._dollars is None or self._price is None:
            return True
        if not self._most_in and self.uncounted < MAX_UNCOUNTED and in_flight:
            return False
        worst = self._turns * (self.worst_cost(None, None) or 0.0)
        return self.spent + (in_flight + 1) * worst <= self._dollars

    @property
    def exceeded(self) -> str:
        """By how much the limit was exceeded, and why; empty if it was not."""
        if self._dollars is None or self.spent <= self._dollars:
            return ""
        why = "earlier runs had already spent it"
        if self._most_out > self._max_tokens:
            why = (
                f"an answer took {self._most_out:,} tokens although max_tokens (--max-tokens) is "
                f"{self._max_tokens:,}, because it does not limit the thinking of some models, and other requests "
                "were already open"
            )
        elif self._measured:
            why = "concurrent requests used more input tokens than any before them"
        return f"{EXCEEDED} by {money(self.spent - self._dollars)}: {why}"

    def room(self, in_flight: int) -> int | None:
        """Return how many requests a batch may hold besides those in flight; None for any number.

        Until the first answer shows what a picture costs, a batch goes out alone.
        """
        if self._dollars is None or not self.cost(1, 1):
            return None
        if self._most_in:
            return min(self._fitting(self._most_in, in_flight), BATCH_GROWTH * self._measured)
        return 0 if in_flight else max(self._fitting(UNSEEN_TOKENS_IN, 0), int(self.affords(0)))

    def _fitting(self, tokens_in: int, in_flight: int) -> int:
        assert self._dollars is not None
        worst = self.cost(tokens_in, self._most_out) or 0.0
        return max(0, int((self._dollars - self.spent) / worst) - in_flight)

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Return the cost of some tokens; None if price or tokens are not known."""
        return self._price.cost(tokens_in, tokens_out, batch=self._batch) if self._price else None

    def worst_cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Return the cost of a call, with the worst case for counts that are None; None if the price is unknown."""
        most_in = self._most_in or UNKNOWN_TOKENS_IN
        return self.cost(
            most_in if tokens_in is None else tokens_in, self._most_out if tokens_out is None else tokens_out
        )

    def pay(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Charge a call and return its cost; None if the price is not known."""
        cost = self.worst_cost(tokens_in, tokens_out)
        if cost is not None:
            self.spent += cost
            self._most_in = max(self._most_in, tokens_in or 0)
            self._most_out = max(self._most_out, tokens_out or 0)  # thinking may exceed the limit of the answer
            self._measured += bool(tokens_in)
            self.uncounted += cost > 0 and (tokens_in is None or tokens_out is None)
        return cost
