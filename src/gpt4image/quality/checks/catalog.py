"""The catalogue of checks: what each finds, its severity, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt4image.core import console
from gpt4image.embed.runner import count_all_tokens
from gpt4image.llm.base import CUT_OFF, is_unknown_end, plain_reason
from gpt4image.llm.thinking import find_labelled_thinking, find_thinking
from gpt4image.quality.check_record import FindingKind
from gpt4image.quality.checks.context import MIN_WORDS, Check, CheckContext, Flag
from gpt4image.quality.checks.language import find_other_language
from gpt4image.quality.checks.leakage import ClassNames
from gpt4image.quality.checks.refusals import find_refusal
from gpt4image.quality.checks.repetition import PromptEcho, find_loop, find_openings, find_repeated
from gpt4image.quality.checks.vectors import find_contradicting_texts, find_unusual_texts
from gpt4image.quality.texts import CheckedText

# Texts with these flags say nothing about their image, so checks of vectors skip them
UNUSABLE: frozenset[FindingKind] = frozenset({"empty", "refusal", "thinking", "loop", "language"})


def run_checks(context: CheckContext) -> dict[FindingKind, list[Flag]]:
    """Run all checks, with a progress line, and return the flags of each check that flags any text."""
    found: dict[FindingKind, list[Flag]] = {}
    with console.progress("Check texts", len(CHECKS)) as meter:
        for check in CHECKS:
            meter.note(check.kind)
            if flags := list(check.find(context)):
                found[check.kind] = flags
            if check.kind in UNUSABLE:
                context.unusable.update(flag.at for flag in flags)
            meter.advance()
        meter.note("")
    return found


def _find_empty(context: CheckContext) -> Iterator[Flag]:
    for at, normalized in enumerate(context.normalized):
        if normalized.count(" ") < MIN_WORDS - 1:
            yield Flag(at, f"only: {normalized}" if normalized else "no words")


def _find_refusals(context: CheckContext) -> Iterator[Flag]:
    for at, text in enumerate(context.texts):  # also in empty texts: the server may have withheld them
        if refusal := find_refusal(text.text, text.finish_reason):
            yield Flag(at, refusal)


def find_cut_off(finish_reason: str | None) -> str | None:
    """Return the finish reason if it says that the server stopped the text at its maximum length, else None."""
    return f"finish reason: {finish_reason}" if plain_reason(finish_reason) in CUT_OFF else None


def find_unknown_end(finish_reason: str | None) -> str | None:
    """Return the finish reason if no server is known to give it, else None."""
    return f"finish reason: {finish_reason}" if is_unknown_end(finish_reason) else None


def _find_languages(context: CheckContext) -> Iterator[Flag]:
    expected = context.language
    return context.flag(lambda text, words: find_other_language(text.text, words, expected) if expected else None)


def _find_prompt_echoes(context: CheckContext) -> Iterator[Flag]:
    echo = PromptEcho(context.prompts)
    return context.flag(lambda _, words: echo.find(words))


def _find_leakage(context: CheckContext) -> Iterator[Flag]:
    names = ClassNames(context.classes)

    def find(text: CheckedText, words: Sequence[str]) -> str | None:
        return None if text.label < 0 or text.class_in_prompt else names.find(words, text.label)

    return context.flag(find)


def _find_too_long(context: CheckContext) -> list[Flag]:
    if context.encoder is None:
        return []
    texts = [text.text for text in context.texts]
    distinct = list(dict.fromkeys(texts))
    counts = dict(zip(distinct, count_all_tokens(distinct, context.encoder).tolist(), strict=True))
    return flag_too_long([counts[text] for text in texts], context.encoder.max_tokens)


def flag_too_long(tokens: Sequence[int], max_tokens: int) -> list[Flag]:
    """Flag texts whose token count is above the encoder's maximum."""
    return [
        Flag(at, f"{count:,} tokens, of which {max_tokens:,} are read", count)
        for at, count in enumerate(tokens)
        if count > max_tokens
    ]


