"""The common form of all checks: a name, a severity, a remedy, and a function over all texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gpt4image.core.files import digest
from gpt4image.descriptions.prompts import Prompt
from gpt4image.embed import TextEncoder
from gpt4image.probing.folds import link
from gpt4image.quality.check_record import FindingKind, Severity
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import split_words

MIN_WORDS = 3  # shorter texts describe nothing; they are "empty" and get no other flag except "refusal"


class Flag(NamedTuple):
    """One text that a check flags.

    Attributes:
        at: position of the text.
        detail: what exactly was found in it.
        weight: how clear the case is; comparable only within a check.
    """

    at: int
    detail: str
    weight: float = 0.0


def text_groups(texts: Sequence[CheckedText]) -> np.ndarray:
    """Return group numbers, int64 [N], by which texts of one image and texts with the same words share a fold."""
    return link([text.image_id for text in texts], [digest(" ".join(split_words(text.text))) for text in texts])


@dataclass
class CheckContext:
    """The texts under check, and the data that checks compare them with.

    Attributes:
        texts: N texts.
        classes: class names; a label is a position in them.
        prompts: prompts that texts should not repeat.
        language: expected language, ISO 639-1; None skips that check.
        encoder: the text encoder; None skips all checks of vectors.
        vectors: unit vectors of the texts, float32 [N, D], zero for blank texts.
        seed: seed of folds and samples.
        unusable: positions of texts that an earlier check found to say nothing about their image, so that checks of
            vectors skip them.
    """

    texts: Sequence[CheckedText]
    classes: Sequence[str]
    prompts: Sequence[Prompt] = ()
    language: str | None = None
    encoder: TextEncoder | None = None
    vectors: np.ndarray | None = None
    seed: int = 0
    unusable: set[int] = field(default_factory=set)

    @cached_property
    def normalized(self) -> list[str]:
        """Each text's words in lower case, joined by spaces: equal for texts that differ in case and punctuation."""
        return [" ".join(split_words(text.text)) for text in self.texts]

    def non_empty(self) -> Iterator[tuple[int, CheckedText, list[str]]]:
        """Yield position, text and words of each text with enough words to describe anything."""
        for at, (text, normalized) in enumerate(zip(self.texts, self.normalized, strict=True)):
            words = normalized.split(" ")
            if len(words) >= MIN_WORDS:
                yield at, text, words

    @cached_property
    def usable(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions [n], vectors [n, D] and groups [n] of texts with a vector that are not `unusable`."""
        if self.vectors is None:
            return np.empty(0, np.int64), np.empty((0, 1), np.float32), np.empty(0, np.int64)
        there = np.flatnonzero(self.vectors.any(axis=1)).tolist()
        rows = np.asarray([at for at in there if at not in self.unusable], dtype=np.int64)
        groups = text_groups([self.texts[at] for at in rows]) if len(rows) else rows
        return rows, self.vectors[rows], groups

    def flag(self, rule: Callable[[CheckedText, list[str]], str | None]) -> Iterator[Flag]:
        """Flag the non-empty texts for which a rule, given text and words, returns a detail."""
        for at, text, words in self.non_empty():
            if detail := rule(text, words):
                yield Flag(at, detail)


@dataclass(frozen=True)
class Check:
    """One kind of problem with descriptions.

    Attributes:
        kind: its name, as `--drop` and `--retry` take it.
        severity: what the user has to do.
        title: the problem in a few words.
        explanation: what it means.
        advice: the remedy.
        find: flags texts, in the order of their positions; each text at most once.
    """

    kind: FindingKind
    severity: Severity
    title: str
    explanation: str
    advice: str
    find: Callable[[CheckContext], Iterable[Flag]]
