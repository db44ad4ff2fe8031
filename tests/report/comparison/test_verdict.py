"""Claims, intervals and advice of a verdict."""

from __future__ import annotations

import math
import re

import pytest

from gpt4image.compare.records import CommandRecord, Needed
from gpt4image.core.errors import StoreError
from gpt4image.report import control_arms, other_arms, verdict
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


def test_nothing_is_said_of_descriptions_where_none_took_part():
    better, unknown = (with_interval(0.014, low, 0.025).model_copy(update={"encoders": []}) for low in (0.003, -0.003))
    for comparison in (better, unknown):
        comparison.arms[1] = comparison.arms[1].model_copy(update={"title": "with a vision teacher"})
    found = verdict(better)
    assert found.claim == "Training with a vision teacher made the model better"
    assert found.advice == "Use the model that was trained with a vision teacher."
    assert verdict(unknown).claim == "These runs do not show that training with a vision teacher helps or hurts"


def with_controls(*intervals, difference=(0.05, 0.03, 0.07), margin=0.01):
    """A comparison of an arm with descriptions and its controls, given mean and interval of its difference to each."""
    comparison = with_interval(*difference)
    names = ("shuffled", "random-words")[: len(intervals)]
    controls = [
        comparison.difference.model_copy(update={"reference": name, "mean": mean, "low": low, "high": high})
        for name, (mean, low, high) in zip(names, intervals, strict=True)
    ]
    arms = [
        comparison.arms[1].model_copy(update={"name": name, "title": f"with {name}", "controls": "described"})
        for name in names
    ]
    others = [comparison.difference.model_copy(update={"arm": name}) for name in names]
    changes = {
        "controls": tuple(controls),
        "others": tuple(others),
        "arms": [*comparison.arms, *arms],
        "margin": margin,
    }
    return comparison.model_copy(update=changes)


def test_advised_export_opens_the_images_as_the_comparison_did():
    typed = TYPED.model_copy(update={"images": ("my photos", "--corrections", "c.csv", "--leaks", "drop")})
    compared = with_interval(0.014, 0.003, 0.025).model_copy(update={"command": typed})
    assert "export 'my photos' --corrections c.csv --leaks drop --run w/runs/described-0" in verdict(compared).command


def test_descriptions_get_the_credit_only_where_they_beat_every_control():
    untested = verdict(with_controls())
    assert untested.claim == "Training with descriptions made the model better"
    assert "compare again with controls (--controls)" in untested.controls and untested.controls in untested.text
    shown = verdict(with_controls((0.04, 0.02, 0.06), (0.03, 0.01, 0.05)))
    assert shown.claim == "The descriptions made the model better"
    assert "better than each of the 2 controls, by +3.0 points (+1.0 to +5.0) over the closest" in shown.controls
    assert "with random-words" in shown.controls
    single = verdict(with_controls((0.04, 0.02, 0.06)))
    assert re.search(r"better than the control, with [\w-]+, by \+4.0 points \(\+2.0 to \+6.0\)\.$", single.controls)
    matched = verdict(with_controls((0.04, 0.02, 0.06), (0.0, -0.02, 0.02)))
    assert matched.claim == "Training with descriptions made the model better"
    assert "is not shown: to the control with random-words the difference is 0.0 points" in matched.controls
    undecided = with_controls((0.04, 0.02, 0.06), (0.01, -0.02, 0.04))
    controls = [each.model_copy(update={"needed": Needed(seeds=9, times_images=1)}) for each in undecided.controls]
    explained = verdict(undecided.model_copy(update={"controls": tuple(controls)})).controls
    assert explained.endswith("If it is the true one, 9 seeds in all would show it in four comparisons of five.")


def test_controls_explain_nothing_where_there_is_no_effect():
    found = verdict(with_controls((0.04, 0.02, 0.06), difference=(0.01, -0.01, 0.03)))
    assert found.kind == "undecided" and found.controls == ""


def test_controls_are_listed_apart_from_other_arms():
    comparison = with_controls((0.04, 0.02, 0.06))
    assert other_arms(comparison) == []
    (line,) = control_arms(comparison)
    assert "with shuffled: " in line and "With descriptions: +4.0 points over this (+2.0 to +6.0)" in line


