"""A budget that is kept: nothing is sent whose cost, at worst, would exceed it."""

from __future__ import annotations

from gpt4image.describe.cost.prices import Price
from gpt4image.errors import ConfigError

UNKNOWN_TOKENS_IN = 4096
"""Tokens that a first request is taken to read, before any was measured."""


class Budget:
    """Money that may be spent in all.

    Args:
        dollars: the most that may be spent; None for no limit.
        price: what tokens cost; None where it is not known.
        spent: dollars spent before.
        most_out: tokens that one request writes at most.

    Raises:
        ConfigError: there is a limit and no price.
    """

    def __init__(self, dollars: float | None, price: Price | None, spent: float, most_out: int) -> None:
        if dollars is not None and price is None:
            raise ConfigError(
                "A budget needs the model's price, which is not known: give it with --prices FILE, or "
                "--price-in and --price-out in dollars for a million tokens."
            )
        if dollars is not None and dollars < 0:
            raise ConfigError(f"The budget must not be negative, but is {dollars}.")
        self._dollars, self._price, self.spent = dollars, price, spent
        self._most_out = most_out
        self._most_in: int | None = None

    def affords(self, in_flight: int) -> bool:
        """Whether one more request can be paid beside those under way, each at its worst.

        Before the first answer tells what a picture costs, one is sent at a time.
        """
        if self._dollars is None or self._price is None:
            return True
        if self._most_in is None and in_flight:
            return False
        worst = self._price.cost(self._most_in or UNKNOWN_TOKENS_IN, self._most_out) or 0.0
        return self.spent + (in_flight + 1) * worst <= self._dollars

    def pay(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """Book an answer; returns its cost where it is known."""
        cost = self._price.cost(tokens_in, tokens_out) if self._price else None
        if cost is not None:
            self.spent += cost
            self._most_in = max(self._most_in or 0, tokens_in or 0)
        return cost
