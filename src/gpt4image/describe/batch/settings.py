"""How large batches are, and how patient a job is with them."""

from __future__ import annotations

from dataclasses import dataclass

from gpt4image.errors import ConfigError


@dataclass(frozen=True)
class BatchSettings:
    """Nothing here decides what is asked.

    Attributes:
        most_requests: requests of a batch, at most; OpenAI takes no more than the default.
        most_bytes: size of a batch's input file, at most; likewise.
        most_batches: batches under way at a time, at most.
        attempts: times that a question may fail because of its request before that is its outcome.
        first_pause: seconds between two looks at the batches in the beginning.
        longest_pause: the pause that it grows to while nothing happens.
        create_seconds: how long a batch, the answer to whose making was lost, may take to show up in the list.
        down_seconds: how long the server may be out of reach before the job stops.
        hopeless: failures of a batch without any answer after which the job stops.
    """

    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    most_batches: int = 8
    attempts: int = 2
    first_pause: float = 2.0
    longest_pause: float = 60.0
    create_seconds: float = 120.0
    down_seconds: float = 3600.0
    hopeless: int = 20

    def __post_init__(self) -> None:
        for name in ("most_requests", "most_bytes", "most_batches", "attempts", "first_pause"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Limits:
    """The largest input file.

    Attributes:
        requests: its requests, at most.
        size: its bytes, at most.
    """

    requests: int
    size: int

    def times(self, factor: float) -> Limits:
        """Other limits, one request at least."""
        return Limits(max(1, int(self.requests * factor)), max(1, int(self.size * factor)))

    def within(self, most: Limits) -> Limits:
        """These limits where they are below others, else those."""
        return Limits(min(self.requests, most.requests), min(self.size, most.size))
