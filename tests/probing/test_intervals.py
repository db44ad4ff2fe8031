"""Confidence intervals cover the truth at least as often as they claim."""

import numpy as np
import pytest
from scipy import stats

from gpt4image.probing.intervals import (
    GroupBootstrap,
    Interval,
    SampleSize,
    exact_paired_test,
    paired_interval,
    sample_size,
    small_sample_interval,
    wilson_interval,
)


def coverage(seeds, images, seed_spread, image_spread, noise, tables=600):
    """Return the share of simulated tables of mean 0 whose interval contains 0."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(tables):
        table = (
            seed_spread * generator.standard_normal((seeds, 1))
            + image_spread * generator.standard_normal((1, images))
            + noise * generator.standard_normal((seeds, images))
        )
        found = paired_interval(table)
        held += found.low <= 0 <= found.high
    return held / tables


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize(("seed_spread", "image_spread"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.5), (0.05, 0.5)])
def test_interval_covers_the_truth_at_least_as_often_as_it_claims(seeds, seed_spread, image_spread):
    assert coverage(seeds, 100, seed_spread, image_spread, noise=0.5) >= 0.93


def test_interval_over_images_alone_would_cover_it_too_rarely():
    """With variation between seeds, an interval over images alone covers the truth far less often than it claims."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        table = 0.1 * generator.standard_normal((3, 1)) + 0.5 * generator.standard_normal((3, 100))
        naive = paired_interval(table[:1])
        held += naive.low <= 0 <= naive.high
    assert held / 300 < 0.8


def test_variation_between_seeds_alone_gives_the_paired_t_test():
    """If all images have the same difference, the interval is the one over seeds."""
    by_seed = np.array([0.01, 0.05, -0.02, 0.03])
    found = paired_interval(np.repeat(by_seed[:, None], 50, axis=1))
    low, high = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((by_seed.mean(), low, high))


def test_one_seed_gives_the_paired_t_test_over_images():
    differences = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], 80)
    found = paired_interval(differences[None])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.covers == "images only"


def test_more_seeds_do_not_reduce_variation_between_images():
    """A hundred seeds do not turn ten different images into more."""
    table = np.random.default_rng(3).standard_normal((1, 10)) + 1e-3 * np.random.default_rng(4).standard_normal(
        (100, 10)
    )
    table *= 0.3  # the interval stays within -1 and 1
    found = paired_interval(table)
    low, high = stats.ttest_1samp(table.mean(axis=0), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-2)


def test_two_seeds_that_disagree_give_no_impossible_difference():
    assert paired_interval(np.repeat([[1.0], [0.0]], 20, axis=1)) == Interval(0.5, -1, 1, "seeds and images")


def simulated(generator, mean, seeds, images, seed_spread, image_spread):
    """Return a table [S, N] whose mean over many draws is `mean`."""
    spread = seed_spread * generator.standard_normal((seeds, 1)) + image_spread * generator.standard_normal((1, images))
    return mean + spread + 0.3 * generator.standard_normal((seeds, images))


def test_recommended_seeds_show_the_effect_in_about_four_cases_of_five():
    generator = np.random.default_rng(0)
    of_seeds = generator.standard_normal((6, 1))
    of_seeds *= 0.03 / of_seeds.std(ddof=1)  # six draws with just the variance that they stand for
    pilot = of_seeds + simulated(generator, 0.0, seeds=6, images=200, seed_spread=0.0, image_spread=0.02)
    pilot += 0.03 - pilot.mean()  # an effect that six seeds leave undecided
    found = sample_size(pilot)
    assert found.times_images == 1 and 6 < found.seeds <= 30
    shown = [paired_interval(simulated(generator, 0.03, found.seeds, 200, 0.03, 0.02)).low > 0 for _ in range(300)]
    assert 0.65 < np.mean(shown) < 0.97


def test_more_images_are_recommended_where_seeds_alone_do_not_help():
    generator = np.random.default_rng(0)
    pilot = simulated(generator, 0.0, seeds=6, images=200, seed_spread=0.0, image_spread=0.5)
    found = sample_size(pilot + 0.06 - pilot.mean())
    assert found.times_images > 1 and found.seeds is not None


