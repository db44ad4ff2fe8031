"""Class names in texts: how many of a class's texts carry its name, and texts with all names taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from gpt4image.descriptions.prompts.values import speak
from gpt4image.quality.words import WORD, words

IRREGULAR = (
    ("person", "people"),
    ("man", "men"),
    ("woman", "women"),
    ("child", "children"),
    ("mouse", "mice"),
    ("goose", "geese"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("ox", "oxen"),
)


PREFIX = re.compile(r"^(?:\d+|n\d{8})[\s._-]+")


"""Numbers and codes before names, as in `001.Black_footed_Albatross`."""


CODE = re.compile(r"[a-z]{1,2}\d{4,}")


MASK = "thing"


"""What stands in the place of a class name that is taken out."""


SHORTEST_STEM = 3


class ClassNames:
    """The names of classes as texts may say them: any case, singular and plural, each of several synonyms.

    `tench, Tinca tinca` has two names, `crane (bird)` and `001.crane` are a crane. Names that are no words, such as
    `n01440764` or `17`, are never found.

    Args:
        classes: class names; a label is a position among them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._phrases = [name_phrases(name) for name in classes]

    def sayable(self, label: int) -> bool:
        """Whether the name is made of words."""
        return bool(self._phrases[label])

    def find(self, found: Sequence[str], label: int) -> str | None:
        """The class's name as it stands in a text of these words; None where it does not."""
        joined = f" {' '.join(found)} "
        return next((phrase for phrase in self._phrases[label] if f" {phrase} " in joined), None)

    @cached_property
    def _all(self) -> dict[str, int]:
        return {phrase: phrase.count(" ") + 1 for phrases in self._phrases for phrase in phrases}

    @cached_property
    def _longest(self) -> int:
        return max(self._all.values(), default=0)

    def mask(self, text: str) -> str:
        """The text with the names of all classes taken out, not only of its own: a missing word would tell as much.

        >>> ClassNames(["cat", "bus_stop"]).mask("Two cats at a bus stop.")
        'Two thing at a thing.'
        """
        spans = [(match.start(), match.end(), match[0].casefold()) for match in WORD.finditer(text)]
        pieces, end, at = [], 0, 0
        while at < len(spans):
            size = self._size_at(spans, at)
            if size:
                pieces += [text[end : spans[at][0]], MASK]
                end = spans[at + size - 1][1]
            at += max(size, 1)
        return "".join([*pieces, text[end:]])

    def _size_at(self, spans: Sequence[tuple[int, int, str]], at: int) -> int:
        """Words of the longest name that begins at a word, 0 where none does."""
        for size in range(min(self._longest, len(spans) - at), 0, -1):
            if " ".join(word for _, _, word in spans[at : at + size]) in self._all:
                return size
        return 0


def name_phrases(name: str) -> list[str]:
    """All ways in which a class name may stand in a text, in small letters; none where it is not made of words.

    >>> name_phrases("fox squirrel, eastern fox squirrel")
    ['fox squirrel', 'fox squirrels', 'eastern fox squirrel', 'eastern fox squirrels']
    """
    spoken = speak(re.sub(r"\([^()]*\)", " ", name))
    names = (words(part) for part in re.split(r"[,;/|]", PREFIX.sub("", spoken)))
    return list(dict.fromkeys(phrase for found in names if is_words(found) for phrase in inflect(found)))


def is_words(found: Sequence[str]) -> bool:
    """Whether a name is made of words: one of them has a letter, is no single Latin letter, and no code.

    >>> is_words(["a380"]), is_words(["n01440764"]), is_words(["b"]), is_words(["17"])
    (True, False, False, False)
    """
    return any(
        any(c.isalpha() for c in word) and (len(word) > 1 or not word.isascii()) and not CODE.fullmatch(word)
        for word in found
    )


def inflect(found: Sequence[str]) -> Iterable[str]:
    """A name with its last word in singular and plural."""
    *first, last = found
    for form in dict.fromkeys((last, *other_number(last))):
        yield " ".join((*first, form))


def other_number(word: str) -> list[str]:
    """Plurals and singulars that a word may have, by the plain rules of English and a few that break them.

    >>> other_number("berry"), other_number("buses"), other_number("people"), other_number("glass")
    (['berries'], ['buse', 'bus'], ['person'], ['glasses'])
    """
    for pair in IRREGULAR:
        if word in pair:
            return [pair[1 - pair.index(word)]]
    return [*plurals(word), *singulars(word)]


def plurals(word: str) -> list[str]:
    """Plurals of a word that does not look like one."""
    if word.endswith(("ss", "x", "z", "ch", "sh", "us")):
        return [word + "es"]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies"]
    if word.endswith("f"):
        return [word + "s", word[:-1] + "ves"]
    if word.endswith("fe"):
        return [word[:-2] + "ves"]
    return [] if word.endswith("s") else [word + "s"]


def singulars(word: str) -> list[str]:
    """Singulars of a word that looks like a plural."""
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return []
    stems = [word[:-1]]
    if word.endswith("ies"):
        stems = [word[:-3] + "y", word[:-1]]
    elif word.endswith("ves"):
        stems += [word[:-3] + "f", word[:-3] + "fe"]
    elif word.endswith("es"):
        stems.append(word[:-2])
    return [stem for stem in stems if len(stem) >= SHORTEST_STEM]
