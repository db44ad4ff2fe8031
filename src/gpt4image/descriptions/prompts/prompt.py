"""Prompt strategies: read from data, checked before the first call, hashed so that a text knows its prompt."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.registry import unknown_name

PLACEHOLDERS = ("class", "classes", "neighbours")


FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


KEYS = ("turns", "system", "join", "about")


@dataclass(frozen=True)
class Prompt:
    """One way of asking about an image.

    Attributes:
        name: its name.
        turns: questions of one conversation, with placeholders.
        system: system message, if any, with placeholders.
        join: what stands between the answers.
        about: what it is for.
    """

    name: str
    turns: tuple[str, ...]
    system: str | None = None
    join: str = " "
    about: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"Prompt {self.name!r}: a name has small letters, digits, dots and hyphens, such as my-prompt."
            )
        if not self.turns or not all(turn.strip() for turn in self.turns):
            raise ConfigError(f"Prompt {self.name!r}: turns must be questions, none of them empty.")
        for text in self._templates:
            check_placeholders(text, self.name)

    @property
    def _templates(self) -> tuple[str, ...]:
        return (*self.turns, self.system) if self.system else self.turns

    @cached_property
    def hash(self) -> str:
        """128-bit hash of all that is sent and of how answers are joined, 32 hex digits."""
        return digest(json.dumps([self.turns, self.system, self.join]))

    @cached_property
    def placeholders(self) -> frozenset[str]:
        """Placeholders that stand in it."""
        return frozenset(name for text in self._templates for name in FIELD.findall(text) if name)

    def fill(self, values: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
        """System message and questions with values in the place of the placeholders."""
        system = None if self.system is None else fill(self.system, values)
        return system, tuple(fill(turn, values) for turn in self.turns)


def check_placeholders(text: str, name: str) -> None:
    """ConfigError for a placeholder that does not exist or a brace on its own."""
    for match in FIELD.finditer(text):
        if match[0] in ("{{", "}}"):
            continue
        if match[1] is None:
            raise ConfigError(f"Prompt {name!r}: a single {match[0]} in {text!r}. Write it twice if it is meant.")
        if match[1] not in PLACEHOLDERS:
            raise ConfigError(
                f"Prompt {name!r}: {unknown_name('placeholder', match[1], list(PLACEHOLDERS))} "
                "Double the braces if they are meant."
            )


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of placeholders; what a value holds is never read as a placeholder.

    >>> fill("A {class}, not {{this}}.", {"class": "{classes}"})
    'A {classes}, not {this}.'
    """
    return FIELD.sub(lambda match: values[match[1]] if match[1] else match[0][0], text)


def load_prompts(names: Sequence[str], file: Path | None = None) -> list[Prompt]:
    """Strategies by name.

    Args:
        names: `plain`, `class-conditioned`, `attributes`, `questions`, `contrast`, or those of the file.
        file: TOML file with strategies of one's own; they come before built-in ones of the same name.

    Raises:
        ConfigError: unknown name, the file cannot be read, a placeholder does not exist.
    """
    known = known_prompts() | known_prompts(file)
    if not names:
        raise ConfigError(f"No prompt is named. Known: {', '.join(sorted(known))}.")
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("prompt", name, list(known)) + " One of your own: --prompt-file FILE.")
    return [known[name] for name in dict.fromkeys(names)]


def known_prompts(file: Path | None = None) -> dict[str, Prompt]:
    """The strategies of a TOML file by name, the built-in ones when none is given. ConfigError names a broken file."""
    if file is not None:
        return parse_prompts(read_file(file), str(file))
    return parse_prompts((files(__package__) / "prompts.toml").read_text("utf-8"), "prompts.toml")


def read_prompt_file(file: Path) -> list[Prompt]:
    """All strategies of a file. ConfigError when it cannot be read or meant."""
    return list(parse_prompts(read_file(file), str(file)).values())


def read_file(path: Path) -> str:
    """A file's text. ConfigError names the file when it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def parse_prompts(text: str, source: str) -> dict[str, Prompt]:
    """Strategies of a TOML text. ConfigError names the source and the strategy that is wrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} cannot be read as TOML: {error}") from None
    return {name: make_prompt(name, table, source) for name, table in tables.items()}


def make_prompt(name: str, table: Any, source: str) -> Prompt:  # noqa: ANN401 - whatever TOML can hold
    """A strategy of a TOML table."""
    if not isinstance(table, dict):
        raise ConfigError(f'{source}: {name} must be a table, such as [{name}] with turns = ["..."].')
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{source}, [{name}]: {unknown_name('key', key, list(KEYS))}")
    turns = table.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ConfigError(f"{source}, [{name}]: turns must be a list of texts.")
    for key in KEYS[1:]:
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{source}, [{name}]: {key} must be a text.")
    return Prompt(name, tuple(turns), table.get("system"), table.get("join", " "), table.get("about", ""))
