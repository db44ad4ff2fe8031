"""How arms look in the figures, and a figure with its title."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt4image.pages.svg import COLOURS

if TYPE_CHECKING:
    from markupsafe import Markup

Dashes = str | tuple[int, tuple[float, ...]]

_MARKERS = ("o", "D", "s", "^")
_DASHES: tuple[Dashes, ...] = ((0, (5, 2)), "-", (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))


@dataclass(frozen=True)
class ArmStyle:
    """How an arm looks: by colour, and by shape for who sees no colour."""

    colour: str
    marker: str
    dashes: Dashes


def arm_style(number: int) -> ArmStyle:
    """Look of the arm at that place in the comparison; it starts again after the fourth."""
    place = number % len(COLOURS)
    return ArmStyle(COLOURS[place], _MARKERS[place], _DASHES[place])


@dataclass(frozen=True)
class TitledFigure:
    """A figure and what the page writes above it."""

    title: str
    svg: Markup
    shows_arms: bool = True
