"""Class names in texts: how many of a class's texts contain its name, and texts with all class names masked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

from gpt4image.core.format import counted
from gpt4image.descriptions.prompts.values import speak
from gpt4image.quality.check_record import ClassLeakage
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import WORD, split_words

IRREGULAR = {"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese"}
IRREGULAR |= {"foot": "feet", "tooth": "teeth", "ox": "oxen"}
SINGULARS = {plural: singular for singular, plural in IRREGULAR.items()}
PREFIX = re.compile(r"^(?:\d+|n\d{8})[\s._-]+")  # numbers and codes before names, as in 001.Black_footed_Albatross
CODE = re.compile(r"[a-z]{1,2}\d{4,}")
MASK = "thing"  # replaces a class name
MIN_STEM = 3


class ClassNames:
    """Class names in the forms that texts contain: any case, singular and plural, and each of several synonyms.

    `tench, Tinca tinca` has two names; `crane (bird)` and `001.crane` are both `crane`. Names that are not words, such
    as `n01440764` or `17`, are never found.

    Args:
        classes: class names; a label is a position in them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._phrases = [name_phrases(name) for name in classes]

    def sayable(self, label: int) -> bool:
        """Return whether the name consists of words."""
        return bool(self._phrases[label])

    def find(self, words: Sequence[str], label: int) -> str | None:
        """Return the form in which the class's name occurs among the words of a text, None if it does not."""
        joined = f" {' '.join(words)} "
        return next((phrase for phrase in self._phrases[label] if f" {phrase} " in joined), None)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Number of words of every phrase of every class."""
        return {phrase: phrase.count(" ") + 1 for phrases in self._phrases for phrase in phrases}

    def mask(self, text: str) -> str:
        """Replace the names of all classes: if only an image's own were masked, the mask would reveal the class.

        >>> ClassNames(["cat", "bus_stop"]).mask("Two cats at a bus stop.")
        'Two thing at a thing.'
        """
        spans = [(match.start(), match.end(), match[0].casefold()) for match in WORD.finditer(text)]
        pieces, end, at = [], 0, 0
        while at < len(spans):
            size = self._longest_name(spans, at)
            if size:
                pieces += [text[end : spans[at][0]], MASK]
                end = spans[at + size - 1][1]
            at += max(size, 1)
        return "".join([*pieces, text[end:]])

    def _longest_name(self, spans: Sequence[tuple[int, int, str]], at: int) -> int:
        """Return the number of words of the longest name that starts at a word, 0 if none does."""
        for size in range(min(max(self._sizes.values(), default=0), len(spans) - at), 0, -1):
            if " ".join(word for _, _, word in spans[at : at + size]) in self._sizes:
                return size
        return 0


def name_phrases(name: str) -> list[str]:
    """Return all forms in which a text may contain a class name, in lower case; none if it is not made of words.

    >>> name_phrases("fox squirrel, eastern fox squirrel")
    ['fox squirrel', 'fox squirrels', 'eastern fox squirrel', 'eastern fox squirrels']
    """
    spoken = speak(re.sub(r"\([^()]*\)", " ", name))
    synonyms = (split_words(part) for part in re.split(r"[,;/|]", PREFIX.sub("", spoken)))
    return list(dict.fromkeys(phrase for words in synonyms if is_words(words) for phrase in _inflect(words)))


def is_words(words: Sequence[str]) -> bool:
    """Return whether a name has a real word: one with a letter that is neither a code nor a single Latin letter.

    >>> is_words(["a380"]), is_words(["n01440764"]), is_words(["b"]), is_words(["17"])
    (True, False, False, False)
    """
    return any(
        any(c.isalpha() for c in word) and (len(word) > 1 or not word.isascii()) and not CODE.fullmatch(word)
        for word in words
    )


def _inflect(words: Sequence[str]) -> Iterator[str]:
    """Yield a name with its last word in singular and plural."""
    *first, last = words
    for form in dict.fromkeys((last, *other_number(last))):
        yield " ".join((*first, form))


def other_number(word: str) -> list[str]:
    """Return possible plurals and singulars of a word, by the regular rules of English and a few exceptions.

    >>> other_number("berry"), other_number("buses"), other_number("people"), other_number("glass")
    (['berries'], ['buse', 'bus'], ['person'], ['glasses'])
    """
    if irregular := IRREGULAR.get(word) or SINGULARS.get(word):
        return [irregular]
    return [*_plurals(word), *_singulars(word)]


def _plurals(word: str) -> list[str]:
    if word.endswith(("ss", "x", "z", "ch", "sh", "us")):
        return [word + "es"]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies"]
    if word.endswith("f"):
        return [word + "s", word[:-1] + "ves"]
    if word.endswith("fe"):
        return [word[:-2] + "ves"]
    return [] if word.endswith("s") else [word + "s"]  # a word that looks like a plural has none


def _singulars(word: str) -> list[str]:
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return []
    stems = [word[:-1]]
    if word.endswith("ies"):
        stems = [word[:-3] + "y", word[:-1]]
    elif word.endswith("ves"):
        stems += [word[:-3] + "f", word[:-3] + "fe"]
    elif word.endswith("es"):
        stems.append(word[:-2])
    return [stem for stem in stems if len(stem) >= MIN_STEM]


def measure_leakage(texts: Sequence[CheckedText], classes: Sequence[str]) -> list[ClassLeakage]:
    """Count the texts of each class that contain its name; classes without a text are left out."""
    names = ClassNames(classes)
    counts: Counter[tuple[int, bool, bool]] = Counter()  # texts by label, class in the prompt, name in the text
    for text in texts:
        if text.label >= 0:
            named = names.find(split_words(text.text), text.label) is not None
            counts[text.label, bool(text.class_in_prompt), named] += 1
    records = []
    for label in sorted({label for label, _, _ in counts}):
        total = counts[label, False, False] + counts[label, False, True]
        records.append(
            ClassLeakage(
                name=classes[label].encode("utf-8", "replace").decode(),
                sayable=names.sayable(label),
                texts=total,
                with_word=counts[label, False, True],
                share=counts[label, False, True] / total if total and names.sayable(label) else None,
                told_texts=counts[label, True, False] + counts[label, True, True],
                told_with_word=counts[label, True, True],
            )
        )
    return records


def leakage_notes(leakage: Sequence[ClassLeakage]) -> list[str]:
    """Return notes that a reader needs to interpret these counts."""
    notes = []
    unsayable = [record.name for record in leakage if not record.sayable]
    if unsayable:
        notes.append(
            f"{len(unsayable):,} of {counted(len(leakage), 'class name')} are not words, such as {unsayable[0]}: no "
            "text can contain them, so they are not counted."
        )
    prompted, named = (sum(getattr(record, key) for record in leakage) for key in ("told_texts", "told_with_word"))
    if prompted:
        notes.append(
            f"{counted(prompted, 'text')} answered a prompt that names the class; {named:,} of them contain the class "
            "name. That is expected and not a finding."
        )
    return notes
