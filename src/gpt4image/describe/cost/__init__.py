"""What descriptions cost: a dated price table, an estimate before anything is spent, a budget that is kept."""

from gpt4image.describe.cost.prices import Price, load_prices

__all__ = ["Price", "load_prices"]
