"""A budget that is kept: nothing is sent whose cost, at worst, would exceed it."""

from __future__ import annotations

from gpt4image.core.errors import ConfigError
from gpt4image.llm.prices import Price, load_prices

UNKNOWN_TOKENS_IN = 4096


"""Tokens that a call is taken to read, before any was measured."""


UNSEEN_TOKENS_IN = 65_536


"""Tokens that each request of a first batch is taken to read; some models count 37,000 for a picture of 768 pixels."""


OVER_BUDGET = "the budget may not be enough for one more, at its longest"


"""Why a job ends where one more description could, at its longest, exceed the budget."""


PATIENCE = 8


"""Calls that nobody counted, with none that somebody did, after which a server is taken never to count."""


GROWTH = 100


"""Requests of a batch for every answer whose tokens are known, at most."""


class Budget:
    """Money that may be spent in all. Whatever is paid for is booked here, at its worst where nobody counted.

    Args:
        dollars: the most that may be spent; None for no limit.
        price: what tokens cost; None where it is not known.
        spent: dollars spent before.
        most_out: tokens that one call writes at most.
        turns: calls that one description takes, those made again aside.
        batch: pay the price of the batch interface.

    Attributes:
        spent: dollars spent by now.
        uncounted: calls that were booked at their worst.

    Raises:
        ConfigError: there is a limit and no price.
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
                "A budget needs the model's price, which is not known: give it with --prices FILE, or "
                "--price-in and --price-out in dollars for a million tokens."
            )
        if dollars is not None and not 0 <= dollars < float("inf"):
            raise ConfigError(f"The budget is an amount of dollars, not {dollars}.")
        self._dollars, self._price, self.spent = dollars, price, spent
        self._most_out, self._turns, self._batch = most_out, turns, batch
        self._most_in = 0
        self._measured = self.uncounted = 0

    def affords(self, in_flight: int) -> bool:
        """Whether one more description can be paid beside those under way, each at its worst.

        Before the first answer tells what a picture costs, or some have told nothing, one is sent at a time.
        """
        if self._dollars is None or self._price is None:
            return True
        if not self._most_in and self.uncounted < PATIENCE and in_flight:
            return False
        worst = self._turns * (self.worst_cost(None, None) or 0.0)
        return self.spent + (in_flight + 1) * worst <= self._dollars

    def room(self, in_flight: int) -> int | None:
        """How many more requests a batch may hold beside those under way, each at its worst; None for any number.

        Before the first answer tells what a picture costs, a batch goes alone.
        """
        if self._dollars is None or not self.cost(1, 1):
            return None
        if self._most_in:
            return min(self._fitting(self._most_in, in_flight), GROWTH * self._measured)
        return 0 if in_flight else max(self._fitting(UNSEEN_TOKENS_IN, 0), int(self.affords(0)))

    def _fitting(self, tokens_in: int, in_flight: int) -> int:
        assert self._dollars is not None
        worst = self.cost(tokens_in, self._most_out) or 0.0
        return max(0, int((self._dollars - self.spent) / worst) - in_flight)

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """What some tokens cost; None where price or tokens are not known."""
        return self._price.cost(tokens_in, tokens_out, batch=self._batch) if self._price else None

    def worst_cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """What a call costs, at its worst where its tokens were not counted; None where the price is not known."""
        most_in = self._most_in or UNKNOWN_TOKENS_IN
        return self.cost(
            most_in if tokens_in is None else tokens_in, self._most_out if tokens_out is None else tokens_out
        )

    def pay(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Book a call; returns what was booked, None where the price is not known."""
        cost = self.worst_cost(tokens_in, tokens_out)
        if cost is not None:
            self.spent += cost
            self._most_in = max(self._most_in, tokens_in or 0)
            self._measured += bool(tokens_in)
            self.uncounted += cost > 0 and (tokens_in is None or tokens_out is None)
        return cost


__all__ = ["Price", "load_prices"]
