"""Excerpts of texts around the words that a check found."""

from __future__ import annotations

import time

import pytest

from gpt4image.report.descriptions.excerpt import EXCERPT, find_span, make_excerpt

LONG = "one two three four five six seven eight nine ten " * 40


@pytest.mark.parametrize(
    ("text", "found", "match"),
    [
        ("A Cat on a mat.", "cat", "Cat"),
        ("I\u2019m sorry, but\nno.", "I'm sorry, but no", "I\u2019m sorry, but\nno"),
        ("A category of cats.", "cat", "cat"),
        ("A category, and a cat.", "cat", "cat"),
        ("It is a red car, a red car, A red car!", "a red car", "a red car, a red car, A red car"),
        ("A dog goes aaaaaaargh.", "a", "aaaaaaa"),
        ("一只猫在垫子上", "猫 在", "猫在"),
        ("What is (it)?", "(it)", "it"),
        ("A dog.", "cat", ""),
        ("A dog.", " !", ""),
        ("", "cat", ""),
    ],
)
def test_match_is_found_and_kept_in_place(text, found, match):
    excerpt = make_excerpt(text, found)
    assert excerpt.match == match and excerpt.whole
    assert excerpt.before + excerpt.match + excerpt.after == text


def test_whole_words_come_before_parts_of_words():
    assert find_span("A category, and a cat.", "cat") == (18, 21)


def test_long_text_is_cut_around_the_match():
    text = LONG + "HERE" + LONG
    excerpt = make_excerpt(text, "here")
    assert excerpt.match == "HERE" and not excerpt.whole
    assert excerpt.before.startswith("…") and excerpt.after.endswith("…")
    assert len(excerpt.before + excerpt.match + excerpt.after) <= EXCERPT + 2
    assert text.split(" ").count(excerpt.before[1:].split(" ")[0])  # begins with a word


def test_start_or_end_is_shown_without_a_match():
    assert make_excerpt(LONG).before == "" and make_excerpt(LONG).after.endswith("…")
    end = make_excerpt(LONG + "the end", end=True)
    assert end.before.endswith("the end") and end.before.startswith("…") and end.after == ""


def test_match_longer_than_the_excerpt_is_cut():
    excerpt = make_excerpt("x" * 5000, "x" * 5000)
    assert len(excerpt.match) == EXCERPT and excerpt.after == "…"


def test_extreme_lengths_are_quick():
    started = time.process_time()
    make_excerpt("w" * 100_000, "w" * 100_000 + "x")
    make_excerpt("'\"" * 50_000, "'\"" * 50_000)
    assert time.process_time() - started < 2
