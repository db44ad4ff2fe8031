"""Claims, intervals and advice of a verdict."""

from __future__ import annotations

import math

import pytest

from gpt4image.compare.records import CommandRecord, Needed
from gpt4image.core.errors import StoreError
from gpt4image.report import verdict
from support.report_sample import make_comparison, make_difference

TYPED = CommandRecord(
    program="./run gpt4image", arguments=["compare", "my photos", "--seeds", "3", "--lr", "1e-4"], work="w"
)


def with_interval(mean, low, high, seeds=5, covers="seeds and images"):
    changes = {"mean": mean, "low": low, "high": high, "covers": covers}
    return make_comparison(difference=make_difference((mean,) * seeds).model_copy(update=changes), command=TYPED)


def test_interval_above_zero_is_better():
    found = verdict(with_interval(0.014, 0.003, 0.025))
    assert found.kind == "better"
    assert found.headline == (
        "Training with descriptions made the model better: +1.4 points (95% interval +0.3 to +2.5)"
    )
    assert found.advice == "Use the model that was trained with descriptions."
    assert found.command == "./run gpt4image export examples/clipart12 --run w/runs/described-0 --out model --work w"


def test_interval_below_zero_is_worse():
    found = verdict(with_interval(-0.014, -0.025, -0.003))
    assert found.kind == "worse"
    assert found.claim == "Training with descriptions made the model worse"
    assert found.measure.replace("\N{MINUS SIGN}", "-") == "-1.4 points (95% interval -2.5 to -0.3)"
    assert "--run w/runs/baseline-0" in found.command


@pytest.mark.parametrize(("low", "high"), [(-0.005, 0.017), (0.0, 0.017), (-0.017, 0.0)])
def test_interval_including_zero_claims_nothing(low, high):
    found = verdict(with_interval((low + high) / 2, low, high))
    assert found.kind == "undecided"
    assert found.claim == "These runs do not show that the descriptions help or hurt"
    assert "includes zero" in found.measure
    assert "To learn how many, compare again" in found.advice  # a record of version 0.1 does not say how many
    assert found.command == ""


def test_identical_arms_are_undecided():
    found = verdict(with_interval(0.0, 0.0, 0.0))
    assert found.kind == "undecided"
    assert "Both arms were right on the same test images" in found.advice and found.command == ""


def test_undecided_shows_mean_and_interval():
    found = verdict(with_interval(0.006, -0.005, 0.017))
    assert found.measure == "+0.6 points, and the 95% interval (\N{MINUS SIGN}0.5 to +1.7) includes zero"


@pytest.mark.parametrize(
    ("seeds", "times_images", "advice", "command"),
    [
        (19, 1, "19 seeds in all would show it", "./run gpt4image compare 'my photos' --lr 1e-4 --seeds 19"),
        (8, 4, "about 4 times as many test images, and 8 seeds", ""),
        (None, 1, "is not practical. Take the two as equal to within 1.7 points", ""),
    ],
)
def test_advice_and_command_of_an_undecided_comparison_agree(seeds, times_images, advice, command):
    comparison = with_interval(0.006, -0.005, 0.017)
    needed = comparison.difference.model_copy(update={"needed": Needed(seeds=seeds, times_images=times_images)})
    found = verdict(comparison.model_copy(update={"difference": needed}))
    assert advice in found.advice
    assert found.command == command


def test_running_comparison_says_how_far_it_is_and_advises_to_wait():
    found = verdict(with_interval(0.014, 0.003, 0.025, seeds=2).model_copy(update={"planned_seeds": 5}))
    assert found.claim == "So far, with 2 of 5 seeds: training with descriptions made the model better"
    assert found.advice == "Wait for the other 3 seeds before you conclude anything." and found.command == ""


