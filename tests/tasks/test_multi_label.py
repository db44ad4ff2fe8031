"""Several labels an image: losses against plain loops and timm, metrics against scikit-learn, settings refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn import metrics
from timm.loss import AsymmetricLossMultiLabel

from gpt4image import Recipe
from gpt4image.core.errors import ConfigError
from gpt4image.tasks.label_metrics import (
    class_precisions,
    f1_scores,
    fit_thresholds,
    image_precision,
    label_likelihood,
    resampled_precisions,
)
from gpt4image.tasks.multi_label import MULTI_LABEL, asymmetric_loss
from gpt4image.train.objective import mix_images

NO_SOFT = torch.zeros(0, 0)


def draw(images=40, classes=5, unknown=0.0, seed=0):
    """Logits [N, C] and labels int8 [N, C], 1 present, 0 absent, -1 unknown; every class is present somewhere."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(images, classes))
    marks = (generator.random((images, classes)) < 0.3).astype(np.int8)
    marks[:classes][np.eye(classes, dtype=bool)] = 1
    marks[generator.random((images, classes)) < unknown] = -1
    return logits, marks


def loss(logits, marks, smoothing=0.0, **settings):
    labels = torch.from_numpy(marks)
    targets = MULTI_LABEL.targets(labels, NO_SOFT, marks.shape[1], smoothing, 0.0).double()
    recipe = Recipe(label_smoothing=smoothing, **settings)
    return MULTI_LABEL.loss(torch.from_numpy(logits), targets, recipe, None).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_equals_its_formula_over_known_labels(smoothing):
    logits, marks = draw(unknown=0.4)
    expected = 0.0
    for row, labels in zip(logits.tolist(), marks.tolist(), strict=True):
        for value, mark in zip(row, labels, strict=True):
            if mark >= 0:
                p, present = 1 / (1 + math.exp(-value)), mark * (1 - smoothing) + smoothing / 2
                expected -= present * math.log(p) + (1 - present) * math.log(1 - p)
    assert loss(logits, marks, smoothing) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_equals_that_of_torch_where_all_is_known():
    logits, marks = draw()
    tensors = torch.from_numpy(logits), torch.from_numpy(marks).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(*tensors, reduction="sum").item()
    assert loss(logits, marks) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("present", "absent", "margin"), [(0.0, 4.0, 0.05), (1.0, 2.0, 0.2)])
def test_asymmetric_loss_equals_its_formula_over_known_labels(present, absent, margin):
    logits, marks = draw(unknown=0.4)
    expected = 0.0
    for row, labels in zip(logits.tolist(), marks.tolist(), strict=True):
        for value, mark in zip(row, labels, strict=True):
            p = 1 / (1 + math.exp(-value))
            shifted = max(p - margin, 0.0)
            if mark == 1:
                expected -= (1 - p) ** present * math.log(p)
            elif mark == 0:
                expected -= shifted**absent * math.log(1 - shifted)
    settings = {"asymmetric_present": present, "asymmetric_absent": absent, "asymmetric_margin": margin}
    assert loss(logits, marks, label_loss="asymmetric", **settings) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("present", "absent", "margin"), [(0.0, 4.0, 0.05), (1.0, 4.0, 0.05), (2.0, 1.0, 0.0)])
def test_asymmetric_loss_and_its_gradients_equal_those_of_timm(present, absent, margin):
    logits, marks = (torch.from_numpy(part) for part in draw())
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    targets = MULTI_LABEL.targets(marks, NO_SOFT, 5, 0.0, 0.0).double()
    found = asymmetric_loss(ours, targets, present, absent, margin)
    loss_of = AsymmetricLossMultiLabel(
        gamma_neg=absent, gamma_pos=present, clip=margin
    )  # of one image: some versions average
    expected = torch.stack(
        [loss_of(row[None], truth[None]) for row, truth in zip(theirs, marks.double(), strict=True)]
    ).sum()
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_gradients_of_the_asymmetric_loss_are_finite_at_extreme_logits():
    logits = torch.tensor([[-80.0, 80.0, -80.0, 80.0]], requires_grad=True)
    targets = MULTI_LABEL.targets(torch.tensor([[1, 1, 0, 0]]), NO_SOFT, 4, 0.0, 0.0)
    asymmetric_loss(logits, targets, 0.5, 0.5, 0.05).backward()
    assert torch.isfinite(logits.grad).all()


