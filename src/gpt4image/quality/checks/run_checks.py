"""All that can be told of the texts by themselves, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpt4image.core import console
from gpt4image.descriptions.prompts import Prompt
from gpt4image.quality.check_record import FindingKind
from gpt4image.quality.checks.language import find_other_language
from gpt4image.quality.checks.leakage import ClassNames
from gpt4image.quality.checks.loops import find_loop
from gpt4image.quality.checks.refusals import find_refusal
from gpt4image.quality.checks.simple import PromptEcho, Repeats, find_cut_off, find_empty
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import words

STEP = 100


class Flag(NamedTuple):
    """One thing found in one text.

    Attributes:
        kind: the kind of finding.
        at: position of the text among those checked.
        detail: what exactly was found.
        weight: how clear it is, higher for clearer; compared within a kind.
    """

    kind: FindingKind
    at: int
    detail: str
    weight: float = 0.0


@dataclass(frozen=True)
class Against:
    """What texts are held against.

    Attributes:
        classes: class names.
        strategies: prompts that they must not repeat.
        language: language they should be in, ISO 639-1; None does not look at it.
    """

    classes: tuple[str, ...]
    strategies: tuple[Prompt, ...] = ()
    language: str | None = None


def check_texts(texts: Sequence[CheckedText], against: Against) -> list[Flag]:
    """Look at every text, show progress, and say what was found, in the order of the texts.

    Args:
        texts: the texts.
        against: what they are held against.
    """
    echo, names, repeats = PromptEcho(against.strategies), ClassNames(against.classes), Repeats()
    flags: list[Flag] = []
    with console.progress("Check texts", len(texts)) as meter:
        for at, text in enumerate(texts):
            found = words(text.text)
            repeats.add(found, text.image_id, text.prompt)
            flags += (Flag(kind, at, detail) for kind, detail in check_text(text, found, against, echo, names))
            if at % STEP == STEP - 1 or at == len(texts) - 1:
                meter.set(at + 1)
    flags += (Flag("repeated", at, f"on {images} images", images) for at, images in repeats.shared())
    flags += (Flag("opening", at, opening) for at, opening in repeats.opened_alike())
    return flags


def check_text(
    text: CheckedText, found: Sequence[str], against: Against, echo: PromptEcho, names: ClassNames
) -> Iterator[tuple[FindingKind, str]]:
    """What the rules find in one text of these words. One that is empty is nothing else."""
    if refusal := find_refusal(text.text, text.finish_reason):
        yield "refusal", refusal
    if empty := find_empty(found):
        yield "empty", empty
        return
    if loop := find_loop(text.text, found):
        yield "loop", loop
    if cut_off := find_cut_off(text.finish_reason):
        yield "cut-off", cut_off
    if against.language and (other := find_other_language(text.text, found, against.language)):
        yield "language", other
    if repeated := echo.find(found):
        yield "prompt-echo", repeated
    if text.label >= 0 and not text.told and (name := names.find(found, text.label)):
        yield "leakage", name


def flag_long(tokens: Sequence[int], longest: int) -> list[Flag]:
    """Texts that are longer than an encoder reads.

    Args:
        tokens: tokens of each text.
        longest: tokens that the encoder reads.
    """
    return [
        Flag("too-long", at, f"{count:,} tokens, of which {longest:,} are read", count)
        for at, count in enumerate(tokens)
        if count > longest
    ]
