"""Prices of models: the user's file comes first, then the list prices of the genai-prices package.

genai-prices bundles its table, so this works offline. It covers batch discounts and dated price changes, but no
shutdown
dates: those come from the server's list of models or from the user's file, which looks like this:

    ["my-model"]
    input = 0.30             # US dollars per million prompt tokens
    output = 2.50            # US dollars per million completion tokens
    batch = 0.5              # factor of the batch interface; omit it if there is none
    as_of = 2026-11-01       # optional: when and where you read the price
    source = "https://..."
    until = 2027-01-14       # optional: announced shutdown date

    [["my-model".price]]     # optional: replaces the values above from a day on
    from = 2026-12-01
    input = 0.25
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

MILLION = 1_000_000

AMOUNTS = ("input", "output", "batch")
KEYS = (*AMOUNTS, "as_of", "source", "until")

# Warn this many days before a model shuts down; a large image set and its retries take weeks.
SHUTDOWN_NOTICE_DAYS = 60

# Tokens that list prices are taken at. Tiered models charge more for longer prompts, which descriptions do not have.
TYPICAL_TOKENS = 1000


@dataclass(frozen=True)
class Price:
    """Price of a model's tokens.

    Attributes:
        input: US dollars per million prompt tokens.
        output: US dollars per million completion tokens.
        batch: factor of both through the batch interface; None if there is none.
        as_of: day of the price, ISO 8601, or the version of the table; empty if the user gave the price.
        source: where the price comes from.
        until: announced shutdown date of the model, ISO 8601; empty if none is known.
    """

    input: float
    output: float
    batch: float | None = None
    as_of: str = ""
    source: str = ""
    until: str = ""

    def cost(self, tokens_in: int | None, tokens_out: int | None, *, batch: bool = False) -> float | None:
        """Return US dollars for some tokens; None if they were not counted."""
        if tokens_in is None or tokens_out is None:
            return None
        factor = self.batch if batch and self.batch is not None else 1.0
        return factor * (tokens_in * self.input + tokens_out * self.output) / MILLION


# A server on this machine, or a model in this process.
FREE = Price(0.0, 0.0, source="your own machine")


def load_prices(file: Path, today: date | None = None) -> dict[str, Price]:
    """Read a price file; of dated prices, those that hold today.

    Raises:
        ConfigError: the file cannot be read, or a price is invalid. The message names file, model and key.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    today = today or datetime.now(UTC).date()
    return {name: read_price(table, f"{file}, [{name}]", today) for name, table in tables.items()}


def read_price(table: Any, where: str, today: date) -> Price:  # noqa: ANN401 - whatever TOML can hold
    """Return the price of a model's table that holds today."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table with input and output, US dollars per million tokens.")
    values = {key: value for key, value in table.items() if key != "price"}
    periods = table.get("price", [])
    for period in periods if isinstance(periods, list) else [periods]:
        if not isinstance(period, dict) or not is_date(period.get("from")):
            raise ConfigError(f"{where}: every price needs the day it starts, such as from = 2026-12-01.")
    for period in sorted(periods, key=lambda period: period["from"]):
        if period["from"] <= today:
            values = values | {key: value for key, value in period.items() if key != "from"}
    check_values(values, where)
    texts = {key: str(values.get(key, "")) for key in ("as_of", "source", "until")}
    return Price(values["input"], values["output"], values.get("batch"), **texts)


def check_values(values: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for an unknown key or an invalid value."""
    for key in values:
        if key not in KEYS:
            raise ConfigError(f"{where}: {unknown_name('key', key, [*KEYS, 'price'])}")
    for key in AMOUNTS:
        if not (is_amount(values.get(key)) or (key == "batch" and key not in values)):
            raise ConfigError(f"{where}: {key} must be a number from 0 up, not {values.get(key)!r}.")
    if "until" in values and not is_date(values["until"]):
        raise ConfigError(f"{where}: until must be a date such as 2026-12-01, not {values['until']!r}.")


def is_amount(value: Any) -> bool:  # noqa: ANN401 - whatever TOML can hold
    """Return whether a value can be an amount of money.

    >>> is_amount(0.5), is_amount(-1), is_amount(True), is_amount(float("nan"))
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def is_date(value: Any) -> bool:  # noqa: ANN401 - whatever TOML can hold
    """Return whether TOML read a date without a time."""
    return isinstance(value, date) and not isinstance(value, datetime)


def find_price(model: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price of a model, or of the longest name that it is a dated version of.

    >>> table = {"gpt-4o": Price(2.5, 10), "gpt-4o-mini": Price(0.15, 0.6)}
    >>> find_price("gpt-4o-mini-2024-07-18", table).input, find_price("unknown", table)
    (0.15, None)
    """
    for name in (model, model.rpartition("/")[2]):
        starts = [known for known in prices if name == known or name.startswith((known + "-20", known + "@"))]
        if starts:
            return prices[max(starts, key=len)]
    return None


def list_price(model: str, url: str = "") -> Price | None:
    """Return the vendor's list price of today; None if genai-prices does not know the model.

    Args:
        model: model name.
        url: the server's address. A vendor's address selects that vendor's price; any other address leaves it to the
            model's name.
    """
    from genai_prices import __version__ as version

    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        for provider in dict.fromkeys((url or None, None)):
            if price := calculate(name, provider, f"genai-prices {version}"):
                return price
    return None


def calculate(name: str, url: str | None, as_of: str) -> Price | None:
    """Return the price that genai-prices calculates; None if it knows no such model or no price above 0."""
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=TYPICAL_TOKENS, output_tokens=TYPICAL_TOKENS)
    try:
        online = calc_price(usage, name, provider_api_url=url)
        batch = calc_price(usage, name, provider_api_url=url, price_context={"processing": "batch"})
    except LookupError:
        return None
    if not online.total_price:
        return None
    return Price(
        input=float(online.input_price * MILLION / TYPICAL_TOKENS),
        output=float(online.output_price * MILLION / TYPICAL_TOKENS),
        # Without a batch rate the package returns the standard price, which is no discount.
        batch=float(batch.total_price / online.total_price) if batch.total_price < online.total_price else None,
        as_of=as_of,
        source=(online.provider.pricing_urls or [""])[0],
    )


def shutdown_warning(model: str, until: str, today: date | None = None) -> str:
    """Return a warning if a model's shutdown date is near or past; else an empty string.

    >>> shutdown_warning("old", "2026-12-01", date(2026, 11, 28))
    'old shuts down on 2026-12-01, in 3 days. Choose another model for descriptions that have to be added later.'
    >>> shutdown_warning("old", "2026-12-01", date(2026, 12, 1))
    'old was to shut down on 2026-12-01. If its requests fail, choose another model with --model.'
    >>> shutdown_warning("old", "2026-12-01", date(2026, 1, 1)), shutdown_warning("old", "")
    ('', '')
    """
    try:
        days = (date.fromisoformat(until) - (today or datetime.now(UTC).date())).days
    except ValueError:
        return ""
    if days > SHUTDOWN_NOTICE_DAYS:
        return ""
    if days <= 0:
        return f"{model} was to shut down on {until}. If its requests fail, choose another model with --model."
    left = f"in {days} days" if days > 1 else "tomorrow"
    return f"{model} shuts down on {until}, {left}. Choose another model for descriptions that have to be added later."
