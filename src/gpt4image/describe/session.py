"""Describers and the loop that they live in, opened once for all that a command has them do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from gpt4image.describe.cost.prices import FREE, Price, find_price, load_prices
from gpt4image.describe.describers.base import Describer
from gpt4image.describe.describers.known import open_describers
from gpt4image.describe.secrets import is_here
from gpt4image.options import DescribeOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Describers that are ready to answer.

    Attributes:
        describers: one or more, all of the same model.
        loop: runs their coroutines.
        price: what tokens cost; None where it is not known.
    """

    describers: tuple[Describer, ...]
    loop: asyncio.Runner
    price: Price | None

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.describers[0].model

    @property
    def most_at_once(self) -> int:
        """Requests under way at a time, at most."""
        return sum(describer.most_at_once for describer in self.describers)


@contextmanager
def open_session(options: DescribeOptions) -> Iterator[Session]:
    """Open the describers that the options ask for, and close them at the end.

    Raises:
        ConfigError: options that do not go together, or a price that cannot be meant.
        DescribeError: no describer can answer; the message says what could be started.
    """
    with asyncio.Runner() as loop:
        describers = loop.run(open_describers(options))
        try:
            yield Session(tuple(describers), loop, price_for(options, describers[0].model))
        finally:
            for describer in describers:
                loop.run(describer.close())


def price_for(options: DescribeOptions, model: str) -> Price | None:
    """What the model costs: what the user says, nothing on this machine, else what the price table knows."""
    if options.price_in is not None and options.price_out is not None:
        return Price(options.price_in, options.price_out, source="given by you")
    own = find_price(model, load_prices(options.prices)) if options.prices else None
    if own is not None:
        return own
    if options.describer in ("local", "replay") or (options.base_url and all(map(is_here, options.base_url))):
        return FREE
    return find_price(model, load_prices())


def outside_loops(work: Callable[[], T]) -> T:
    """Do work that runs loops of its own: in a thread where this one runs a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def collect() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
