"""Texts as words and sentences, in any script."""

from __future__ import annotations

import re

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


"""Letters of scripts that put no spaces between words: each counts as a word."""


LETTER = rf"(?:(?![{UNSPACED}])[^\W_])"


APOSTROPHE = "\u2019"


WORD = re.compile(rf"[{UNSPACED}]|{LETTER}+(?:['{APOSTROPHE}]{LETTER}+)*")


SENTENCE = re.compile("[^.!?\u3002\uff01\uff1f\n]+")


QUOTED = re.compile(
    r'"[^"\n]*"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb|\u201e[^\u201c\u201d\n]*[\u201c\u201d]|\u300c[^\u300d\n]*\u300d'
    r"|(?<!\w)['\u2018][^'\u2019\n]*['\u2019](?!\w)"
)


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation.

    >>> words("A man's T-shirt, RED.")
    ['a', "man's", 't', 'shirt', 'red']
    """
    return [word.replace(APOSTROPHE, "'") for word in WORD.findall(text.casefold())]


def sentences(text: str) -> list[str]:
    """Sentences and lines without their ends, none of them empty."""
    return [part for found in SENTENCE.findall(text) if (part := found.strip())]


def without_quotes(text: str) -> str:
    """The text without what stands in quotation marks: what a sign says is not what the model says.

    >>> without_quotes('A card that says "I am sorry" in red.')
    'A card that says   in red.'
    """
    return QUOTED.sub(" ", text)