MISSING = Check(
    "missing",
    "info",
    "Images without a text",
    "These images train on their labels alone.",
    "Run the describe command again, with retry_failed (--retry-failed) for failed requests.",
    lambda _: [],  # found while the texts are collected: there is no text to check
)
CHECKS = (
    Check(
        "empty",
        "fix",
        "Empty or nearly empty texts",
        "Fewer than three words describe nothing, but still become a vector that images are aligned with.",
        "Retry or drop them.",
        _find_empty,
    ),
    Check(
        "refusal",
        "fix",
        "Refusals and apologies",
        "The model speaks of itself instead of the image, so unrelated images get similar texts.",
        "Retry them (gpt4image describe check --retry refusal), and drop those that are refused again. If there are "
        "many, try another prompt or model.",
        _find_refusals,
    ),
    Check(
        "thinking",
        "fix",
        "Thinking in the text",
        "The text contains the model's thinking about the task, in addition to the description or instead of it.",
        "Retry them: thinking before an answer is no longer stored.",
        lambda context: context.flag(lambda text, _: find_thinking(text.text) or find_labelled_thinking(text.text)),
    ),
    Check(
        "loop",
        "fix",
        "Loops",
        "The model repeats itself over and over, which drowns out the description.",
        "Retry them at a higher temperature, or drop them.",
        lambda context: context.flag(lambda text, words: find_loop(text.text, words)),
    ),
    Check(
        "cut-off",
        "review",
        "Cut-off texts",
        "The server stopped the text at the token limit, so its end is missing.",
        "Read a few. Keep them if the rest is good; else retry with a higher max_tokens (--max-tokens), or ask for "
        "fewer sentences.",
        lambda context: context.flag(lambda text, _: find_cut_off(text.finish_reason)),
    ),
    Check(
        "unknown-end",
        "info",
        "Unknown finish reasons",
        "The server stopped the text for a reason that is not in the protocol, so it may be incomplete.",
        "Read a few. If they are incomplete, retry them.",
        lambda context: context.flag(lambda text, _: find_unknown_end(text.finish_reason)),
    ),
    Check(
        "language",
        "fix",
        "Texts in another language",
        "Most text encoders read one language well, and place the same content in another language far away.",
        "Retry them, and name the language in the prompt.",
        _find_languages,
    ),
    Check(
        "prompt-echo",
        "fix",
        "Echoes of the prompt",
        "The text repeats the question, so texts of different images are more alike than the images are.",
        "Retry them or drop them.",
        _find_prompt_echoes,
    ),
    Check(
        "repeated",
        "review",
        "Texts shared by several images",
        "Nothing in them tells these images apart; alignment treats the images as one.",
        "Look at the images. If they differ, retry the texts with a prompt that asks for details.",
        find_repeated,
    ),
    Check(
        "opening",
        "info",
        "A common opening",
        "Most texts begin with the same words, which use up tokens and say nothing about the image. They do no other "
        "harm.",
        "Ask for texts that begin with the main object.",
        find_openings,
    ),
    Check(
        "too-long",
        "review",
        "Longer than the encoder reads",
        "The vector ignores everything after the encoder's last token.",
        "Read whole texts by setting long_text to pool (--long-text pool), choose an encoder that reads more, or ask "
        "for fewer sentences.",
        _find_too_long,
    ),
    Check(
        "leakage",
        "info",
        "Class names in texts",
        "A model that names the class because it sees it shows knowledge. If it names the class of every image, the "
        "text adds nothing to the label.",
        "No action is needed. The comparison with the image features also measures the texts without class names.",
        _find_leakage,
    ),
    Check(
        "contradiction",
        "review",
        "Likely label errors",
        "A classifier that has seen neither this text nor its copies is confident of another class and nearly rules "
        "out the label. The label or the text is wrong, or the image belongs to both classes.",
        "Compare image, label and text. Drop a wrong text; correct a wrong label.",
        find_contradicting_texts,
    ),
    Check(
        "outlier",
        "review",
        "Unusual texts",
        "Even their nearest texts are further away than usual. Most of them are not about an image of this set.",
        "Read them, and retry or drop those that do not describe their image.",
        find_unusual_texts,
    ),
)
