"""Texts longer than an encoder reads, cut at word boundaries into chunks that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CountTokens = Callable[[Sequence[str]], list[int]]


def split_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Cut a text into chunks of whole words of at most `max_tokens` tokens each, special tokens included.

    A single word that is longer than that stays one chunk, which the encoder truncates.

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
    return [" ".join(chunk) for chunk in chunks if chunk]
