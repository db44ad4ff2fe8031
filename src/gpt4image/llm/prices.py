"""Prices of models: a dated data file that the user can override."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

MILLION = 1_000_000


KEYS = ("input", "output", "batch", "as_of", "source")


@dataclass(frozen=True)
class Price:
    """What a model's tokens cost.

    Attributes:
        input: US dollars for a million tokens read.
        output: US dollars for a million tokens written.
        batch: share of both that the batch interface costs; None where there is none.
        as_of: the day around which the price was known to hold, ISO 8601; empty where the user gave it.
        source: where the price of today stands.
    """

    input: float
    output: float
    batch: float | None = None
    as_of: str = ""
    source: str = ""

    def cost(self, tokens_in: int | None, tokens_out: int | None, *, batch: bool = False) -> float | None:
        """US dollars for some tokens; None where they were not counted."""
        if tokens_in is None or tokens_out is None:
            return None
        share = self.batch if batch and self.batch is not None else 1.0
        return share * (tokens_in * self.input + tokens_out * self.output) / MILLION


FREE = Price(0.0, 0.0, source="your own machine")


"""A server on this machine, or a model in this process."""


def load_prices(file: Path | None = None) -> dict[str, Price]:
    """The price table; models of the user's file come before those of the package.

    Raises:
        ConfigError: the file cannot be read, or a price cannot be meant.
    """
    table = read_prices((files(__package__) / "prices.toml").read_text("utf-8"), "prices.toml")
    if file is None:
        return table
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    return table | read_prices(text, str(file))


def read_prices(text: str, source: str) -> dict[str, Price]:
    """Prices of a TOML text. ConfigError names the source and the model that is wrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} cannot be read as TOML: {error}") from None
    return {name: make_price(name, table, source) for name, table in tables.items()}


def make_price(name: str, table: Any, source: str) -> Price:  # noqa: ANN401 - whatever TOML can hold
    """The price of a TOML table."""
    if not isinstance(table, Mapping):
        raise ConfigError(f'{source}: ["{name}"] must be a table with input and output, dollars for a million tokens.')
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{source}, [{name}]: {unknown_name('key', key, list(KEYS))}")
    numbers = {key: table.get(key) for key in ("input", "output", "batch")}
    for key, value in numbers.items():
        missing = value is None and key != "batch"
        if missing or (value is not None and not is_amount(value)):
            raise ConfigError(f"{source}, [{name}]: {key} must be a number from 0 up, not {value!r}.")
    return Price(**{**table, "as_of": str(table.get("as_of", ""))})


def is_amount(value: Any) -> bool:  # noqa: ANN401 - whatever TOML can hold
    """Whether a value can be meant as money.

    >>> is_amount(0.5), is_amount(-1), is_amount(True), is_amount(float("nan"))
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def find_price(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of a model: its own, or that of the longest name it begins with, as dated versions do.

    >>> table = {"gpt-4o": Price(2.5, 10), "gpt-4o-mini": Price(0.15, 0.6)}
    >>> find_price("gpt-4o-mini-2024-07-18", table).input, find_price("unknown", table)
    (0.15, None)
    """
    bare = model.rpartition("/")[2]
    for name in (model, bare):
        starts = [known for known in prices if name == known or name.startswith((known + "-20", known + "@"))]
        if starts:
            return prices[max(starts, key=len)]
    return None
