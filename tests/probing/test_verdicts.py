"""Rules of the verdict: corrected p-values, equivalence, and the standard errors that they rest on."""

import numpy as np
import pytest
from scipy import stats

from gpt4image.probing.intervals import PairedDifference, sample_size
from gpt4image.probing.verdicts import EQUIVALENCE_CONFIDENCE, beats_all, holm, judge


def holm_step_by_step(p_values, level):
    """Which hypotheses are rejected, one after the other from the smallest p-value, as Holm (1979) writes it."""
    rejected = [False] * len(p_values)
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        if p_values[place] > level / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


@pytest.mark.parametrize("seed", range(20))
def test_adjusted_p_values_reject_what_holms_steps_reject(seed):
    generator = np.random.default_rng(seed)
    p_values = (generator.random(6) ** 3).tolist()
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        assert [value <= level for value in adjusted] == holm_step_by_step(p_values, level)
    assert all(value >= p for value, p in zip(adjusted, p_values, strict=True))


def test_holm_errs_in_one_study_of_twenty_at_most_where_the_plain_test_errs_often():
    generator = np.random.default_rng(0)
    p_values = generator.random((2000, 5))
    assert np.mean([min(holm(row.tolist())) < 0.05 for row in p_values]) < 0.065
    assert (p_values.min(axis=1) < 0.05).mean() > 0.2
    assert holm([]) == []


@pytest.mark.parametrize("shape", [(1, 60), (2, 60), (4, 60), (4, 3)])
def test_p_value_is_below_a_level_where_the_interval_of_that_level_leaves_out_zero(shape):
    generator = np.random.default_rng(shape[0])
    for _ in range(20):
        found = PairedDifference.of(
            generator.standard_normal(shape) + 0.3 + 0.3 * generator.standard_normal((shape[0], 1))
        )
        for confidence in (0.9, 0.95):
            interval = found.interval(confidence)
            assert (found.p_value < 1 - confidence) == (interval.low > 0 or interval.high < 0)


def test_p_values_are_those_of_the_t_tests_of_scipy():
    images = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 80)
    assert PairedDifference.of(images[None]).p_value == pytest.approx(stats.ttest_1samp(images, 0).pvalue)
    by_seed = np.array([0.01, 0.05, -0.02, 0.03])
    table = np.repeat(by_seed[:, None], 50, axis=1)
    assert PairedDifference.of(table).p_value == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert PairedDifference.of(np.zeros((3, 5))).p_value == 1
    assert PairedDifference.of(np.full((3, 5), 0.5)).p_value == 0


@pytest.mark.parametrize(
    ("mean", "reach"), [(0.0, 0.005), (0.004, 0.005), (0.004, 0.007), (-0.006, 0.003), (0.02, 0.04)]
)
def test_equal_is_what_two_one_sided_t_tests_find(mean, reach):
    """Against the tests of scipy on means of four seeds with that mean and spread."""
    by_seed = mean + reach * np.array([-1.0, -0.5, 0.5, 1.0])
    table = np.repeat(by_seed[:, None], 50, axis=1)
    found = PairedDifference.of(table)
    margin = 0.01
    below = stats.ttest_1samp(by_seed, margin, alternative="less").pvalue
    above = stats.ttest_1samp(by_seed, -margin, alternative="greater").pvalue
    ends = found.interval(EQUIVALENCE_CONFIDENCE)
    assert (judge(mean, 1.0, (ends.low, ends.high), margin) == "equal") == (max(below, above) < 0.05)


def test_rules_in_order():
    assert judge(0.004, 0.01, (0.001, 0.007), 0.01) == "better"  # small, and told from zero
    assert judge(-0.004, 0.01, (-0.007, -0.001), 0.01) == "worse"
    assert judge(0.004, 0.06, (0.001, 0.007), 0.01) == "equal"
    assert judge(0.004, 0.06, (0.001, 0.007), 0.005) == "undecided"
    assert judge(0.0, 1.0, (0.0, 0.0), 0.01) == "undecided"  # the same answers: nothing was learned about the spread


def test_no_controls_and_one_that_is_not_beaten_give_no_credit():
    assert not beats_all([]) and not beats_all([0.02, -0.001]) and beats_all([0.02, 0.001])


def test_planned_seeds_show_that_there_is_no_difference_in_about_four_cases_of_five():
    generator = np.random.default_rng(0)

    def study(seeds):
        return 0.02 * generator.standard_normal((seeds, 1)) + 0.1 * generator.standard_normal((seeds, 400))

    pilot = study(4)
    of_seeds = pilot.mean(axis=1, keepdims=True)
    pilot += (of_seeds - of_seeds.mean()) * 0.02 / of_seeds.std(ddof=1) - of_seeds  # no difference, the true spread
    needed = sample_size(pilot, margin=0.02)
    assert (needed.shows, needed.times_images) == ("no difference", 1) and 4 < needed.seeds <= 30
    ends = [PairedDifference.of(study(needed.seeds)).interval(EQUIVALENCE_CONFIDENCE) for _ in range(300)]
    shown = np.mean([judge(0.0, 1.0, (each.low, each.high), 0.02) == "equal" for each in ends])
    assert 0.7 < shown < 0.97


def test_correction_for_several_comparisons_takes_more_seeds():
    generator = np.random.default_rng(0)
    pilot = 0.03 * generator.standard_normal((6, 1)) + 0.3 * generator.standard_normal((6, 400))
    pilot += 0.03 - pilot.mean()
    assert sample_size(pilot, comparisons=5).seeds > sample_size(pilot).seeds