def test_labels_are_mixed_like_their_images_and_unknown_ones_take_no_part():
    torch.manual_seed(0)
    np.random.seed(0)
    _, marks = draw(6, 3, unknown=0.3)
    _, mixing = mix_images(Recipe(mixup=1.0), torch.zeros(6, 3, 4, 4))
    logits = torch.randn(6, 3)
    targets = MULTI_LABEL.targets(torch.from_numpy(marks), NO_SOFT, 3, 0.0, 0.0)
    found = MULTI_LABEL.loss(logits, mixing @ targets, Recipe(), None).item()
    expected = 0.0
    for image in range(6):
        for source in range(6):
            for label in range(3):
                if marks[source, label] >= 0:
                    sign = 1 if marks[source, label] else -1
                    p = torch.sigmoid(sign * logits[image, label]).item()
                    expected -= mixing[image, source].item() * math.log(p)
    assert found == pytest.approx(expected, rel=1e-5)


def test_average_precision_of_images_equals_that_of_scikit_learn():
    logits, marks = draw(classes=6)
    logits[:5] = logits[:5].round()  # with ties
    marks[7], marks[8] = 0, 1  # none, and all
    found = image_precision(logits, marks)
    for row, truth, score in zip(logits, marks, found, strict=True):
        expected = metrics.label_ranking_average_precision_score(truth[None], row[None])
        assert score == pytest.approx(expected)
    assert found.mean() == pytest.approx(metrics.label_ranking_average_precision_score(marks, logits))


def test_average_precision_of_images_ranks_known_labels_alone():
    logits, marks = draw(unknown=0.3)
    for row, truth, score in zip(logits, marks, image_precision(logits, marks), strict=True):
        known = truth >= 0
        if known.any():
            expected = metrics.label_ranking_average_precision_score(truth[None, known], row[None, known])
            assert score == pytest.approx(expected)


def test_mean_average_precision_and_f1_equal_those_of_scikit_learn():
    logits, marks = draw()
    marks[:, 4] = 0  # a class that no image has
    thresholds = np.array([0.3, 0.5, 0.4, 0.7, 0.5])
    predictions = MULTI_LABEL.predictions(np.arange(40), marks, logits, thresholds.tolist())
    found, chosen = predictions.measure(), expit(logits) >= thresholds
    assert found["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(marks[:, :4], logits[:, :4], average="macro")
    )
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(marks, chosen, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(marks[:, :4], chosen[:, :4], average="macro"))
    assert found["negative_log_likelihood"] == pytest.approx(loss(logits, marks) / 40, rel=1e-6)
    assert found["accuracy"] == pytest.approx(metrics.label_ranking_average_precision_score(marks, logits))
    assert predictions.correct.mean() == pytest.approx(metrics.accuracy_score(marks, chosen))


def test_metrics_leave_out_unknown_labels():
    logits, marks = draw(unknown=0.3)
    chosen, known = expit(logits) >= 0.5, marks >= 0
    micro, macro = f1_scores(logits, marks, np.full(5, 0.5))
    assert micro == pytest.approx(metrics.f1_score(marks[known], chosen[known]))
    each = [metrics.f1_score(marks[known[:, at], at], chosen[known[:, at], at]) for at in range(5)]
    assert macro == pytest.approx(np.mean(each))
    for at, precision in enumerate(class_precisions(logits, marks)):
        own = known[:, at]
        assert precision == pytest.approx(metrics.average_precision_score(marks[own, at], logits[own, at]))
    only = np.where(known, marks, -1)
    assert label_likelihood(logits, only) == pytest.approx(loss(logits, only) / 40, rel=1e-6)


def test_thresholds_give_the_best_f1_of_all():
    logits, marks = draw(unknown=0.2, seed=3)
    logits[:, 0] = logits[:, 0].round()  # with ties
    marks[:, 2] = 0
    found = fit_thresholds(logits, marks)
    assert found[2] == 0.5
    for label in (0, 1, 3, 4):
        known = marks[:, label] >= 0
        truth, probabilities = marks[known, label], expit(logits[known, label])
        best = max(metrics.f1_score(truth, probabilities >= limit) for limit in [*probabilities, 0.0])
        assert metrics.f1_score(truth, probabilities >= found[label]) == pytest.approx(best)


