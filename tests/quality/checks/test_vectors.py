"""Likely label errors and outliers, on sets whose true classes are known."""

import numpy as np
import pytest

from gpt4image.probing.folds import to_unit
from gpt4image.quality.checks.vectors import find_contradictions, find_outliers

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def clusters(per_class=60, spread=0.6, seed=0, width=24):
    """Unit vectors around one centre a class, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES)), per_class)
    centres = to_unit(generator.standard_normal((len(CLASSES), width)))
    noise = spread * generator.standard_normal((len(labels), width)) / width**0.5
    return to_unit(centres[labels] + noise).astype(np.float32), labels


def singletons(labels):
    return np.arange(len(labels))


@pytest.mark.parametrize(("spread", "recall"), [(0.3, 0.9), (0.6, 0.5)])
def test_swapped_labels_are_found_and_nothing_else(spread, recall):
    vectors, labels = clusters(spread=spread)
    swapped = np.arange(0, len(labels), 15)
    given = labels.copy()
    given[swapped] = (labels[swapped] + 1 + np.arange(len(swapped)) % 4) % len(CLASSES)
    flags = find_contradictions(vectors, given, singletons(labels), CLASSES)
    found = {flag.at for flag in flags}
    assert found <= set(swapped.tolist())
    assert len(found) >= recall * len(swapped)
    assert all(CLASSES[labels[flag.at]] in flag.detail and CLASSES[given[flag.at]] in flag.detail for flag in flags)


def test_correct_labels_of_separate_classes_are_never_flagged():
    for seed in range(3):
        vectors, labels = clusters(seed=seed)
        assert find_contradictions(vectors, labels, singletons(labels), CLASSES, seed) == []


def test_ambiguous_texts_are_flagged_no_more_often_than_the_rule_says():
    """Labels drawn from a known posterior: all of them are right, and some must look odd."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(3):
        centres = generator.standard_normal((2, 5)) * 1.2
        labels = generator.integers(0, 2, 1500)
        vectors = centres[labels] + generator.standard_normal((1500, 5))
        flags = find_contradictions(vectors.astype(np.float32), labels, np.arange(1500), ("ant", "bee"))
        shares.append(len(flags) / 1500)
    assert 0 < max(shares) < 0.03


def test_copies_do_not_confirm_each_other():
    vectors, labels = clusters(spread=0.3)
    wrong = np.repeat(vectors[:1], 40, axis=0)
    everything = np.concatenate([vectors, wrong])
    given = np.concatenate([labels, np.full(40, 3)])
    copies = np.concatenate([np.arange(len(labels)), np.full(40, len(labels))])
    found = {flag.at for flag in find_contradictions(everything, given, copies, CLASSES)}
    assert found >= set(range(len(labels), len(everything)))
    apart = {flag.at for flag in find_contradictions(everything, given, np.arange(len(everything)), CLASSES)}
    assert not apart & set(range(len(labels), len(everything)))


def test_classes_in_few_groups_and_unlabelled_rows_are_skipped():
    vectors, labels = clusters(spread=0.3)
    given = labels.copy()
    given[1] = 3  # an ant called dog
    assert [flag.at for flag in find_contradictions(vectors, given, singletons(labels), CLASSES)] == [1]
    groups = np.where(given == 3, singletons(labels) % 4, singletons(labels))  # dogs in four groups
    assert find_contradictions(vectors, given, groups, CLASSES) == []
    given[1] = -1
    assert find_contradictions(vectors, given, singletons(labels), CLASSES) == []


def test_single_class_contradicts_nothing():
    vectors, labels = clusters()
    assert find_contradictions(vectors, np.zeros_like(labels), singletons(labels), CLASSES) == []


def test_clearest_contradiction_weighs_most():
    vectors, labels = clusters(spread=1.0)
    given = labels.copy()
    given[:3] = 3
    vectors[0] = to_unit(vectors[labels == 0].mean(axis=0, keepdims=True))[0]
    flags = find_contradictions(vectors, given, singletons(labels), CLASSES)
    assert max(flags, key=lambda flag: flag.weight).at == 0


def foreign(vectors, count=1, seed=9):
    generator = np.random.default_rng(seed)
    return to_unit(generator.standard_normal((count, vectors.shape[1]))).astype(np.float32)


def test_foreign_text_is_an_outlier():
    vectors, labels = clusters()
    flags = find_outliers(np.concatenate([vectors, foreign(vectors)]), np.arange(len(labels) + 1))
    assert [flag.at for flag in flags] == [len(labels)]


def test_copies_of_a_foreign_text_are_outliers_together():
    vectors, labels = clusters()
    everything = np.concatenate([vectors, np.repeat(foreign(vectors), 30, axis=0)])
    groups = np.concatenate([np.arange(len(labels)), np.full(30, len(labels))])
    assert {flag.at for flag in find_outliers(everything, groups)} == set(range(len(labels), len(everything)))
    assert find_outliers(everything, np.arange(len(everything))) == []


@pytest.mark.parametrize("seed", range(5))
def test_usual_texts_are_not_outliers(seed):
    vectors, labels = clusters(seed=seed)
    assert find_outliers(vectors, singletons(labels)) == []


def test_small_sets_and_sets_of_identical_texts_have_no_outliers():
    vectors, _ = clusters()
    assert find_outliers(vectors[:49], np.arange(49)) == []
    assert find_outliers(np.repeat(vectors[:1], 60, axis=0), np.arange(60)) == []
    assert find_outliers(vectors[:60], np.zeros(60, dtype=np.int64)) == []


def test_neighbours_among_a_sample_find_the_same_outlier(monkeypatch):
    monkeypatch.setattr("gpt4image.quality.checks.vectors.MAX_REFERENCE_TEXTS", 150)
    vectors, labels = clusters()
    flags = find_outliers(np.concatenate([vectors, foreign(vectors)]), np.arange(len(labels) + 1))
    assert [flag.at for flag in flags] == [len(labels)]


def test_class_missing_from_the_training_sample_is_not_judged(monkeypatch):
    monkeypatch.setattr("gpt4image.quality.checks.vectors.MAX_TRAINING_TEXTS", 40)
    vectors, labels = clusters()
    keep = np.concatenate([np.flatnonzero(labels < 4), np.flatnonzero(labels == 4)[:5]])
    for seed in range(5):
        flags = find_contradictions(vectors[keep], labels[keep], np.arange(len(keep)), CLASSES, seed)
        assert not [flag for flag in flags if labels[keep][flag.at] == 4]
