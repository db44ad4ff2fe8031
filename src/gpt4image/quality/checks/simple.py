"""What can be told of a text by itself: empty, cut off, an echo of the prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gpt4image.core.files import digest
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import FIELD
from gpt4image.quality.words import sentences, words

FEWEST_WORDS = 3


CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})


"""Finish reasons of servers that stopped a text at its longest length."""


ECHO_WORDS = 8


"""Words in a row that a text and a prompt share by more than chance."""


ECHO_SENTENCE_WORDS = 4


"""Words of the shortest sentence of a prompt that counts as an echo where it stands in a text as a whole."""


def find_empty(found: Sequence[str]) -> str | None:
    """Says how many words there are where there are too few to describe anything."""
    if len(found) >= FEWEST_WORDS:
        return None
    return "no words" if not found else f"only: {' '.join(found)}"


def find_cut_off(finish_reason: str | None) -> str | None:
    """Says so where the server stopped the text at its longest length."""
    cut = finish_reason is not None and finish_reason.casefold() in CUT_OFF
    return f"finish reason: {finish_reason}" if cut else None


class PromptEcho:
    """Finds words of the prompts in texts.

    A text is an echo when it shares 8 words in a row with a prompt, or holds a whole sentence of one of at least 4
    words. What stands in a placeholder's place, such as the class, is not the prompt's.

    Args:
        strategies: the prompts.
    """

    def __init__(self, strategies: Iterable[Prompt]) -> None:
        self._templates = [text for s in strategies for text in (*s.turns, s.system) if text]

    @cached_property
    def _runs(self) -> set[tuple[str, ...]]:
        pieces = (words(piece) for text in self._templates for piece in between_placeholders(text))
        return {tuple(piece[at : at + ECHO_WORDS]) for piece in pieces for at in range(len(piece) - ECHO_WORDS + 1)}

    @cached_property
    def _sentences(self) -> list[str]:
        whole = (
            words(sentence) for text in self._templates for sentence in sentences(text) if not holds_field(sentence)
        )
        return [f" {' '.join(found)} " for found in whole if len(found) >= ECHO_SENTENCE_WORDS]

    def find(self, found: Sequence[str]) -> str | None:
        """The words of a prompt that stand in a text of these words; None where there are none."""
        for at in range(len(found) - ECHO_WORDS + 1):
            if tuple(found[at : at + ECHO_WORDS]) in self._runs:
                return " ".join(found[at : at + ECHO_WORDS])
        joined = f" {' '.join(found)} "
        return next((sentence.strip() for sentence in self._sentences if sentence in joined), None)


def between_placeholders(template: str) -> list[str]:
    """The parts of a prompt that are the same for every image.

    >>> between_placeholders("A {class}, seen from above.")
    ['A ', ', seen from above.']
    """
    pieces, end = [], 0
    for match in FIELD.finditer(template):
        if match[1]:
            pieces.append(template[end : match.start()])
            end = match.end()
    return [*pieces, template[end:]]


def holds_field(text: str) -> bool:
    """Whether a placeholder stands in a prompt's text."""
    return len(between_placeholders(text)) > 1


SHARED_BY = 3


"""Distinct images from which on a text that they share is a finding; two may well show the same."""


OPENING_WORDS = range(3, 9)


"""Lengths of the openings that are compared."""


OPENING_SHARE = 0.5


OPENING_TEXTS = 20


"""Fewest texts that make a common opening worth telling."""


@dataclass
class Repeats:
    """Collects texts one by one, a hash and the first words of each."""

    _hashes: list[str] = field(default_factory=list)
    _images: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _openings: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)

    def add(self, found: Sequence[str], image_id: str, prompt: str | None) -> None:
        """Take in a text of these words."""
        value = text_key(found)
        self._hashes.append(value)
        if found:
            self._images[value].add(image_id)
        self._openings.append((prompt, tuple(found[: OPENING_WORDS.stop - 1])))

    def shared(self) -> Iterator[tuple[int, int]]:
        """Number of each text that stands on several distinct images, and on how many."""
        for number, value in enumerate(self._hashes):
            if (images := len(self._images[value])) >= SHARED_BY:
                yield number, images

    def opened_alike(self) -> Iterator[tuple[int, str]]:
        """Number of each text that begins as at least half of its prompt's texts do, and how."""
        by_prompt: defaultdict[str | None, list[tuple[str, ...]]] = defaultdict(list)
        for prompt, first in self._openings:
            by_prompt[prompt].append(first)
        common = {prompt: common_opening(firsts) for prompt, firsts in by_prompt.items()}
        for number, (prompt, first) in enumerate(self._openings):
            opening = common[prompt]
            if opening and first[: len(opening)] == opening:
                yield number, " ".join(opening)


def text_key(found: Sequence[str]) -> str:
    """The same for texts that have the same words, whatever their case and punctuation."""
    return digest(" ".join(found))


def common_opening(firsts: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The longest opening of three words and more that at least half of some texts share.

    Args:
        firsts: first words of each text.
    """
    best = None
    for size in OPENING_WORDS:
        counts = Counter(first[:size] for first in firsts if len(first) >= size)
        opening, count = next(iter(counts.most_common(1)), ((), 0))
        if count >= max(OPENING_TEXTS, OPENING_SHARE * len(firsts)):
            best = opening
    return best
