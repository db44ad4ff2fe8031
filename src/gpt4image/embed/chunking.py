"""Texts longer than an encoder reads, cut at word boundaries into chunks that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CountTokens = Callable[[Sequence[str]], list[int]]


def split_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text into chunks of at most `max_tokens` tokens each, special tokens included.

    Chunks are whole words, but for words that are too long by themselves, as in scripts without spaces.

    >>> split_text("one two three four five", 4, lambda texts: [len(t.split()) + 2 for t in texts])
    ['one two', 'three four', 'five']
    """
    words = text.split()
    special = count_tokens([""])[0]
    lengths = [length - special for length in count_tokens(words)]
    chunks: list[list[str]] = [[]]
    room = max_tokens - special
    for word, length in zip(words, lengths, strict=True):
        if chunks[-1] and length > room:
            chunks.append([])
            room = max_tokens - special
        chunks[-1].append(word)
        room -= length
    joined = (" ".join(chunk) for chunk in chunks if chunk)
    return [piece for chunk in joined for piece in halve(chunk, max_tokens, count_tokens)]


def halve(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text in the middle until every piece fits or is a single character.

    >>> halve("abcdefg", 4, lambda texts: [len(t) + 2 for t in texts])
    ['a', 'bc', 'de', 'fg']
    """
    if len(text) <= 1 or count_tokens([text])[0] <= max_tokens:
        return [text]
    middle = len(text) // 2
    return [*halve(text[:middle], max_tokens, count_tokens), *halve(text[middle:], max_tokens, count_tokens)]
