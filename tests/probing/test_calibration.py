"""Metrics against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from gpt4image.probing.calibration import measure


def test_metrics_equal_scikit_learn():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 5)), generator.integers(0, 4, 200)
    found = measure(logits, labels)
    answers = logits.argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.accuracy == metrics.accuracy_score(labels, answers)
    assert found.negative_log_likelihood == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(5)))
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, answers, labels=range(5)))
    recalls = metrics.recall_score(labels, answers, labels=range(4), average=None)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
