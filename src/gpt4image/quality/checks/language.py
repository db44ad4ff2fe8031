"""Find texts in a different language from the rest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.quality.words import split_words

MIN_WORDS = 5  # the language of shorter texts is too uncertain

# Lead of another language over the expected one, in nats per square root of bytes. Scores of a naive Bayes model grow
# with the length of a text and their noise with its square root, so one margin suits all lengths. Measured with
# py3langid 0.3 and 0.4: the first 5 words of 3,660 English descriptions stay below 4.1 (none above), whole sentences in
# nine other European languages, compared with English, lie above 8.
MARGIN = 5.0
READ_CHARACTERS = 400
SAMPLE = 500  # texts from which the main language is found, at most
MIN_TEXTS = 20


def check_language(language: str) -> None:
    """Raise ConfigError for an unknown language code."""
    known = {code for code, _ in _ranking("language")}
    if language not in known:
        raise ConfigError(f"{unknown_name('language', language, sorted(known))} Use an ISO 639-1 code, such as en.")


def main_language(texts: Sequence[str]) -> str | None:
    """Return the language of more than half of the texts, from a sample of at most 500.

    None if there is no such language, or if fewer than 20 texts are long enough to tell.
    """
    shuffled = random.Random(0).sample(texts, len(texts))
    long = (text for text in shuffled if len(split_words(text)) >= MIN_WORDS)
    votes = Counter(_ranking(text)[0][0] for _, text in zip(range(SAMPLE), long, strict=False))
    language, count = next(iter(votes.most_common(1)), ("", 0))
    return language if count > votes.total() / 2 and votes.total() >= MIN_TEXTS else None


def find_other_language(text: str, words: Sequence[str], expected: str) -> str | None:
    """Return the language of a text if it is clearly not the expected one (ISO 639-1), else None."""
    if len(words) < MIN_WORDS:
        return None
    scores = _ranking(text)
    language, best = scores[0]
    lead = (best - dict(scores)[expected]) / len(text[:READ_CHARACTERS].encode("utf-8", "replace")) ** 0.5
    return f"{language}, not {expected}" if lead >= MARGIN else None


def _ranking(text: str) -> Sequence[tuple[str, float]]:
    """Return all languages with their log-likelihoods, the most likely first."""
    import py3langid

    ranked: Iterable[tuple[str, float]] = py3langid.rank(text[:READ_CHARACTERS])
    return [(language, float(score)) for language, score in ranked]
