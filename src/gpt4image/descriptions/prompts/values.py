"""What stands in the place of placeholders: class names, and the classes that each is confused with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.descriptions.prompts.prompt import Prompt

NEIGHBOURS = 3


@dataclass(frozen=True)
class PromptValues:
    """Values of the placeholders for every class.

    Attributes:
        classes: class names as the prompt says them; a label is a position in this tuple.
        neighbours: names of the classes that each class is most confused with, by label.
    """

    classes: tuple[str, ...]
    neighbours: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def of(self, label: int) -> dict[str, str]:
        """Values for an image of a class; label -1 has no class."""
        values = {"classes": ", ".join(self.classes)}
        if label >= 0:
            values["class"] = self.classes[label]
        if label in self.neighbours:
            values["neighbours"] = ", ".join(self.neighbours[label])
        return values

    def check(self, strategies: Sequence[Prompt]) -> None:
        """ConfigError when a strategy needs confusions and there are none."""
        for strategy in strategies:
            if "neighbours" in strategy.placeholders and not self.neighbours:
                raise ConfigError(
                    f"Prompt {strategy.name!r} asks what tells a class from its neighbours. Name a baseline run that "
                    "knows them: --confusions WORK/runs/baseline-0 (train it: gpt4image train DATA --arm baseline)."
                )


def speak(name: str) -> str:
    """A class name as a prompt says it.

    >>> speak("tabby_cat")
    'tabby cat'
    """
    return " ".join(name.replace("_", " ").split())


def most_confused(matrix: np.ndarray, count: int = NEIGHBOURS) -> dict[int, tuple[int, ...]]:
    """Labels of the classes that each class is most confused with.

    Args:
        matrix: how often images of class i were taken for class j, [C, C].
        count: labels a class, at most.

    Returns:
        By label, the most confused first, both directions added up. A class that is never confused has those with
        which others are confused most.
    """
    errors = matrix + matrix.T
    np.fill_diagonal(errors, 0)
    tie_break = errors.sum(axis=0) / (errors.sum() + 1)
    order = np.argsort(-(errors + tie_break), axis=1, kind="stable")
    return {label: tuple(other for other in row if other != label)[:count] for label, row in enumerate(order.tolist())}
