"""Recipes that have a name: read from data, each with its source. Imports nothing heavy."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe, recipe_from

FILE = "recipes.toml"


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe and where it is from.

    Attributes:
        name: its name.
        about: what it is for.
        source: paper, repository or measurement that its values are from.
        recipe: the recipe.
    """

    name: str
    about: str
    source: str
    recipe: Recipe

    def lines(self) -> list[str]:
        """What is not as in the default recipe, below name, purpose and source: a `--config` file."""
        default = Recipe().to_dict()
        changed = {key: value for key, value in self.recipe.to_dict().items() if value != default[key]}
        settings = [f"{key} = {json.dumps('none' if value is None else value)}" for key, value in changed.items()]
        return [f"# {self.name}: {self.about}", f"# Source: {self.source}", *settings]


def named_recipe(name: str) -> Recipe:
    """The recipe of a name. ConfigError for an unknown one, which lists those that there are.

    >>> named_recipe("reference-resnet50").lr
    0.4
    """
    return find_recipe(name).recipe


def find_recipe(name: str) -> NamedRecipe:
    """The recipe of a name, with its source. ConfigError for an unknown name."""
    if name not in shipped_tables():
        raise ConfigError(unknown_name("recipe", name, list(recipe_names())))
    return make_recipe(name, shipped_tables()[name], FILE)


def recipe_names() -> tuple[str, ...]:
    """Names of all recipes."""
    return tuple(shipped_tables())


@cache
def shipped_tables() -> Mapping[str, Any]:
    """The recipes as they stand in the file that comes with the package."""
    return tomllib.loads((files(__package__) / FILE).read_text("utf-8"))


def make_recipe(name: str, table: Mapping[str, Any], source: str) -> NamedRecipe:
    """A recipe of a TOML table.

    Args:
        name: of the recipe.
        table: its `about`, `source` and fields.
        source: file that it stands in, for messages.

    Raises:
        ConfigError: a key that no field has, a value that does not fit, or no `about` or `source`; the message names
            file, table and key.
    """
    where = f"{source}, [{name}]"
    fields = dict(table)
    told = {key: fields.pop(key, None) for key in ("about", "source")}
    for key, text in told.items():
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}: {key} must be a text.")
    return NamedRecipe(name, told["about"], told["source"], recipe_from(Recipe(), fields, where))
