"""Metrics against scikit-learn and torchmetrics; the temperature against known ones."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from gpt4image.probing import calibration
from gpt4image.probing.calibration import (
    adjust_for_skew,
    calibration_error,
    fit_temperature,
    measure_classifier,
    measure_quality,
    reliability_bins,
)


def test_fitted_temperature_undoes_a_known_distortion():
    generator = np.random.default_rng(0)
    calibrated = log_softmax(generator.normal(size=(20_000, 5)) * 2, axis=1)
    labels = (np.exp(calibrated).cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    labels = np.minimum(labels, 4)
    for factor in (0.5, 1.0, 3.0):
        assert fit_temperature(calibrated * factor, labels) == pytest.approx(factor, rel=0.04)
    labels[::2] = -1
    distorted = calibrated.copy()
    distorted[::2] *= -1
    assert fit_temperature(distorted, labels) == pytest.approx(1, rel=0.05)


def test_temperature_of_a_sample_is_close_to_that_of_all_rows(monkeypatch):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(5000, 3))
    labels = (logits + generator.gumbel(size=(5000, 3))).argmax(axis=1)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr(calibration, "FITTED_ON", 2000)
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=0.15)


def test_quality_equals_torchmetrics(monkeypatch):
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    monkeypatch.setattr(calibration, "BLOCK", 300)
    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(1000, 4)) * 3).astype(np.float32)
    labels = (logits / 2 + generator.gumbel(size=(1000, 4))).argmax(axis=1)
    labels[generator.random(1000) < 0.1] = -1
    found = measure_quality(logits, labels, temperature=1.7)
    known = labels >= 0
    shares = torch.from_numpy(softmax(logits[known].astype(np.float64) / 1.7, axis=1))
    right = torch.from_numpy(labels[known])
    assert found.images == known.sum()
    assert found.accuracy == pytest.approx(float(multiclass_accuracy(shares, right, 4, average="micro")))
    assert found.balanced_accuracy == pytest.approx(float(multiclass_accuracy(shares, right, 4, average="macro")))
    assert found.calibration_error == pytest.approx(float(multiclass_calibration_error(shares, right, 4)), abs=1e-6)
    loss = torch.nn.functional.nll_loss(shares.log(), right)
    assert found.negative_log_likelihood == pytest.approx(float(loss))
    assert calibration_error(np.ones(3), np.asarray([True, True, True])) == 0


@pytest.mark.parametrize("classes", [2, 8])
def test_classifier_metrics_equal_scikit_learn_and_torchmetrics(classes):
    import torch
    from sklearn import metrics
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(500, classes)) * 2).astype(np.float32)
    labels = (logits / 2 + generator.gumbel(size=(500, classes))).argmax(axis=1)
    labels[labels == 1] = 0  # class 1 is predicted and never right
    found, probabilities, answers = (
        measure_classifier(logits, labels),
        softmax(logits.astype(np.float64), axis=1),
        logits.argmax(axis=1),
    )
    occurring = np.unique(labels)
    assert found.accuracy == metrics.accuracy_score(labels, answers)
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert found.top5_accuracy == pytest.approx(top5)
    else:
        assert found.top5_accuracy is None
    recalls = metrics.recall_score(labels, answers, labels=occurring, average=None)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
    f1 = metrics.f1_score(labels, answers, labels=occurring, average="macro")
    assert found.macro_f1 == pytest.approx(f1)
    likelihood = metrics.log_loss(labels, probabilities.astype(np.float64), labels=range(classes))
    assert found.negative_log_likelihood == pytest.approx(likelihood, rel=1e-5)
    brier = sum(
        (float(row[k]) - (k == label)) ** 2
        for row, label in zip(probabilities, labels, strict=True)
        for k in range(classes)
    ) / len(labels)
    assert found.brier_score == pytest.approx(brier, rel=1e-5)
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=classes, n_bins=15
    )
    assert found.calibration_error == pytest.approx(float(error), abs=1e-5)


def test_equal_logits_rank_like_argmax():
    assert measure_classifier(np.zeros((10, 10)), np.arange(10)).top5_accuracy == 0.5


def test_reliability_bins_add_up_to_the_calibration_error():
    generator = np.random.default_rng(0)
    confidence = np.append(generator.uniform(0.2, 1, 400), 1.0)
    right = generator.random(401) < confidence**2
    bins = reliability_bins(confidence, right)
    assert sum(each.predictions for each in bins) == 401 and len(bins) == 12
    gaps = sum(each.predictions * abs(each.accuracy - each.confidence) for each in bins) / 401
    assert gaps == pytest.approx(calibration_error(confidence, right))
    by_hand = (confidence >= 0.6) & (confidence < 10 / 15)
    assert bins[6].accuracy == pytest.approx(right[by_hand].mean())


def test_adjustment_for_skew_equals_its_formula():
    generator = np.random.default_rng(0)
    found = np.log(generator.dirichlet(np.ones(3), 6))
    labels = np.array([0, 0, 0, 1, -1, -1])
    adjusted = adjust_for_skew(found, labels, 0.7)
    shares = [3 / 4.5, 1 / 4.5, 0.5 / 4.5]
    for row, got in zip(found.tolist(), adjusted.tolist(), strict=True):
        parts = [math.exp(value) / share**0.7 for value, share in zip(row, shares, strict=True)]
        for part, each in zip(parts, got, strict=True):
            assert math.exp(each) == pytest.approx(part / sum(parts), abs=1e-12)
    assert adjust_for_skew(found, labels, 0.0) is found
