"""The ways of training that are compared."""

from __future__ import annotations

from dataclasses import dataclass

from gpt4image.errors import ConfigError
from gpt4image.seams import unknown_name


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: short name, used in folder names.
        title: what it is, in words.
        uses_text: whether the alignment loss takes part.
    """

    name: str
    title: str
    uses_text: bool


ARMS = {
    arm.name: arm
    for arm in (
        Arm("baseline", "labels alone", uses_text=False),
        Arm("described", "with descriptions", uses_text=True),
    )
}


def find_arm(name: str) -> Arm:
    """The arm of a name. ConfigError lists the known ones."""
    if name not in ARMS:
        raise ConfigError(unknown_name("arm", name, list(ARMS)))
    return ARMS[name]
