from __future__ import annotations

import math

import pytest

from gpt4image.core.errors import StoreError
from gpt4image.report import verdict
from support.report_sample import make_comparison, make_difference


def with_interval(mean, low, high, seeds=5, covers="seeds and images"):
    changes = {"mean": mean, "low": low, "high": high, "covers": covers}
    return make_comparison(difference=make_difference((mean,) * seeds).model_copy(update=changes))


def test_interval_above_zero_is_better():
    found = verdict(with_interval(0.014, 0.003, 0.025))
    assert found.kind == "better"
    assert found.headline == (
        "Training with descriptions made the model better: +1.4 points (95% interval +0.3 to +2.5)"
    )
    assert found.advice == found.command == ""


def test_interval_below_zero_is_worse():
    found = verdict(with_interval(-0.014, -0.025, -0.003))
    assert found.kind == "worse"
    assert found.claim == "Training with descriptions made the model worse"
    assert found.measure.replace("\N{MINUS SIGN}", "-") == "-1.4 points (95% interval -2.5 to -0.3)"


@pytest.mark.parametrize(("low", "high"), [(-0.005, 0.017), (0.0, 0.017), (-0.017, 0.0)])
def test_interval_with_zero_claims_nothing(low, high):
    found = verdict(with_interval((low + high) / 2, low, high))
    assert found.kind == "undecided"
    assert found.claim == "These runs do not show that the descriptions help or hurt"
    assert "includes zero" in found.measure
    assert "More seeds and more test images" in found.advice
    assert found.command == "gpt4image compare DATA ... --seeds 10"


def test_arms_that_answer_alike_tell_nothing():
    found = verdict(with_interval(0.0, 0.0, 0.0))
    assert found.kind == "undecided"
    assert "nothing can be told" in found.advice


def test_undecided_shows_mean_and_interval():
    found = verdict(with_interval(0.006, -0.005, 0.017))
    assert found.measure == "+0.6 points, and the 95% interval (\N{MINUS SIGN}0.5 to +1.7) includes zero"


def test_how_much_more_is_needed():
    assert "roughly 4 times as many" in verdict(with_interval(0.006, -0.006 + 1e-9, 0.018 - 1e-9)).advice
    assert "than is practical" in verdict(with_interval(0.0001, -0.0199, 0.0201)).advice
    assert "than is practical" in verdict(with_interval(0.0, -0.02, 0.02)).advice


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.3])
def test_one_seed_never_claims(mean):
    found = verdict(with_interval(mean, mean - 0.01, mean + 0.01, seeds=1, covers="images only"))
    assert found.kind == "one seed"
    assert found.claim == "One seed cannot tell luck from effect"
    assert "better" not in found.text and "worse" not in found.text
    assert "whatever the number is" in found.covers and "does not cover which seed" in found.covers
    assert found.command == "gpt4image compare DATA ... --seeds 5"


@pytest.mark.parametrize(("seeds", "covers"), [(1, "seeds and images"), (3, "images only")])
def test_either_sign_of_one_seed_is_enough(seeds, covers):
    assert verdict(with_interval(0.1, 0.09, 0.11, seeds, covers)).kind == "one seed"


def test_covers_is_said():
    covers = verdict(with_interval(0.014, 0.003, 0.025)).covers
    assert "seeds (5 pairs of runs here)" in covers and "test images" in covers and "nothing about other data" in covers


def test_both_means_are_given():
    comparison = make_comparison()
    means = [
        100 * sum(run.test_accuracy for run in arm.runs) / len(arm.runs)  # by hand
        for arm in comparison.arms
    ]
    found = verdict(comparison)
    expected = f"Mean test accuracy: Without descriptions {means[0]:.1f}%, With descriptions {means[1]:.1f}%."
    assert found.accuracies == expected
    assert found.text.splitlines()[1] == expected


def test_means_use_the_paired_seeds_only():
    comparison = make_comparison()
    arm = comparison.arms[0]
    stray = arm.runs[0].model_copy(update={"seed": 99, "test_accuracy": 0.0})
    arms = [arm.model_copy(update={"runs": [*arm.runs, stray]}), *comparison.arms[1:]]
    assert verdict(comparison.model_copy(update={"arms": arms})).accuracies == verdict(comparison).accuracies


def test_small_bounds_are_not_shown_as_zero():
    assert "+0.04 to +2.00" in verdict(with_interval(0.0101, 0.0004, 0.02)).measure


def test_titles_cannot_act():
    comparison = make_comparison()
    arms = [arm.model_copy(update={"title": f"\x1b[2J\u202e{arm.title}"}) for arm in comparison.arms]
    text = verdict(comparison.model_copy(update={"arms": arms})).text
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J" in text


def test_unknown_arm_and_missing_seed_and_nan_are_named():
    comparison = make_comparison()
    unknown = comparison.difference.model_copy(update={"arm": "shuffled"})
    with pytest.raises(StoreError, match="'shuffled'"):
        verdict(comparison.model_copy(update={"difference": unknown}))
    missing = comparison.difference.model_copy(update={"seeds": [0, 7], "per_seed": [0.1, 0.1]})
    with pytest.raises(StoreError, match=r"\[7\]"):
        verdict(comparison.model_copy(update={"difference": missing}))
    with pytest.raises(StoreError, match="not a finite number"):
        verdict(with_interval(math.nan, 0.1, 0.2))
