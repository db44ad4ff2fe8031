"""Simulated label loss and label noise: how many labels change, in which splits, and for all copies alike."""

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import SimulationOptions
from gpt4image.images.simulate import simulate_labels
from support.labelling_parts import make_table

CLASSES = ("ant", "bee", "cow")
TRUE = np.random.default_rng(0).choice(3, 900, p=[0.6, 0.3, 0.1])
SPLITS = np.where(np.arange(900) < 600, "train", np.where(np.arange(900) < 750, "validation", "test"))


@pytest.fixture(scope="module")
def table():
    return make_table(TRUE.tolist(), CLASSES, SPLITS.tolist())


def simulate(table, seed=0, **options):
    return simulate_labels(table, SimulationOptions(**options), seed).labels


def test_a_number_or_a_share_of_each_class_keeps_its_label_in_train_alone(table):
    found = simulate(table, labels_per_class=10)
    kept = np.bincount(found[(SPLITS == "train") & (found >= 0)])
    assert kept.tolist() == [10, 10, 10]
    shared = simulate(table, label_share=0.25)
    train = np.bincount(TRUE[SPLITS == "train"])
    kept = np.bincount(shared[(SPLITS == "train") & (shared >= 0)])
    assert kept.tolist() == [round(0.25 * count) for count in train.tolist()]
    none = simulate(table, labels_per_class=0)
    assert (none[SPLITS == "train"] == -1).all()
    for labels in (found, shared, none):
        np.testing.assert_array_equal(labels[SPLITS != "train"], TRUE[SPLITS != "train"])
        assert ((labels == TRUE) | (labels == -1)).all()


@pytest.mark.parametrize("kind", ["symmetric", "pairwise"])
def test_noise_changes_the_wanted_share_of_train_and_validation(table, kind):
    found = simulate(table, label_noise=0.4, noise_kind=kind)
    np.testing.assert_array_equal(found[SPLITS == "test"], TRUE[SPLITS == "test"])
    for split, tolerance in (("train", 0.06), ("validation", 0.12)):
        assert (found != TRUE)[split == SPLITS].mean() == pytest.approx(0.4, abs=tolerance)
    steps = np.bincount((found - TRUE)[found != TRUE] % 3, minlength=3)
    assert steps[0] == 0
    assert (steps[2] == 0) == (kind == "pairwise")


def test_each_seed_draws_anew_and_the_same_seed_the_same(table):
    first, again, other = (simulate(table, seed, labels_per_class=10, label_noise=0.2) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_copies_share_their_fate():
    images = make_table([0, 1, 2] * 40, CLASSES, numbers=[*range(60), *range(60)])
    found = simulate(images, labels_per_class=5, label_noise=0.5)
    np.testing.assert_array_equal(found[:60], found[60:])
    assert (found[:60] >= 0).sum() >= 5


def test_number_and_share_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        SimulationOptions(labels_per_class=1, label_share=0.5)
    assert not SimulationOptions().active


def test_long_tail_is_exponential_and_leaves_test_images_and_those_without_a_label_alone():
    per_class = {"train": 64, "validation": 16, "test": 10}
    splits = [split for split, count in per_class.items() for _ in range(5 * count)]
    labels = [row % 5 for row in range(len(splits))]
    images = make_table([*labels, *[-1] * 7], tuple("abcde"), [*splits, *["train"] * 7])
    orders = set()
    for seed in range(4):
        found = simulate_labels(images, SimulationOptions(long_tail=16), seed)
        kept = np.asarray(found.rows["split"].to_pylist())
        counts = {split: np.bincount(found.labels[(kept == split) & (found.labels >= 0)]) for split in per_class}
        assert sorted(counts["train"].tolist()) == [4, 8, 16, 32, 64]
        assert sorted(counts["validation"].tolist()) == [1, 2, 4, 8, 16]
        assert counts["test"].tolist() == [10] * 5
        assert (found.labels < 0).sum() == 7
        assert counts["train"].argsort().tolist() == counts["validation"].argsort().tolist()
        orders.add(tuple(counts["train"].tolist()))
    assert len(orders) > 1


def test_long_tail_of_one_balances_and_goes_with_few_labels():
    images = make_table([0] * 30 + [1] * 10, ("ant", "bee"))
    even = simulate_labels(images, SimulationOptions(long_tail=1), 0)
    assert np.bincount(even.labels).tolist() == [10, 10]
    few = simulate_labels(images, SimulationOptions(long_tail=2, labels_per_class=3), 0)
    assert np.bincount(few.labels[few.labels >= 0]).tolist() == [3, 3]
    with pytest.raises(ConfigError, match="long_tail"):
        SimulationOptions(long_tail=0.5)
