"""Texts in another language than the rest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.quality.words import words

FEWEST_WORDS = 5


"""Shorter texts say too little of their language."""


MARGIN = 5.0


"""Lead of another language over the expected one, in nats a square root of bytes.

Scores of a naive Bayes model grow with the length of a text and their chance part with its square root, so one margin
serves all lengths. Measured with py3langid 0.3 and 0.4: the first 5 words of 3,660 English descriptions stay below 4.1
(none above), whole sentences in nine other European languages, held against English, lie above 8.
"""


READ = 400


"""Characters that are looked at."""


SAMPLE = 500


FEWEST_TEXTS = 20


def check_language(language: str) -> None:
    """ConfigError when no such language is known."""
    known = {code for code, _ in ranking("language")}
    if language not in known:
        raise ConfigError(f"{unknown_name('language', language, sorted(known))} It is a code of ISO 639-1, such as en.")


def main_language(texts: Sequence[str]) -> str | None:
    """The language of most texts; None where no language has more than half of them, or they are too few or too short.

    At most 500 of them are looked at, drawn by chance.
    """
    chosen = random.Random(0).sample(texts, len(texts))
    long = (text for text in chosen if len(words(text)) >= FEWEST_WORDS)
    votes = Counter(ranking(text)[0][0] for _, text in zip(range(SAMPLE), long, strict=False))
    language, count = next(iter(votes.most_common(1)), ("", 0))
    return language if count > votes.total() / 2 and votes.total() >= FEWEST_TEXTS else None


def find_other_language(text: str, found: Sequence[str], expected: str) -> str | None:
    """Says which language a text is in where that is clearly not the expected one.

    Args:
        text: the text.
        found: its words.
        expected: language it should be in, ISO 639-1.
    """
    if len(found) < FEWEST_WORDS:
        return None
    scores = ranking(text)
    language, best = scores[0]
    lead = (best - dict(scores)[expected]) / len(text[:READ].encode("utf-8", "replace")) ** 0.5
    return f"{language}, not {expected}" if lead >= MARGIN else None


def ranking(text: str) -> Sequence[tuple[str, float]]:
    """Languages with their log likelihoods, the best first."""
    import py3langid

    ranked: Iterable[tuple[str, float]] = py3langid.rank(text[:READ])
    return [(language, float(score)) for language, score in ranked]
