"""The part of a text that a finding is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpt4image.pages.wording import ELLIPSIS

EXCERPT = 280
"""Characters of a text that a card shows."""
LEAD = 80
"""Characters of those that stand before the match."""
LONGEST = 400
"""Characters that are looked for, at most."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a text around a match.

    Attributes:
        before: what precedes the match.
        match: the match, empty where there is none.
        after: what follows it.
        whole: whether nothing was left out.
    """

    before: str
    match: str
    after: str
    whole: bool


def make_excerpt(text: str, words: str = "", *, size: int = EXCERPT, end: bool = False) -> Excerpt:
    """The part of a text to show.

    Args:
        text: the text.
        words: words that stand in it, whatever their capitals and what is between them; none for none to be shown.
        size: characters to show, at most.
        end: show the end where the words are not in the text.

    >>> make_excerpt("It is a Cat!", "a cat")
    Excerpt(before='It is ', match='a Cat', after='!', whole=True)
    """
    start, stop = find_span(text, words[:LONGEST]) or ((len(text), len(text)) if end else (0, 0))
    first = word_start(text, max(0, min(start - LEAD, len(text) - size)))
    last = min(first + size, len(text))
    stop = min(stop, last)
    before = (ELLIPSIS if first else "") + text[first:start]
    after = text[stop:last] + (ELLIPSIS if last < len(text) else "")
    return Excerpt(before, text[start:stop], after, whole=last - first == len(text))


def word_start(text: str, position: int) -> int:
    """The next position where a word starts, where one is near."""
    space = text.find(" ", position, position + LEAD // 4) if position else -1
    return position if space < 0 else space + 1


def find_span(text: str, words: str) -> tuple[int, int] | None:
    """Where words stand in a text, as often as they come in a row; None where they do not."""
    matches = (pattern.search(text) for pattern in patterns(words))
    return next((match.span() for match in matches if match), None)


def patterns(words: str) -> Iterator[re.Pattern[str]]:
    """Find words in a text: first as whole words, then as parts of words."""
    between = r"[\W_]*"
    phrase = between.join(map(re.escape, re.findall(r"[^\W_]+", words)))
    if len(phrase) == 1:  # a key that sticks
        yield re.compile(f"{phrase}{{3,}}", re.IGNORECASE)
    if phrase:
        yield re.compile(rf"(?<!\w){phrase}(?:{between}{phrase})*(?!\w)", re.IGNORECASE)
        yield re.compile(phrase, re.IGNORECASE)
