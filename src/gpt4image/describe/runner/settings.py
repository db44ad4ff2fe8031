"""How patient a job is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunSettings:
    """How patient a job is. Nothing here decides what is asked.

    Attributes:
        image_seconds: time for one description, all its calls together, waiting excluded.
        attempts: calls for one description that may fail because of it.
        servers_lost: times that a server may be gone, or only fail, when one description is sent, before that counts
            as failed.
        patience_seconds: how long servers may push everything back before the job stops.
        down_seconds: how long all servers may be down before the job stops.
        check_seconds: how long a server that owes an answer may take to say that it is there.
        hopeless_at_first: failures before the first answer after which the job stops.
        hopeless_in_a_row: failures in a row after which the job stops.
        grace_seconds: time that requests under way get to end when the job is stopped.
    """

    image_seconds: float = 180.0
    attempts: int = 4
    servers_lost: int = 10
    patience_seconds: float = 600.0
    down_seconds: float = 60.0
    check_seconds: float = 15.0
    hopeless_at_first: int = 20
    hopeless_in_a_row: int = 200
    grace_seconds: float = 30.0