@pytest.mark.parametrize(("margin", "words"), [(0.01, "1 point"), (0.025, "2.5 points")])
def test_interval_within_the_margin_is_no_difference(margin, words):
    comparison = with_interval(0.001, -0.006, 0.008)
    tested = comparison.difference.model_copy(
        update={"equivalence": (-0.005, 0.007), "p_value": 0.7, "adjusted_p": 0.7}
    )
    found = verdict(comparison.model_copy(update={"difference": tested, "margin": margin}))
    assert found.kind == "equal"
    assert found.claim == f"Training with descriptions makes no difference of more than {words}"
    assert found.measure == "+0.1 points (90% interval \N{MINUS SIGN}0.5 to +0.7)"
    assert "labels alone" in found.advice and "--run w/runs/baseline-0" in found.command
    assert any(f"rule out a difference of {words} or more" in rule for rule in found.rules)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"mean_average_precision_50": 0.004, "balanced_accuracy": None}, "to find objects (mAP at 0.5 below 1%)"),
        ({"balanced_accuracy": 0.0}, "their balanced accuracy is that of guessing"),
    ],
)
def test_equal_models_that_have_hardly_learned_are_not_advised(scores, said):
    comparison = with_interval(0.001, -0.004, 0.005)
    arms = [
        arm.model_copy(update={"runs": [run.model_copy(update=scores) for run in arm.runs]}) for arm in comparison.arms
    ]
    found = verdict(comparison.model_copy(update={"arms": arms}))
    assert found.kind == "equal" and said in found.advice and "Train for more epochs" in found.advice
    assert not found.command


def test_difference_that_several_arms_explain_by_chance_is_not_claimed():
    comparison = with_interval(0.02, 0.001, 0.039)
    tested = {"p_value": 0.04, "adjusted_p": 0.12, "equivalence": (0.004, 0.036)}
    difference = comparison.difference.model_copy(update=tested)
    others = tuple(difference.model_copy(update={"arm": "described"}) for _ in range(2))
    found = verdict(comparison.model_copy(update={"difference": difference, "others": others}))
    assert found.kind == "undecided"
    assert "too little to tell from chance among 3 arms (p = 0.12)" in found.measure
    assert "corrected for 3 arms by Holm's method" in found.rules[0]


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


def test_arms_that_are_right_on_all_images_call_for_harder_ones():
    comparison = with_interval(0.0, 0.0, 0.0)
    right = [
        arm.model_copy(update={"runs": [run.model_copy(update={"test_accuracy": 1.0}) for run in arm.runs]})
        for arm in comparison.arms
    ]
    advice = verdict(comparison.model_copy(update={"arms": right})).advice
    assert "right on all test images" in advice and "epochs" not in advice


def test_undecided_shows_mean_and_interval():
    found = verdict(with_interval(0.006, -0.005, 0.017))
    assert found.measure == "+0.6 points, and the 95% interval (\N{MINUS SIGN}0.5 to +1.7) includes zero"


@pytest.mark.parametrize(
    ("seeds", "times_images", "advice", "command"),
    [
        (19, 1, "19 seeds in all would show it", "./run gpt4image compare 'my photos' --lr 1e-4 --seeds 19"),
        (8, 4, "about 4 times as many test images, and 8 seeds", ""),
        (None, 1, "is not practical. Treat the two as equal to within 1.7 points", ""),
    ],
)
def test_advice_and_command_of_an_undecided_comparison_agree(seeds, times_images, advice, command):
    comparison = with_interval(0.006, -0.005, 0.017)
    needed = comparison.difference.model_copy(update={"needed": Needed(seeds=seeds, times_images=times_images)})
    found = verdict(comparison.model_copy(update={"difference": needed}))
    assert advice in found.advice
    assert found.command == command


@pytest.mark.parametrize(
    ("times", "advice"), [(1, "19 seeds in all would show that there is"), (3, "to show that there is")]
)
def test_advice_for_showing_that_there_is_no_difference(times, advice):
    comparison = with_interval(0.001, -0.015, 0.017)
    needed = Needed(seeds=19, times_images=times, shows="no difference")
    difference = comparison.difference.model_copy(update={"needed": needed})
    found = verdict(comparison.model_copy(update={"difference": difference}))
    assert f"{advice} no difference of more than 1 point" in found.advice
    assert bool(found.command) == (times == 1)


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


def test_arms_of_images_alone_are_told_what_descriptions_gain_on_them():
    comparison = with_interval(0.05, 0.03, 0.07)
    arm = comparison.arms[0].model_copy(update={"name": "self-training", "title": "with self-training"})
    other = comparison.difference.model_copy(update={"arm": "self-training"})
    rival = comparison.difference.model_copy(
        update={"reference": "self-training", "mean": 0.04, "low": 0.01, "high": 0.07}
    )
    changes = {"arms": [*comparison.arms, arm], "others": (other,), "rivals": (rival,)}
    (line,) = other_arms(comparison.model_copy(update=changes))
    assert line.endswith("better; With descriptions: +4.0 points over this (+1.0 to +7.0)")