def test_resampled_precisions_equal_scikit_learn_on_the_drawn_images(monkeypatch):
    monkeypatch.setattr("gpt4image.tasks.label_metrics.RESAMPLES", 4)
    (logits, marks), (others, _) = draw(unknown=0.2), draw(seed=1)
    found = resampled_precisions({"arm": [logits, others]}, marks, seed=2)["arm"]
    draws = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40), 4)
    for drawn, row in zip(draws, found, strict=True):
        images = np.repeat(np.arange(40), drawn)
        each = [class_precisions(part[images], marks[images]) for part in (logits, others)]
        np.testing.assert_allclose(row, np.mean(each, axis=0))


def test_classes_are_compared_with_paired_intervals():
    logits, marks = draw(400)
    marks[:, 4] = 0
    marks[3:, 3] = 0  # too few images for an interval
    better = logits + 3 * (marks > 0)
    arms = {"baseline": logits, "described": better}
    predictions = {arm: [MULTI_LABEL.predictions(np.arange(400), marks, each)] for arm, each in arms.items()}
    groups = [*np.arange(5)[:, None], np.arange(3)]
    *classes, few, none, together = MULTI_LABEL.compare_classes(predictions, "described", "baseline", groups)
    for label, found in enumerate(classes):
        truth = marks[:, label]
        means = [metrics.average_precision_score(truth, each[:, label]) for each in arms.values()]
        assert list(found.accuracy.values()) == pytest.approx(means)
        assert found.test_images == truth.sum()
        assert 0 < found.low < found.difference < found.high
        assert found.intervals["baseline"][0] < found.accuracy["baseline"] < found.intervals["baseline"][1]
    assert (few.low, few.intervals) == (None, {}) and few.difference is not None
    assert (none.test_images, none.difference, none.accuracy) == (0, None, {"baseline": None, "described": None})
    assert together.difference == pytest.approx(np.mean([found.difference for found in classes]))
    assert together.high - together.low < min(found.high - found.low for found in classes)


def test_answers_are_the_labels_from_their_thresholds_on():
    logits = np.array([[2.0, -1.0, 3.0], [-2.0, -2.0, -3.0]])
    marks = np.array([[1, -1, 1], [0, 1, 0]], dtype=np.int8)
    found = MULTI_LABEL.predictions(np.arange(2), marks, logits, [0.5, 0.2, 0.96])
    assert [name for name, _ in found.answers(["ant", "bee", "cow"])] == ["ant, bee", "none"]
    assert found.truths(["ant", "bee", "cow"]) == ["ant, cow", "bee"]
    assert found.answers("abc")[0][1] == pytest.approx((expit(2) + expit(-1)) / 2)
    assert found.correct.tolist() == [False, False]
    lower = replace(found, thresholds=np.array([0.5, 0.1, 0.9]))
    assert lower.correct.tolist() == [True, True]  # what is said of an unknown label is neither right nor wrong
    p = expit(logits)
    assert found.plausibility == pytest.approx([(p[0, 0] + p[0, 2]) / 2, (1 - p[1, 0] + p[1, 1] + 1 - p[1, 2]) / 3])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"label_loss": "gce", "label_smoothing": 0.0}, "label_loss to cross-entropy or asymmetric"),
        ({"label_loss": "asymmetric"}, "set label_smoothing to 0"),
        ({"logit_adjustment": "loss"}, "set it to none"),
        ({"class_weights": "balanced"}, "set it to none"),
        ({"class_sampling": "balanced"}, "class_sampling .*set it to natural"),
        ({"consistency": 1.0}, r"set it to 0\.$"),
    ],
)
def test_settings_of_one_class_an_image_are_refused_with_the_fix(settings, said):
    recipe = Recipe(**settings)
    with pytest.raises(ConfigError, match=said):
        MULTI_LABEL.check(recipe, recipe.label_smoothing)
