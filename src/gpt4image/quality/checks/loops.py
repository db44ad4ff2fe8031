"""Loops: a model that says the same again and again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from gpt4image.quality.words import sentences, words

WORD_REPEATS = 5


"""One word in a row this often is a loop."""


REPEATS = 3


"""A phrase or a sentence this often is a loop, if it is long enough."""


LOOP_WORDS = 8


"""Words that a repeated phrase takes up in all, at least."""


SENTENCE_WORDS = 4


LONG_TEXT = 30


"""Words from which on the share of distinct trigrams is looked at."""


DISTINCT_SHARE = 0.6


"""Texts that say something have 0.9 and more."""


LONGEST_PERIOD = 60


STUCK_KEY = re.compile(r"([^\W\d_])\1{14,}")


def find_loop(text: str, found: Sequence[str]) -> str | None:
    """What is said again and again, with how often; None where there is no loop.

    Args:
        text: the text.
        found: its words.

    >>> text = "A red car, a red car, a red car, a red"
    >>> find_loop(text, words(text))
    '"a red car" 3 times in a row'
    """
    if stuck := STUCK_KEY.search(text):
        return f'"{stuck[0]}"'
    common = Counter(pairwise(found))
    if max(common.values(), default=0) < REPEATS:  # no loop without a pair of words that comes again and again
        return None
    return repeated_phrase(found) or repeated_sentence(text) or few_trigrams(found)


def repeated_phrase(found: Sequence[str]) -> str | None:
    """The shortest phrase that comes several times in a row."""
    for period in range(1, min(len(found) // REPEATS, LONGEST_PERIOD) + 1):
        start, size = longest_run(found, period)
        repeats = size // period
        wanted = WORD_REPEATS if period == 1 else max(REPEATS, -(-LOOP_WORDS // period))
        if repeats >= wanted:
            return f'"{" ".join(found[start : start + period])}" {repeats} times in a row'
    return None


def longest_run(found: Sequence[str], period: int) -> tuple[int, int]:
    """Start and length of the longest stretch of words in which each is the one `period` words before.

    >>> longest_run("x a b a b a y".split(), 2)
    (1, 5)
    """
    best_start, best, run = 0, 0, 0
    for at in range(period, len(found)):
        run = run + 1 if found[at] == found[at - period] else 0
        if run > best:
            best_start, best = at - run - period + 1, run
    return best_start, best + period


def repeated_sentence(text: str) -> str | None:
    """A sentence or line that comes several times, wherever; numbers before it do not count."""
    counts = Counter(" ".join(words(sentence.lstrip("0123456789.)-*# "))) for sentence in sentences(text))
    for sentence, count in counts.most_common(3):
        if count >= REPEATS and sentence.count(" ") >= SENTENCE_WORDS - 1:
            return f'"{sentence}" {count} times'
    return None


def few_trigrams(found: Sequence[str]) -> str | None:
    """The commonest three words of a long text most of which it has said before."""
    trigrams = Counter(zip(found, found[1:], found[2:], strict=False))
    if len(found) < LONG_TEXT or len(trigrams) >= DISTINCT_SHARE * trigrams.total():
        return None
    (phrase, count), *_ = trigrams.most_common(1)
    return f'"{" ".join(phrase)}" {count} times'
