"""Several labels: one logistic regression a class equals that of scikit-learn on the labels that are known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gpt4image.core.errors import ConfigError
from gpt4image.probing.intervals import ratio_interval
from gpt4image.probing.label_regression import fit_label_regressions


def draw(rows=150, width=10, classes=4, unknown=0.3, seed=0):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(rows, width)) + 2
    odds = (vectors - 2) @ generator.normal(size=(width, classes)) - 0.5
    marks = (generator.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    marks[generator.random(odds.shape) < unknown] = -1
    return vectors, marks


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_each_class_equals_scikit_learn_on_its_known_labels(strength):
    vectors, marks = draw()
    found = fit_label_regressions(vectors, marks, strength=strength)
    for k in range(4):
        known = marks[:, k] >= 0
        model = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(vectors[known], marks[known, k])
        np.testing.assert_allclose(found.log_odds(vectors)[:, k], model.decision_function(vectors), atol=2e-3)


def test_loss_of_the_fit_is_the_least_of_its_formula():
    vectors, marks = draw(rows=60, width=3, classes=2)

    def loss(weights, bias):
        total = 0.0
        for k in range(2):
            total += float(weights[k] @ weights[k]) / (2 * 3.0)
            for i in range(60):
                if marks[i, k] >= 0:
                    sign = 1 if marks[i, k] else -1
                    total += float(np.log(1 + np.exp(-sign * (weights[k] @ vectors[i] + bias[k]))))
        return total

    found = fit_label_regressions(vectors, marks, strength=3.0)
    least = loss(found.weights, found.bias)
    generator = np.random.default_rng(1)
    for _ in range(20):
        moved = found.weights + 0.03 * generator.normal(size=(2, 3)), found.bias + 0.03 * generator.normal(size=2)
        assert loss(*moved) > least


def test_classes_whose_known_labels_are_of_one_kind_have_their_share_alone():
    vectors, marks = draw()
    marks[:, 0] = np.where(marks[:, 0] >= 0, 1, -1)
    marks[:, 1] = -1
    found = fit_label_regressions(vectors, marks)
    known = (marks[:, 0] >= 0).sum()
    assert not found.weights[:2].any()
    assert found.bias[:2] == pytest.approx([np.log((known + 0.5) / 0.5), 0.0])
    whole = fit_label_regressions(vectors, marks[:, 2:])
    np.testing.assert_allclose(found.weights[2:], whole.weights, atol=1e-3)


def test_begun_fit_ends_at_once_and_senseless_ones_are_refused():
    vectors, marks = draw()
    found = fit_label_regressions(vectors, marks)
    assert fit_label_regressions(vectors, marks, start=found).steps <= 1 < found.steps
    with pytest.raises(ConfigError, match="strength above 0"):
        fit_label_regressions(vectors, marks, strength=0)
    with pytest.raises(ConfigError, match="at least one row"):
        fit_label_regressions(vectors[:0], marks[:0])


def test_interval_of_a_ratio_equals_a_plain_loop_and_holds():
    generator = np.random.default_rng(0)
    sizes, groups = generator.integers(0, 5, 40), np.arange(40) // 2
    counts = generator.binomial(sizes, 0.7)
    found = ratio_interval(counts, sizes, groups)
    ratio, squares, taking = counts.sum() / sizes.sum(), 0.0, 0
    for group in range(20):
        own = groups == group
        squares += (counts[own].sum() - ratio * sizes[own].sum()) ** 2
        taking += bool(sizes[own].sum())
    error = (taking / (taking - 1) * squares) ** 0.5 / sizes.sum()
    assert found.mean == pytest.approx(ratio)
    assert (found.high - found.low) / 2 == pytest.approx(2.1 * error, rel=0.02)
    held = 0
    for _ in range(200):
        sizes = generator.integers(0, 5, 40)
        drawn = ratio_interval(generator.binomial(sizes, 0.7), sizes, np.arange(40))
        held += drawn.low <= 0.7 <= drawn.high
    assert held >= 184
