"""What many texts have in common: the same text on several images, the same first words on most."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gpt4image.files import digest

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
