"""All checks together: each finds its kind of text and nothing else."""

from typing import get_args

import pytest

from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.quality.check_record import FindingKind
from gpt4image.quality.checks.catalog import CHECKS, MISSING, find_cut_off, find_unknown_end, flag_too_long, run_checks
from gpt4image.quality.checks.context import CheckContext
from gpt4image.quality.texts import CheckedText
from gpt4image.quality.words import split_words
from support.example_texts import OTHER_LANGUAGES, read_column


def labelled(label, text, class_in_prompt=None):
    return CheckedText("0" * 32, text, "p.png", label, class_in_prompt=class_in_prompt)


def flagged(texts, *settings):
    """Position and kind of all flags, by position."""
    found = run_checks(CheckContext(texts, *settings))
    return sorted((flag.at, kind) for kind, flags in found.items() for flag in flags)


@pytest.mark.parametrize("text", ["", "   ", "!!! ???", "A cat.", "\u200b\n"])
def test_fewer_than_three_words_are_empty(text):
    assert flagged([labelled(-1, text)], ()) == [(0, "empty")]


@pytest.mark.parametrize("text", ["A brown cat.", "一只狗", "Ein Hund bellt"])
def test_three_words_are_enough(text):
    assert flagged([labelled(-1, text)], ()) == []


def test_every_kind_has_one_check_in_the_order_of_the_report():
    assert [check.kind for check in (MISSING, *CHECKS)] == list(get_args(FindingKind))


def test_cut_off_by_the_server():
    assert find_cut_off("length")
    assert find_cut_off("MAX_TOKENS") and find_cut_off("FinishReason.MAX_TOKENS")
    assert not any(find_cut_off(reason) for reason in ("stop", None, "content_filter"))


def test_ends_that_servers_are_known_to_give_are_no_finding_in_any_spelling():
    known = (
        "stop",
        "FinishReason.STOP",
        "end-turn",
        None,
        "MAX_TOKENS",
        "content_filter: SAFETY",
        "guardrail_intervened",
    )
    assert not any(map(find_unknown_end, known))
    assert find_unknown_end("tool_calls") and find_unknown_end("mystery")


def test_every_check_of_single_texts_finds_its_kind():
    texts = [
        labelled(0, "A brown dog lies on green grass in the sun."),
        labelled(0, "I'm sorry, but I can't help with that."),
        labelled(0, "A dog"),
        CheckedText("1" * 32, "A house with a red", finish_reason="length"),
        labelled(0, OTHER_LANGUAGES["de"]),
        labelled(1, "A cat sits there.", class_in_prompt=True),
        labelled(1, "A cat sits there.", class_in_prompt=False),
        labelled(0, "spam and eggs spam and eggs spam and eggs"),
        labelled(0, "Describe the image in detail. A bird on a twig."),
        labelled(0, "<think>Is it a cow?</think> A brown horse stands on a meadow."),
        CheckedText("2" * 32, "A tall white tower stands near", finish_reason="paused"),
    ]
    assert flagged(texts, ("dog", "cat"), tuple(known_prompts().values()), "en") == [
        (0, "leakage"),
        (1, "refusal"),
        (2, "empty"),
        (3, "cut-off"),
        (4, "language"),
        (6, "leakage"),
        (7, "loop"),
        (8, "prompt-echo"),
        (9, "thinking"),
        (10, "unknown-end"),
    ]


def test_thinking_under_a_heading_is_found():
    thoughts = (
        "**Thinking:** A cow?\n\n**Answer:** A brown horse stands there.",
        "<details><summary>Reasoning</summary>A cow?</details>A brown horse.",
    )
    plain = "Thinking of lunch: a poster of a brown horse on a meadow."
    assert flagged([labelled(0, text) for text in (*thoughts, plain)], ("otter",)) == [(0, "thinking"), (1, "thinking")]


def test_language_is_only_checked_when_expected():
    assert flagged([labelled(0, OTHER_LANGUAGES["de"])], ("dog",)) == []


def test_texts_longer_than_the_encoder_reads():
    flags = flag_too_long([10, 257, 256, 400], 256)
    assert [(flag.at, flag.weight) for flag in flags] == [(1, 257), (3, 400)]


def test_clean_texts_are_hardly_flagged(english):
    """Clean texts of the example: only class names are found, and those are there."""
    labels = read_column("label")
    classes = ("animals", "buildings", "clothing", "electronics", "food", "music")
    classes += ("office", "people", "plants", "sports", "tools", "transportation")
    texts = [CheckedText(f"{n:032x}", text, "", labels[n]) for n, text in enumerate(english)]
    flags = run_checks(CheckContext(texts, classes, (), "en"))
    assert set(flags) == {"leakage"}
    assert 0.03 < len(flags["leakage"]) / len(texts) < 0.06
    assert all(flag.detail.split()[0] in split_words(english[flag.at]) for flag in flags["leakage"])
