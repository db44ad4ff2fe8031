"""Repetition: within a text, of the prompt, and across images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise

from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.prompts.prompt import FIELD
from gpt4image.quality.checks.context import CheckContext, Flag
from gpt4image.quality.words import split_sentences, split_words

# Loops within a text
WORD_REPEATS = 5  # one word this often in a row
PHRASE_REPEATS = 3  # a phrase or sentence this often ...
LOOP_WORDS = 8  # ... if all repeats together have this many words
SENTENCE_WORDS = 4  # ... or the sentence has this many
MAX_PERIOD = 60  # words of the longest phrase looked for
LONG_TEXT = 30  # words from which the share of distinct trigrams is meaningful
MIN_DISTINCT = 0.6  # share of distinct trigrams; good descriptions have 0.9 and more
STUCK_KEY = re.compile(r"([^\W\d_])\1{14,}")

# Echoes of the prompt
ECHO_WORDS = 8  # consecutive words that text and prompt do not share by chance
ECHO_SENTENCE_WORDS = 4  # length of the shortest prompt sentence that counts as an echo

# Texts of several images
MIN_SHARED_IMAGES = 2
OPENING_WORDS = range(3, 9)  # lengths of openings that are compared
OPENING_SHARE = 0.5  # of a prompt's texts
OPENING_TEXTS = 20  # fewest texts with a common opening that are worth reporting


def find_loop(text: str, words: Sequence[str]) -> str | None:
    """Return what a text repeats over and over, and how often; None if it does not loop.

    >>> text = "A red car, a red car, a red car, a red"
    >>> find_loop(text, split_words(text))
    '"a red car" 3 times in a row'
    """
    if stuck := STUCK_KEY.search(text):
        return f'"{stuck[0]}"'
    if max(Counter(pairwise(words)).values(), default=0) < PHRASE_REPEATS:  # every loop repeats a pair of words
        return None
    return _repeated_phrase(words) or _repeated_sentence(text) or _few_trigrams(words)


def _repeated_phrase(words: Sequence[str]) -> str | None:
    """Return the shortest phrase that occurs several times in a row."""
    for period in range(1, min(len(words) // PHRASE_REPEATS, MAX_PERIOD) + 1):
        start, size = longest_run(words, period)
        repeats = size // period
        needed = WORD_REPEATS if period == 1 else max(PHRASE_REPEATS, -(-LOOP_WORDS // period))
        if repeats >= needed:
            return f'"{" ".join(words[start : start + period])}" {repeats} times in a row'
    return None


def longest_run(words: Sequence[str], period: int) -> tuple[int, int]:
    """Return start and length of the longest stretch in which each word equals the one `period` words before.

    >>> longest_run("x a b a b a y".split(), 2)
    (1, 5)
    """
    best_start, best, run = 0, 0, 0
    for at in range(period, len(words)):
        run = run + 1 if words[at] == words[at - period] else 0
        if run > best:
            best_start, best = at - run - period + 1, run
    return best_start, best + period


def _repeated_sentence(text: str) -> str | None:
    """Return a sentence or line that occurs several times anywhere; numbers and bullets before it do not count."""
    sentences = (sentence.lstrip("0123456789.)-*# ") for sentence in split_sentences(text))
    for sentence, count in Counter(" ".join(split_words(sentence)) for sentence in sentences).most_common(3):
        if count >= PHRASE_REPEATS and sentence.count(" ") >= SENTENCE_WORDS - 1:
            return f'"{sentence}" {count} times'
    return None


def _few_trigrams(words: Sequence[str]) -> str | None:
    """Return the most common trigram of a long text that mostly repeats itself, else None."""
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    if len(words) < LONG_TEXT or len(trigrams) >= MIN_DISTINCT * trigrams.total():
        return None
    (phrase, count), *_ = trigrams.most_common(1)
    return f'"{" ".join(phrase)}" {count} times'


class PromptEcho:
    """Finds words of the prompts in texts.

    A text is an echo if it shares 8 consecutive words with a prompt, or contains a whole prompt sentence of at least
    4 words. Values of placeholders, such as the class name, are not part of the prompt.
    """

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._templates = [text for prompt in prompts for text in (*prompt.turns, prompt.system) if text]

    @cached_property
    def _runs(self) -> set[tuple[str, ...]]:
        pieces = (split_words(piece) for text in self._templates for piece in _between_placeholders(text))
        return {tuple(piece[at : at + ECHO_WORDS]) for piece in pieces for at in range(len(piece) - ECHO_WORDS + 1)}

    @cached_property
    def _sentences(self) -> list[str]:
        sentences = (sentence for text in self._templates for sentence in split_sentences(text))
        whole = (split_words(sentence) for sentence in sentences if len(_between_placeholders(sentence)) == 1)
        return [f" {' '.join(words)} " for words in whole if len(words) >= ECHO_SENTENCE_WORDS]

    def find(self, words: Sequence[str]) -> str | None:
        """Return the words of a prompt that a text of these words contains, None if it contains none."""
        for at in range(len(words) - ECHO_WORDS + 1):
            if tuple(words[at : at + ECHO_WORDS]) in self._runs:
                return " ".join(words[at : at + ECHO_WORDS])
        joined = f" {' '.join(words)} "
        return next((sentence.strip() for sentence in self._sentences if sentence in joined), None)


def _between_placeholders(template: str) -> list[str]:
    """Return the parts of a prompt that are the same for every image.

    >>> _between_placeholders("A {class}, seen from above.")
    ['A ', ', seen from above.']
    """
    pieces, end = [], 0
    for match in FIELD.finditer(template):
        if match[1]:
            pieces.append(template[end : match.start()])
            end = match.end()
    return [*pieces, template[end:]]


def find_repeated(context: CheckContext) -> Iterator[Flag]:
    """Flag texts that several distinct images share, up to case and punctuation."""
    images: defaultdict[str, set[str]] = defaultdict(set)
    for text, normalized in zip(context.texts, context.normalized, strict=True):
        images[normalized].add(text.image_id)
    for at, normalized in enumerate(context.normalized):
        if normalized and (count := len(images[normalized])) >= MIN_SHARED_IMAGES:
            yield Flag(at, f"on {count:,} images", count)


def find_openings(context: CheckContext) -> Iterator[Flag]:
    """Flag texts that begin like at least half of the texts of their prompt."""
    # Only the first words are split: `split` with a limit leaves the rest in one piece, which is dropped.
    firsts = [tuple(text.split(" ", OPENING_WORDS.stop)[: OPENING_WORDS.stop - 1]) for text in context.normalized]
    by_prompt: defaultdict[str | None, list[tuple[str, ...]]] = defaultdict(list)
    for text, first in zip(context.texts, firsts, strict=True):
        by_prompt[text.prompt].append(first)
    common = {prompt: common_opening(of_prompt) for prompt, of_prompt in by_prompt.items()}
    for at, (text, first) in enumerate(zip(context.texts, firsts, strict=True)):
        opening = common[text.prompt]
        if opening and first[: len(opening)] == opening:
            yield Flag(at, " ".join(opening))


def common_opening(firsts: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the longest opening, of at least three words, that half of the texts share, given their first words."""
    best = None
    for size in OPENING_WORDS:
        counts = Counter(first[:size] for first in firsts if len(first) >= size)
        opening, count = next(iter(counts.most_common(1)), ((), 0))
        if count >= max(OPENING_TEXTS, OPENING_SHARE * len(firsts)):
            best = opening
    return best