def test_python_calls_get_advice_without_a_command():
    comparison = with_interval(0.014, 0.003, 0.025).model_copy(update={"command": None})
    assert verdict(comparison).advice and verdict(comparison).command == ""


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.3])
def test_one_seed_claims_nothing(mean):
    found = verdict(with_interval(mean, mean - 0.01, mean + 0.01, seeds=1, covers="images only"))
    assert found.kind == "one seed"
    assert found.claim == "One seed cannot tell an effect from chance"
    assert "better" not in found.text and "worse" not in found.text
    assert "however large the difference is" in found.covers
    assert "does not account for the random seed" in found.covers
    assert found.advice == "To find out, train both arms with 5 seeds."
    assert found.command == "./run gpt4image compare 'my photos' --lr 1e-4 --seeds 5"


@pytest.mark.parametrize(("seeds", "covers"), [(1, "seeds and images"), (3, "images only")])
def test_images_only_or_a_single_seed_is_one_seed(seeds, covers):
    assert verdict(with_interval(0.1, 0.09, 0.11, seeds, covers)).kind == "one seed"


def test_settled_verdict_says_what_the_interval_covers():
    covers = verdict(with_interval(0.014, 0.003, 0.025)).covers
    assert "seeds (5 pairs of runs)" in covers and "test images" in covers and "nothing about other data" in covers


def test_both_mean_accuracies_are_stated():
    comparison = make_comparison()
    means = [
        100 * sum(run.test_accuracy for run in arm.runs) / len(arm.runs)  # by hand
        for arm in comparison.arms
    ]
    found = verdict(comparison)
    expected = f"Mean test accuracy: Without descriptions {means[0]:.2f}%, With descriptions {means[1]:.2f}%."
    assert found.accuracies == expected
    assert found.text.splitlines()[1] == expected


@pytest.mark.parametrize(
    ("reference", "arm", "expected"),
    [
        (0.5247, 0.5373, "Without descriptions 52.47%, With descriptions 53.73%"),  # rounded, they differ by 1.2
        (0.5240, 0.5366, "Without descriptions 52.4%, With descriptions 53.7%"),
    ],
)
def test_mean_accuracies_agree_with_the_difference(reference, arm, expected):
    comparison = with_interval(arm - reference, 0.003, 0.025)
    arms = [
        each.model_copy(update={"runs": [run.model_copy(update={"test_accuracy": value}) for run in each.runs]})
        for each, value in zip(comparison.arms, (reference, arm), strict=True)
    ]
    found = verdict(comparison.model_copy(update={"arms": arms}))
    assert "+1.3 points" in found.measure
    assert expected in found.accuracies


def test_means_use_the_paired_seeds_only():
    comparison = make_comparison()
    arm = comparison.arms[0]
    stray = arm.runs[0].model_copy(update={"seed": 99, "test_accuracy": 0.0})
    arms = [arm.model_copy(update={"runs": [*arm.runs, stray]}), *comparison.arms[1:]]
    assert verdict(comparison.model_copy(update={"arms": arms})).accuracies == verdict(comparison).accuracies


def test_small_bounds_are_not_shown_as_zero():
    assert "+0.04 to +2.00" in verdict(with_interval(0.0101, 0.0004, 0.02)).measure


def test_titles_are_escaped():
    comparison = make_comparison()
    arms = [arm.model_copy(update={"title": f"\x1b[2J\u202e{arm.title}"}) for arm in comparison.arms]
    text = verdict(comparison.model_copy(update={"arms": arms})).text
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J" in text


def test_unknown_arm_missing_seed_and_nan_are_errors():
    comparison = make_comparison()
    unknown = comparison.difference.model_copy(update={"arm": "shuffled"})
    with pytest.raises(StoreError, match="'shuffled'"):
        verdict(comparison.model_copy(update={"difference": unknown}))
    missing = comparison.difference.model_copy(update={"seeds": [0, 7], "per_seed": [0.1, 0.1]})
    with pytest.raises(StoreError, match=r"\[7\]"):
        verdict(comparison.model_copy(update={"difference": missing}))
    with pytest.raises(StoreError, match="not a finite number"):
        verdict(with_interval(math.nan, 0.1, 0.2))
