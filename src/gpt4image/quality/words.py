"""Split texts into words and sentences, in any script."""

from __future__ import annotations

import re

from gpt4image.core.tables import compose

# Letters of scripts without spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese): each counts as a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
LETTER = rf"(?:(?![{UNSPACED}])[^\W_])"
APOSTROPHE = "\u2019"
WORD = re.compile(rf"[{UNSPACED}]|{LETTER}+(?:['{APOSTROPHE}]{LETTER}+)*")
SENTENCE = re.compile("[^.!?\u3002\uff01\uff1f\n]+")
QUOTED = re.compile(
    r'"[^"\n]*"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb|\u201e[^\u201c\u201d\n]*[\u201c\u201d]|\u300c[^\u300d\n]*\u300d'
    r"|(?<!\w)['\u2018][^'\u2019\n]*['\u2019](?!\w)"
)


def split_words(text: str) -> list[str]:
    """Return the words in lower case and normalised to NFC, without punctuation.

    >>> split_words("A man's T-shirt, RED.")
    ['a', "man's", 't', 'shirt', 'red']
    """
    return [word.replace(APOSTROPHE, "'") for word in WORD.findall(compose(text).casefold())]


def split_sentences(text: str) -> list[str]:
    """Return the non-empty sentences and lines, without end marks."""
    return [part for found in SENTENCE.findall(text) if (part := found.strip())]


def remove_quotes(text: str) -> str:
    """Remove everything in quotation marks: the words on a sign are not the model's own.

    >>> remove_quotes('A card that says "I am sorry" in red.')
    'A card that says   in red.'
    """
    return QUOTED.sub(" ", text)
