"""Numbers, times and untrusted text: one form each. The docstrings hold further examples."""

import math

import pytest

from gpt4image.core.format import (
    MINUS,
    NOTHING,
    counted,
    decimal,
    duration,
    moment,
    money,
    percent,
    points,
    printable,
    shorten,
    signed_points,
    single_line,
)


@pytest.mark.parametrize("write", [decimal, percent, signed_points, money])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_number_that_does_not_exist_is_a_dash(write, value):
    assert write(value) == NOTHING


def test_negative_numbers_have_a_true_minus_sign_and_zero_has_none():
    assert decimal(-1.25, 2) == f"{MINUS}1.25"
    assert percent(-0.5) == f"{MINUS}50.0%"
    assert points([-0.014, 0.0]) == [f"{MINUS}1.4", "0.0"]
    assert decimal(-0.04) == "0.0"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min"), (3599.6, "1 h"), (7_260, "2 h 1 min"), (172_800, "2 d")],
)
def test_duration_shows_two_units_at_most(seconds, written):
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("dollars", "written"), [(0.05, "$0.050"), (0.0123, "$0.012"), (1e-12, "$0.000000000"), (12_345.678, "$12,345.68")]
)
def test_small_sums_keep_two_significant_digits(dollars, written):
    assert money(dollars) == written


def test_time_zone_is_converted_to_utc():
    assert moment("2025-06-03T16:05:09+02:00") == "2025-06-03 14:05 UTC"
    assert moment("2025-06-03T16:05:09") == "2025-06-03 16:05"


@pytest.mark.parametrize(
    ("noun", "plural"), [("class", "classes"), ("box", "boxes"), ("query", "queries"), ("key", "keys")]
)
def test_plurals(noun, plural):
    assert counted(2, noun) == f"2 {plural}"


@pytest.mark.parametrize("text", ["naïve café", "日本語 猫", "كلب", "क्षेत्र", "👩‍🔬 at work"])
def test_text_of_every_script_stays_visible(text):
    assert printable(text) == single_line(text) == text


def test_invisible_characters_are_escaped():
    assert printable("a\u200bb\u2066c\ufffe\x00") == "a\\u200bb\\u2066c\\ufffe\\x00"
    assert printable("a\nb\tc") == "a\\nb\\tc"
    assert single_line("a\nb\tc") == "a b c"


def test_shorten_counts_two_columns_for_wide_characters():
    assert shorten("猫猫猫", 6) == "猫猫猫"
    assert shorten("猫猫猫", 5) == "猫…"