def test_no_practical_number_shows_a_tiny_effect():
    generator = np.random.default_rng(0)
    pilot = simulated(generator, 0.0, seeds=3, images=100, seed_spread=0.02, image_spread=0.1)
    assert sample_size(pilot + 1e-5 - pilot.mean()) == SampleSize(None)
    assert sample_size(np.zeros((3, 100))) == SampleSize(None)


def test_identical_arms_have_an_empty_interval():
    found = paired_interval(np.zeros((3, 20)))
    assert (found.mean, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_small_sample_interval_of_identical_arms_is_not_empty(seeds):
    same = np.zeros((seeds, 3))
    assert paired_interval(same).low == paired_interval(same).high == 0
    low, high = small_sample_interval(same)
    assert -1 <= low < -0.3 and 0.3 < high <= 1


@pytest.mark.parametrize(("images", "right"), [(2, 2), (3, 3), (5, 4), (50, 50)])
def test_small_sample_interval_contains_the_difference_within_its_range(images, right):
    differences = (np.arange(images) < right).astype(float)[None]
    low, high = small_sample_interval(differences)
    assert -1 <= low < differences.mean() <= high <= 1


def test_small_sample_interval_approaches_the_plain_one():
    differences = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (5, 2000), p=[0.1, 0.75, 0.15])
    plain, (low, high) = paired_interval(differences), small_sample_interval(differences)
    assert (low, high) == pytest.approx((plain.low, plain.high), abs=2e-3)


@pytest.mark.parametrize(("seeds", "images"), [(1, 3), (1, 10), (3, 3), (3, 10)])
def test_small_sample_interval_covers_the_truth_at_least_as_often(seeds, images):
    """Arms of 95% and 80% accuracy: on few images, they often differ on none."""
    generator, covered, plain = np.random.default_rng(0), 0, 0
    for _ in range(300):
        right = generator.random((2, seeds, images)) < np.array([0.95, 0.8])[:, None, None]
        differences = right[0].astype(float) - right[1]
        low, high = small_sample_interval(differences)
        covered += low <= 0.15 <= high
        plain += paired_interval(differences).low <= 0.15 <= paired_interval(differences).high
    assert covered >= 0.95 * 300
    assert covered >= plain


def test_group_bootstrap_covers_the_truth_where_images_would_not():
    """Images of a group share half of their variance; groups resampled as single images give too narrow intervals."""
    generator, covered, naive = np.random.default_rng(0), 0, 0
    groups = np.repeat(np.arange(40), 5)
    for seed in range(100):
        values = generator.standard_normal(40)[groups] + generator.standard_normal(200)
        by_group, by_image = (GroupBootstrap(each, seed).mean(values) for each in (groups, np.arange(200)))
        assert by_group.mean == by_image.mean == values.mean()
        covered += by_group.low <= 0 <= by_group.high
        naive += by_image.low <= 0 <= by_image.high
    assert covered >= 88 > naive


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (3, 3), (7, 11), (180, 450)])
def test_wilson_interval_equals_scipy(hits, count):
    found, known = wilson_interval(hits / count, count), stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-8)


def test_exact_paired_test_of_one_seed_is_mcnemars():
    generator = np.random.default_rng(0)
    for images in (1, 5, 60, 3000):
        differences = generator.choice([-1, 0, 1], size=(1, images), p=[0.1, 0.7, 0.2])
        gains, losses = (differences > 0).sum(), (differences < 0).sum()
        known = stats.binomtest(int(gains), int(gains + losses)).pvalue if gains + losses else 1.0
        assert exact_paired_test(differences) == pytest.approx(known, abs=1e-12)


def test_exact_paired_test_of_several_seeds_equals_scipys_permutations():
    generator = np.random.default_rng(1)
    differences = generator.choice([-1, 0, 1], size=(3, 11), p=[0.1, 0.5, 0.4])
    known = stats.permutation_test(
        (differences.sum(axis=0),), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert exact_paired_test(differences) == pytest.approx(known, abs=1e-12)
    assert exact_paired_test(np.zeros((3, 4))) == 1


def test_few_test_images_that_happen_to_agree_call_for_more_images():
    differences = np.zeros((2, 18))
    differences[:, 5] = 1.0, -1.0
    differences[0, 3] = differences[1, 7] = 1.0  # the seeds' means vary no less than the images' do
    assert sample_size(differences).times_images > 1
