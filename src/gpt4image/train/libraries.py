"""Optional libraries that settings of a recipe need."""

from __future__ import annotations

from importlib.util import find_spec

from gpt4image.core.errors import MissingExtraError
from gpt4image.train.recipe import Recipe

OPTIONAL = {
    "peft": ("lora", "lora (--lora)"),
    "lightly": ("ssl", "self_supervised (--self-supervised)"),
    "bitsandbytes": ("large", "An 8-bit optimizer (--optimizer)"),
    "optuna": ("tune", "The search for settings (--tune)"),
}
"""Extra and purpose of each library."""


def require_library(name: str) -> None:
    """Raise MissingExtraError unless an optional library is installed."""
    if find_spec(name) is None:
        raise MissingExtraError(name, *OPTIONAL[name])


def require_libraries(recipe: Recipe) -> None:
    """Raise MissingExtraError if a setting needs a library that is not installed."""
    needed = {
        "peft": recipe.lora > 0,
        "lightly": recipe.self_supervised != "none",
        "bitsandbytes": recipe.optimizer.startswith("bnb"),
    }
    for name in filter(needed.get, needed):
        require_library(name)
