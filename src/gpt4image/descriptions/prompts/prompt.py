"""Prompts: read from TOML, validated before the first call, hashed so that every text records its prompt."""

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

PLACEHOLDERS = ("class", "classes", "neighbours", "choices")
CLASS_PLACEHOLDERS = frozenset({"class", "neighbours"})  # placeholders that reveal the class to the model


FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


NEXT_TO_CLASS = re.compile(
    r"(?<!\{)(?:(?P<subject>\bit is )(?=an? ))?(?P<article>\b[Aa]n? )?\{class\}(?P<verb> (?:is|looks|has|was|does)\b)?"
)
PLURAL_VERBS = {" is": " are", " looks": " look", " has": " have", " was": " were", " does": " do"}


NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


KEYS = ("turns", "system", "join", "about")


@dataclass(frozen=True)
class Prompt:
    """The questions asked about an image, in one conversation.

    Attributes:
        name: lower-case letters, digits, dots, hyphens and underscores.
        turns: the questions, with placeholders.
        system: system message, with placeholders.
        join: separator between the answers.
        about: purpose of the prompt, for display.
    """

    name: str
    turns: tuple[str, ...]
    system: str | None = None
    join: str = " "
    about: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"Prompt {self.name!r}: use lower-case letters, digits, dots and hyphens, as in my-prompt."
            )
        if not self.turns or not all(turn.strip() for turn in self.turns):
            raise ConfigError(f"Prompt {self.name!r}: turns must be a list of non-empty questions.")
        for text in self._templates:
            check_placeholders(text, self.name)
        if self.picks and (told := sorted(self.placeholders & CLASS_PLACEHOLDERS)):
            raise ConfigError(
                f"Prompt {self.name!r}: {{choices}} has the model pick the class, and {{{told[0]}}} gives it away. "
                "Use only one of them."
            )

    @property
    def _templates(self) -> tuple[str, ...]:
        return (*self.turns, self.system) if self.system else self.turns

    @cached_property
    def hash(self) -> str:
        """128-bit hash of all texts that are sent and of the separator, 32 hex digits."""
        return digest(json.dumps([self.turns, self.system, self.join]))

    @cached_property
    def placeholders(self) -> frozenset[str]:
        """Placeholders used in the texts."""
        return frozenset(name for text in self._templates for name in FIELD.findall(text) if name)

    @property
    def picks(self) -> bool:
        """Whether the last answer must be one of the classes listed in the prompt."""
        return "choices" in self.placeholders

    def fill(self, values: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
        """Return system message and questions with the placeholders filled in."""
        system = None if self.system is None else fill(self.system, values)
        return system, tuple(fill(turn, values) for turn in self.turns)


def check_placeholders(text: str, name: str) -> None:
    """Raise `ConfigError` for an unknown placeholder or a single brace."""
    for match in FIELD.finditer(text):
        if match[0] in ("{{", "}}"):
            continue
        if match[1] is None:
            raise ConfigError(f"Prompt {name!r}: a single {match[0]} in {text!r}. Double it to print a brace.")
        if match[1] not in PLACEHOLDERS:
            raise ConfigError(
                f"Prompt {name!r}: {unknown_name('placeholder', match[1], list(PLACEHOLDERS))} "
                "Double the braces to print them."
            )


def fill(text: str, values: Mapping[str, str]) -> str:
    """Fill in placeholders; the values are not searched for placeholders.

    Articles and verbs next to the class agree with its name. This does not affect the prompt's hash, so renaming causes
    no new requests by itself.

    >>> fill("A {class}, not {{this}}.", {"class": "{classes}"})
    'A {classes}, not {this}.'
    >>> fill("Say that it is a {class}, and how the {class} looks.", {"class": "farm animals"})
    'Say that they are farm animals, and how the farm animals look.'
    """
    if "class" in values:
        text = NEXT_TO_CLASS.sub(lambda match: agree(match, values["class"]), text)
    return FIELD.sub(lambda match: values[match[1]] if match[1] else match[0][0], text)


def agree(match: re.Match[str], name: str) -> str:
    """Return the words around a class placeholder so that they agree with the class name."""
    subject, article, verb = (match[part] or "" for part in ("subject", "article", "verb"))
    if is_plural(name):
        return ("they are " if subject else "") + "{class}" + PLURAL_VERBS.get(verb, verb)
    if article:
        article = article[0] + ("n " if name[:1].lower() in "aeiou" else " ")
    return f"{subject}{article}{{class}}{verb}"


def is_plural(name: str) -> bool:
    """Return whether a class name is plural, judging by its last word.

    >>> [is_plural(name) for name in ("farm animals", "bus", "glass", "tennis", "sheep")]
    [True, False, False, False, False]
    """
    word = name.casefold().rpartition(" ")[2]
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as", "lens"))


def load_prompts(names: Sequence[str], file: Path | None = None) -> list[Prompt]:
    """Load prompts by name.

    Args:
        names: `plain`, `class-conditioned`, `attributes`, `questions`, `contrast`, `classify`, or those of the file.
        file: TOML file with more prompts; they override built-in ones of the same name.

    Raises:
        ConfigError: a name or placeholder is unknown, or the file cannot be read.
    """
    known = known_prompts() | known_prompts(file)
    if not names:
        raise ConfigError(f"No prompt given. Known: {', '.join(sorted(known))}.")
    for name in names:
        if name not in known:
            raise ConfigError(
                unknown_name("prompt", name, list(known)) + " To add your own, set prompt_file (--prompt-file FILE)."
            )
    return [known[name] for name in dict.fromkeys(names)]


def known_prompts(file: Path | None = None) -> dict[str, Prompt]:
    """Return the prompts of a TOML file by name, or the built-in ones. ConfigError names a broken file."""
    if file is not None:
        return parse_prompts(read_file(file), str(file))
    return parse_prompts((files(__package__) / "prompts.toml").read_text("utf-8"), "prompts.toml")


def read_prompt_file(file: Path) -> list[Prompt]:
    """Read all prompts of a file. ConfigError if it is unreadable or invalid."""
    return list(parse_prompts(read_file(file), str(file)).values())


def read_file(path: Path) -> str:
    """Read a text file. ConfigError names it if that fails."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def parse_prompts(text: str, source: str) -> dict[str, Prompt]:
    """Parse prompts from TOML. ConfigError names the source and the invalid prompt."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} cannot be read as TOML: {error}") from None
    return {name: make_prompt(name, table, source) for name, table in tables.items()}


def make_prompt(name: str, table: Any, source: str) -> Prompt:  # noqa: ANN401 - whatever TOML can hold
    """Build a prompt from its TOML table."""
    if not isinstance(table, dict):
        raise ConfigError(f'{source}: {name} must be a table, such as [{name}] with turns = ["..."].')
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{source}, [{name}]: {unknown_name('key', key, list(KEYS))}")
    turns = table.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ConfigError(f"{source}, [{name}]: turns must be a list of strings.")
    for key in KEYS[1:]:
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{source}, [{name}]: {key} must be a string.")
    return Prompt(name, tuple(turns), table.get("system"), table.get("join", " "), table.get("about", ""))
