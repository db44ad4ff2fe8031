"""The named recipes of `recipes.toml`: where each comes from, and how one is found."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from itertools import chain
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with its purpose and the paper, repository or measurement that its values come from."""

    name: str
    about: str
    source: str
    recipe: Recipe

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any], file: str) -> NamedRecipe:
        """Build a named recipe from a TOML table that holds `about`, `source` and recipe fields.

        Raises:
            ConfigError: an unknown field, an invalid value, or no `about` or `source`; the message names file, table
                and key.
        """
        values, where = dict(table), f"{file}, [{name}]"
        about, source = values.pop("about", None), values.pop("source", None)
        for key, text in (("about", about), ("source", source)):
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"{where}: {key} must be a string.")
        return cls(name, about, source, Recipe().override(values, where))

    def lines(self) -> list[str]:
        """Return the settings that differ from the defaults, below name, purpose and source, as a `--config` file.

        Comments and lists that are too long for a line of 80 characters have several.
        """
        long = partial(textwrap.wrap, width=80, break_long_words=False, break_on_hyphens=False)
        head = [f"# {self.name}: {self.about}", f"# Source: {self.source}"]
        comments = [part for line in head for part in long(line, subsequent_indent="#   ")]
        settings = ([line] if "= [" not in line else long(line, subsequent_indent="  ") for line in self.recipe.lines())
        return [*comments, *chain.from_iterable(settings)]


def named_recipe(name: str) -> Recipe:
    """Return a named recipe. ConfigError lists the known names.

    >>> named_recipe("reference-resnet50").lr
    0.4
    """
    return find_recipe(name).recipe


def find_recipe(name: str) -> NamedRecipe:
    """Return a named recipe with its source. ConfigError lists the known names."""
    if name not in _shipped_tables():
        raise ConfigError(unknown_name("recipe", name, list(recipe_names())))
    return NamedRecipe.from_table(name, _shipped_tables()[name], "recipes.toml")


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes that the library ships."""
    return tuple(_shipped_tables())


@cache
def _shipped_tables() -> Mapping[str, Any]:
    return tomllib.loads((files(__package__) / "recipes.toml").read_text("utf-8"))
