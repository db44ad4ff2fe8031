"""Values of the placeholders: class names, and the classes that each class is confused with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.descriptions.prompts.choices import Choices
from gpt4image.descriptions.prompts.prompt import Prompt

NEIGHBOURS = 3


@dataclass(frozen=True)
class PromptValues:
    """Placeholder values for every class.

    Attributes:
        classes: class names in words; a label is an index into this tuple.
        neighbours: by label, the names of the classes it is most often confused with.
        choices: the list that a model picks a class from. Default: the classes.
    """

    classes: tuple[str, ...]
    neighbours: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    choices: Choices | None = None

    @cached_property
    def listed(self) -> Choices:
        """The list that a model picks a class from."""
        return self.choices or Choices(self.classes, self.classes)

    def of(self, label: int) -> dict[str, str]:
        """Return the values for an image with a label; -1 stands for no label."""
        values = {"classes": ", ".join(self.classes), "choices": self.listed.listing}
        if label >= 0:
            values["class"] = self.classes[label]
        if label in self.neighbours:
            values["neighbours"] = ", ".join(self.neighbours[label])
        return values

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ConfigError` if a prompt needs confused classes and there are none, or its list has a name twice."""
        for prompt in prompts:
            if prompt.picks:
                self.listed.check()
            if "neighbours" in prompt.placeholders and not self.neighbours:
                raise ConfigError(
                    f"Prompt {prompt.name!r} compares a class with those it is confused with. Set confusions to a "
                    "baseline run (--confusions WORK/runs/baseline-0); to train one, run gpt4image train DATA --work "
                    "WORK --arm baseline."
                )


def speak(name: str) -> str:
    """Turn a class name into words.

    >>> speak("tabby_cat")
    'tabby cat'
    """
    return " ".join(name.replace("_", " ").split())


def most_confused(matrix: np.ndarray, count: int = NEIGHBOURS) -> dict[int, tuple[int, ...]]:
    """Find the classes that each class is most often confused with.

    Args:
        matrix: confusion matrix, images of class i predicted as class j, [C, C].
        count: maximum number of classes.

    Returns:
        By label, the labels in decreasing order of confusion, both directions added. A class that is never confused
        gets the classes that are confused most often overall.
    """
    errors = matrix + matrix.T
    np.fill_diagonal(errors, 0)
    tie_break = errors.sum(axis=0) / (errors.sum() + 1)
    order = np.argsort(-(errors + tie_break), axis=1, kind="stable")
    return {label: tuple(other for other in row if other != label)[:count] for label, row in enumerate(order.tolist())}
