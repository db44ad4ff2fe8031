"""Words of texts, whichever way their characters were written."""

from __future__ import annotations

import unicodedata

from gpt4image.quality.words import split_words


def test_decomposed_words_equal_composed_ones():
    text = "M\u00fcller im Caf\u00e9"
    assert split_words(unicodedata.normalize("NFD", text)) == split_words(text) == ["m\u00fcller", "im", "caf\u00e9"]
