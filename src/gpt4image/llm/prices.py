"""Prices of models: the user's file comes first, then the list prices of the genai-prices package.

genai-prices bundles its table, so this works offline. It covers batch discounts and dated price changes, but no
shutdown dates: those come from the server's list of models or from the user's file, which looks like this:

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
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.core.validation import check_value, field_types

MILLION = 1_000_000
# Warn this many days before a model shuts down; a large image set and its retries take weeks.
SHUTDOWN_NOTICE_DAYS = 60

# Token count for which list prices are looked up. Tiered models charge more for longer prompts, which descriptions do
# not have.
TYPICAL_TOKENS = 1000


Amount = Annotated[float, Interval(ge=0, lt=math.inf)]


@dataclass(frozen=True)
class Price:
    """Price of a model's tokens.

    Attributes:
        input: US dollars per million prompt tokens.
        output: US dollars per million completion tokens.
        batch: factor of both through the batch interface; None if there is none.
        as_of: day of the price, ISO 8601, or the version of the table; empty if the user gave the price.
        source: where the price comes from.
        until: announced shutdown date of the model; None if none is known.
        changes: day on which another price takes effect; None if none is known.
    """

    input: Amount
    output: Amount
    batch: Amount | None = None
    as_of: str = ""
    source: str = ""
    until: date | None = None
    changes: date | None = None

    def cost(self, tokens_in: int | None, tokens_out: int | None, *, batch: bool = False) -> float | None:
        """Return US dollars for some tokens; None if they were not counted."""
        if tokens_in is None or tokens_out is None:
            return None
        factor = self.batch if batch and self.batch is not None else 1.0
        return factor * (tokens_in * self.input + tokens_out * self.output) / MILLION


# A server on this machine, or a model in this process.
FREE = Price(0.0, 0.0, source="your own machine")


def load_prices(file: Path, today: date | None = None) -> dict[str, Price]:
    """Read the prices in a file that are in effect today.

    Raises:
        ConfigError: the file cannot be read, or a price is invalid. The message names file, model and key.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    return {name: read_price(table, f"{file}, [{name}]", today or utc_today()) for name, table in tables.items()}


def read_price(table: Any, where: str, today: date) -> Price:  # noqa: ANN401 - whatever TOML can hold
    """Return the price in a model's table that is in effect today."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table with input and output, US dollars per million tokens.")
    values = {key: value for key, value in table.items() if key != "price"}
    periods = check_value(tuple[dict[str, Any], ...], table.get("price", []), f"{where}: price")
    if any("from" not in period for period in periods):
        raise ConfigError(
            f"{where}: a price has no `from`, the day on which it takes effect, such as from = 2026-12-01."
        )
    starts = [check_value(date, as_day(period["from"]), f"{where}: from of a price") for period in periods]
    for start, period in sorted(zip(starts, periods, strict=True), key=itemgetter(0)):
        if start <= today:
            values |= {key: value for key, value in period.items() if key != "from"}
    kinds = {name: kind for name, kind in field_types(Price).items() if name != "changes"}
    for key in values:
        if key not in kinds and isinstance(values[key], dict):
            name = f"{where.rpartition('[')[2].rstrip(']')}.{key}"
            raise ConfigError(f'{where}: a model\'s name that holds a dot needs quotation marks: write ["{name}"].')
        if key not in kinds:
            raise ConfigError(f"{where}: {unknown_name('key', key, [*kinds, 'price'])}")
    for name in ("input", "output"):
        if name not in values:
            raise ConfigError(f"{where}: {name} (US dollars per million tokens) is missing or takes effect later.")
    values |= {"as_of": str(values.get("as_of", ""))}
    values |= {"until": as_day(values["until"])} if "until" in values else {}
    checked = {key: check_value(kinds[key], value, f"{where}: {key}") for key, value in values.items()}
    return Price(**checked, changes=min((start for start in starts if start > today), default=None))


def as_day(value: Any) -> Any:  # noqa: ANN401 - whatever TOML can hold
    """Return a quoted date or a datetime as a date; anything else unchanged."""
    if isinstance(value, datetime):
        return value.date()
    try:
        return date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def utc_today() -> date:
    """Return today's date, the same on every machine."""
    return datetime.now(UTC).date()


def find_price(model: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price of a model, or of the longest name of which it is a dated version.

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
        url: the server's address. A vendor's address selects that vendor's price; with any other address the model's
            name decides.
    """
    from genai_prices import __version__ as version

    for name in dict.fromkeys((model, model.rpartition("/")[2])):
        for provider in dict.fromkeys((url or None, None)):
            if price := calculate(name, provider, f"genai-prices {version}"):
                return price
    return None


def calculate(name: str, url: str | None, as_of: str) -> Price | None:
    """Return the price from genai-prices; None if it does not know the model or has no price above 0."""
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


def shutdown_warning(model: str, until: date | None, today: date | None = None) -> str:
    """Return a warning if a model's shutdown date is near or past; else an empty string.

    >>> shutdown_warning("old", date(2026, 12, 1), date(2026, 11, 28))
    'old shuts down on 2026-12-01, in 3 days. Choose another model if you will add descriptions later.'
    >>> shutdown_warning("old", date(2026, 12, 1), date(2026, 12, 1))
    'old was due to shut down on 2026-12-01. If its requests fail, set model (--model) to another one.'
    >>> shutdown_warning("old", date(2026, 12, 1), date(2026, 1, 1)), shutdown_warning("old", None)
    ('', '')
    """
    days = (until - (today or utc_today())).days if until else SHUTDOWN_NOTICE_DAYS + 1
    if days > SHUTDOWN_NOTICE_DAYS:
        return ""
    if days <= 0:
        return f"{model} was due to shut down on {until}. If its requests fail, set model (--model) to another one."
    left = f"in {days} days" if days > 1 else "tomorrow"
    return f"{model} shuts down on {until}, {left}. Choose another model if you will add descriptions later."
