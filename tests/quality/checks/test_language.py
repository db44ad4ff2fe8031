"""The language of single texts and of most texts."""

import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.quality.checks.language import check_language, find_other_language, main_language
from gpt4image.quality.words import split_words
from support.example_texts import OTHER_LANGUAGES


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages_are_found(language):
    text = OTHER_LANGUAGES[language]
    assert find_other_language(text, split_words(text), "en") == f"{language}, not en"
    assert find_other_language(text, split_words(text), language) is None


def test_short_english_texts_are_not_taken_for_another_language(english):
    flagged = [
        short
        for text in english
        for count in (3, 4, 5, 6, 8)
        for short in [" ".join(text.split()[:count])]
        if find_other_language(short, split_words(short), "en")
    ]
    assert flagged == []


def test_language_of_most_texts(english):
    assert main_language(english[:40] + list(OTHER_LANGUAGES.values())) == "en"
    assert main_language(english[:5]) is None
    assert main_language(["A dog."] * 50) is None
    mixed = [f"{text} {number}" for number in range(4) for text in OTHER_LANGUAGES.values()]
    assert main_language(mixed) is None


def test_unknown_language_is_an_error_that_lists_codes():
    check_language("de")
    with pytest.raises(ConfigError, match=r"'english'.*ISO 639-1"):
        check_language("english")
