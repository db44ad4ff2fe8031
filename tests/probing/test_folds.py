"""Leakage groups and the folds that keep them whole."""

import numpy as np

from gpt4image.probing.folds import FOLDS, grouped_folds, groups_per_class, link, look_alikes, near_copies


def test_links_run_through_other_rows():
    assert link(["a", "b", "c", "b"], [1, 2, 3, 1]).tolist() == [0, 0, 1, 0]
    assert link(np.array([5, 5, 7])).tolist() == [0, 0, 1]


def test_values_of_two_columns_are_not_mixed_up():
    assert link([1, 2], [2, 3]).tolist() == [0, 1]


def test_folds_keep_groups_whole_and_give_every_fold_every_class():
    generator = np.random.default_rng(0)
    labels = generator.choice(4, 300, p=[0.7, 0.2, 0.07, 0.03])
    groups = generator.integers(0, 150, 300)
    folds = grouped_folds(labels, groups, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    for label in np.flatnonzero(groups_per_class(labels, groups, 4) >= 2 * FOLDS):
        assert set(folds[labels == label]) == set(range(FOLDS))
    assert np.bincount(folds).min() > 40
    assert not np.array_equal(folds, grouped_folds(labels, groups, seed=2))


def test_groups_count_for_their_rarest_class():
    """Five groups hold both classes: every fold needs one of them."""
    labels = np.concatenate([np.zeros(45, dtype=int), np.tile([0, 1], 5)])
    groups = np.concatenate([np.arange(45), 45 + np.repeat(np.arange(5), 2)])
    for seed in range(10):
        assert set(grouped_folds(labels, groups, seed)[labels == 1]) == set(range(FOLDS))


def test_images_that_look_alike_are_grouped_and_chains_are_not():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((60, 32))
    features[1] = features[0] + 0.05 * generator.standard_normal(32)
    groups = look_alikes(features)
    assert groups[0] == groups[1]
    assert len(set(groups)) == 59
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert len(set(near_copies(circle, 0.8))) == 1
    assert len(set(look_alikes(circle))) == 200
