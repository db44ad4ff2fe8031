"""Prompts that make the model pick a class: the list to pick from, and how to read the answer."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.tables import compose
from gpt4image.llm.base import Token

NONE_NAMES = ("none", "none of these", "none of the above classes")  # the first that is not the name of a class
START = re.compile(r"^[\W_]+")
EDGES = re.compile(r"^[\W_]+|[\W_]+$")  # quotes, bullets, stars, full stops around a name


@dataclass(frozen=True)
class Choices:
    """The classes to pick from.

    Attributes:
        classes: the C classes as the images call them.
        names: the same as the prompt calls them.
        texts: for each class, an explanation of its name for the prompt, or an empty text.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` if two names differ only in case, because an answer would be ambiguous."""
        for form, count in Counter(map(exact_form, self.names)).items():
            if count > 1:
                pairs = zip(self.classes, self.names, strict=True)
                twins = [repr(name) for name, spoken in pairs if exact_form(spoken) == form]
                raise ConfigError(
                    f"Answers would be ambiguous: the classes {' and '.join(twins)} are both called {form!r}. Give "
                    "them other names: class_names (--class-names FILE)."
                )

    @cached_property
    def none(self) -> str:
        """The answer for none of the classes."""
        taken = set(map(loose_form, self.names))
        return next(name for name in NONE_NAMES if name not in taken)

    @cached_property
    def listing(self) -> str:
        """The list in the prompt: a class per line, then the answer to give if none fits."""
        texts = self.texts or ("",) * len(self.names)
        lines = [f"- {name}: {text}" if text else f"- {name}" for name, text in zip(self.names, texts, strict=True)]
        return "\n".join([*lines, f"- {self.none}"])

    @cached_property
    def digest(self) -> str:
        """Hash of the list, 16 hex digits."""
        return digest(self.listing)[:16]

    @cached_property
    def _options(self) -> dict[str, str | None]:
        """Valid answers in exact form, and the class that each stands for; None for none."""
        return {exact_form(self.none): None} | {
            exact_form(said): name
            for name, spoken in zip(self.classes, self.names, strict=True)
            for said in (spoken, *((name,) if exact_form(name) not in map(exact_form, self.names) else ()))
        }

    @cached_property
    def _loose(self) -> dict[str, str | None]:
        """The same without punctuation around the names, if this is unambiguous."""
        counts = Counter(loose_form(said) for said in self._options)
        return {loose_form(said): name for said, name in self._options.items() if counts[loose_form(said)] == 1}

    def pick(self, answer: str, tokens: Sequence[Token] = ()) -> Pick:
        """Read an answer: a name from the list; case and surrounding punctuation do not matter.

        Args:
            answer: the model's answer.
            tokens: its tokens and their alternatives, if the server sent them.

        Raises:
            ValueError: the answer is anything else.
        """
        form = exact_form(answer)
        options = self._options
        if form not in options:
            form, options = loose_form(answer), self._loose
        if form not in options:
            raise ValueError(answer)
        return Pick(options[form], self.digest, self._weigh(tokens))

    def _weigh(self, tokens: Sequence[Token]) -> dict[str | None, float]:
        """Return the probability of each class, as far as the tokens' probabilities determine it.

        At each token, the probability of the text so far times that of an alternative token goes in equal parts to the
        classes whose names continue like this; the probability that the server did not list goes to all in equal parts.
        """
        if not tokens:
            return {}
        mass, rest, so_far, said = dict.fromkeys(self._options.values(), 0.0), 0.0, 1.0, ""
        for token in tokens:
            others = {text: odds for text, odds in token.others if text != token.text}
            listed = {text: math.exp(odds) for text, odds in (*others.items(), (token.text, token.log_probability))}
            for text, share in listed.items():
                fitting = self._fitting(said + text) if text != token.text else []
                for name in fitting:
                    mass[name] += so_far * share / len(fitting)
            rest += so_far * max(0.0, 1.0 - sum(listed.values()))
            so_far, said = so_far * listed[token.text], said + token.text
            if len(self._fitting(said)) == 1:
                break
        for name in (fitting := self._fitting(said, ended=True)):
            mass[name] += so_far / len(fitting)
        seen = {name: share for name, share in mass.items() if share > 0}
        total = sum(seen.values()) + rest
        return {name: (share + rest / len(mass)) / total for name, share in seen.items()} if seen else {}

    def _fitting(self, said: str, *, ended: bool = False) -> list[str | None]:
        """Return the classes whose names begin with a text, or equal it if it has ended; none for an empty text."""
        form, begun = loose_form(said), exact_form(START.sub("", said))
        whole = [self._loose[form]] if form in self._loose else []
        if not begun or (ended and whole):
            return whole
        return list(
            {*whole, *(name for other, name in self._options.items() if START.sub("", other).startswith(begun))}
        )

    def to_json(self) -> list[Sequence[str]]:
        """Return the choices as JSON values."""
        return [self.classes, self.names, self.texts]

    @classmethod
    def from_json(cls, values: Sequence[Sequence[str]]) -> Choices:
        """Return the choices from the values of `to_json`."""
        return cls(*map(tuple, values))


@dataclass(frozen=True)
class Pick:
    """The class that a model picked.

    Attributes:
        name: the class as the images call it; None for none in the list.
        choices: hash of the list that it picked from.
        probabilities: by class (None for none), if the server sent log-probabilities. The rest, up to 1, belongs to the
            other classes in equal parts.
    """

    name: str | None
    choices: str
    probabilities: Mapping[str | None, float]

    def to_json(self) -> str:
        """Return the pick as a JSON object."""
        shares = {name: round(math.log(share), 5) for name, share in self.probabilities.items() if name is not None}
        none = {"none": round(math.log(self.probabilities[None]), 5)} if None in self.probabilities else {}
        return json.dumps({"class": self.name, "choices": self.choices, "log_probabilities": shares, **none})

    @classmethod
    def from_json(cls, text: str) -> Pick:
        """Return the pick in a JSON object. ValueError, TypeError or KeyError if there is none."""
        values = json.loads(text)
        shares: dict[str | None, float] = {
            name: math.exp(min(0.0, float(value))) for name, value in values["log_probabilities"].items()
        }
        if "none" in values:
            shares[None] = math.exp(min(0.0, float(values["none"])))
        return cls(values["class"], values["choices"], shares)


def exact_form(text: str) -> str:
    """Return a text in composed characters (NFC), lower case and with single spaces.

    >>> exact_form(" Fire_Truck ")
    'fire truck'
    """
    return " ".join(compose(text).casefold().replace("_", " ").split())


def loose_form(text: str) -> str:
    """Return the exact form of a text without punctuation around it.

    >>> loose_form('- "Cat".')
    'cat'
    """
    return EDGES.sub("", exact_form(text))
