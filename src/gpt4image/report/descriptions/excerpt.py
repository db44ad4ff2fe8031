"""Cut a text down to the part around the words that a check found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpt4image.core.format import ELLIPSIS

EXCERPT = 280  # characters on a card
LEAD = 80  # how many of these precede the match
MAX_MATCH = 400  # most characters to search for, because long patterns are slow


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a text around a match.

    Attributes:
        before: what precedes the match.
        match: the match; empty if there is none.
        after: what follows it.
        whole: whether nothing was cut.
    """

    before: str
    match: str
    after: str
    whole: bool


def make_excerpt(text: str, words: str = "", *, size: int = EXCERPT, end: bool = False) -> Excerpt:
    """Cut a text to the part around words that occur in it, else to its start or its end.

    Args:
        text: the text.
        words: words to find, ignoring case and the punctuation between them.
        size: maximum number of characters.
        end: show the end rather than the start if the words do not occur.

    >>> make_excerpt("It is a Cat!", "a cat")
    Excerpt(before='It is ', match='a Cat', after='!', whole=True)
    """
    start, stop = find_span(text, words[:MAX_MATCH]) or ((len(text), len(text)) if end else (0, 0))
    first = _word_start(text, max(0, min(start - LEAD, len(text) - size)))
    last = min(first + size, len(text))
    stop = min(stop, last)
    before = (ELLIPSIS if first else "") + text[first:start]
    after = text[stop:last] + (ELLIPSIS if last < len(text) else "")
    return Excerpt(before, text[start:stop], after, whole=last - first == len(text))


def _word_start(text: str, position: int) -> int:
    """Return the next position where a word starts, if one is near."""
    space = text.find(" ", position, position + LEAD // 4) if position else -1
    return position if space < 0 else space + 1


def find_span(text: str, words: str) -> tuple[int, int] | None:
    """Return start and end of words in a text, including immediate repeats; None if they do not occur."""
    matches = (pattern.search(text) for pattern in _patterns(words))
    return next((match.span() for match in matches if match), None)


def _patterns(words: str) -> Iterator[re.Pattern[str]]:
    """Yield patterns for words: first as whole words, then as parts of words."""
    between = r"[\W_]*"
    phrase = between.join(map(re.escape, re.findall(r"[^\W_]+", words)))
    if len(phrase) == 1:  # a stuck key
        yield re.compile(f"{phrase}{{3,}}", re.IGNORECASE)
    if phrase:
        yield re.compile(rf"(?<!\w){phrase}(?:{between}{phrase})*(?!\w)", re.IGNORECASE)
        yield re.compile(phrase, re.IGNORECASE)
