"""Masks: IoU against torchmetrics, intervals against repeated images, settings that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from gpt4image import Recipe
from gpt4image.core.errors import ConfigError
from gpt4image.images.masks import VOID, encode_mask
from gpt4image.tasks.detection import DETECTION, GIVEN, SHOWN
from gpt4image.tasks.mask_metrics import class_ious, image_ious, mean_iou, resampled_ious, sum_classes
from gpt4image.tasks.segmentation import SEGMENTATION, MaskLabel

CLASSES, SIDE = 4, 8
NO_BOX = np.full((1, 5), -1, np.float32)


def draw(images=12, seed=0, right=0.7):
    """Masks [N, 64] with void pixels, in which class 3 is missing, and predictions that are partly right."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES - 1, (images, SIDE * SIDE)).astype(np.uint8)
    guessed = generator.integers(0, CLASSES - 1, truth.shape).astype(np.uint8)
    predicted = np.where(generator.random(truth.shape) < right, truth, guessed)
    truth[generator.random(truth.shape) < 0.1] = VOID
    truth[0] = np.where(truth[0] == VOID, VOID, 1)
    return predicted, truth


def judge(predicted, truth):
    metric = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=VOID)
    metric.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
    return metric.compute().numpy()


def test_iou_of_classes_and_images_equals_torchmetrics():
    predicted, truth = draw()
    sums, expected = sum_classes(predicted, truth, CLASSES), judge(predicted, truth)
    np.testing.assert_allclose(class_ious(sums)[:3], expected[:3], rtol=1e-6)
    assert np.isnan(class_ious(sums)[3])
    for at, score in enumerate(image_ious(sums)):
        occurs = sums.unions[at] > 0
        assert score == pytest.approx(judge(predicted[[at]], truth[[at]])[occurs].mean(), rel=1e-6)
    metrics = (MulticlassJaccardIndex, "macro"), (MulticlassAccuracy, "micro")
    both = [metric(CLASSES, average=average, ignore_index=VOID) for metric, average in metrics]
    pair = [torch.from_numpy(each).long() for each in (predicted, truth)]
    assert mean_iou(sums) == pytest.approx([float(metric(*pair)) for metric in both], rel=1e-6)
    assert mean_iou(sum_classes(predicted, np.full_like(truth, VOID), CLASSES)) == (None, None)


def test_resampled_ious_are_those_of_repeated_images():
    predicted, truth = draw()
    found = resampled_ious({"a": [sum_classes(predicted, truth, CLASSES)]}, seed=3)["a"]
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), 500)
    rows = np.repeat(np.arange(12), draws[7])
    expected = class_ious(sum_classes(predicted[rows], truth[rows], CLASSES))
    np.testing.assert_allclose(found[7, :3], expected[:3])
    assert np.isnan(found[:, 3]).all()
    truth[5:], truth[:5][truth[:5] == 2] = 0, 0
    truth[:4, 0] = 2
    assert np.isnan(resampled_ious({"a": [sum_classes(predicted, truth, CLASSES)]})["a"][:, 2]).all()  # of four images


def test_class_that_no_drawn_image_has_is_not_judged_there():
    truth, predicted = np.zeros((40, 4), np.uint8), np.zeros((40, 4), np.uint8)
    truth[:5, 0], predicted[::8, 1] = 1, 1  # five images have the class, others are predicted to have it
    found = resampled_ious({"a": [sum_classes(predicted, truth, 2)]}, seed=1)["a"][:, 1]
    drawn = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), len(found))[:, :5].any(axis=1)
    assert 0 < (~drawn).sum() < len(drawn)
    np.testing.assert_array_equal(np.isnan(found), ~drawn)


def predictions_of(predicted, truth):
    labels = np.empty(len(truth), dtype=object)
    for at, mask in enumerate(truth):
        labels[at] = MaskLabel(encode_mask(mask.reshape(SIDE, SIDE)), NO_BOX)
    sure = np.full((len(truth), 1), 204, np.uint8)
    return SEGMENTATION.predictions(np.arange(len(truth)), labels, np.hstack([predicted, sure]))


def test_predictions_are_judged_and_put_into_words():
    predicted, truth = draw(right=1.0)
    found = predictions_of(predicted, truth)
    assert found.correct[1:].all() and found.measure()["mean_iou"] > 0.8
    assert SEGMENTATION.validation_score(found.logits, found.labels) == pytest.approx(found.scores.mean())
    names = ["sky", "road", "car", "bus"]
    assert found.truths(names)[0] == "road 100%"
    words, sure = found.answers(names)[1]
    assert set(words.split()[::2]) == {"sky", "road", "car"} and sure == pytest.approx(0.8)


def test_image_is_right_if_each_class_that_it_has_is_half_right_where_known():
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, VOID], [VOID] * 4], np.uint8).repeat(16, axis=1)
    predicted = np.array([[1, 2, 0, 0], [2, 2, 0, 0], [1, 1, 0, 2], [1] * 4], np.uint8).repeat(16, axis=1)
    found, names = predictions_of(predicted, truth), ["sky", "road", "car"]
    assert found.correct.tolist() == [True, False, True, True] and found.classes == 3
    assert found.scores.tolist() == pytest.approx([(1 / 2 + 1 + 0) / 3, 1 / 3, 1, 1])
    words = [found.answers(names)[2][0], *found.truths(names)[2:]]
    assert words == ["road 67%, sky 33%", "road 67%, sky 33%", "none"]


def test_edges_of_both_masks_are_drawn_where_they_are_in_the_picture():
    truth, predicted = np.zeros((1, SIDE, SIDE), np.uint8), np.zeros((1, SIDE, SIDE), np.uint8)
    truth[:, :, 2:], predicted[:, 3:, 4:] = 1, 1
    found = predictions_of(predicted.reshape(1, -1), truth.reshape(1, -1))
    drawn = np.asarray(found.drawn_on(Image.new("RGB", (20, 40)), 0)).astype(int)
    given, shown = ((np.abs(drawn - ImageColor.getrgb(colour)).sum(2) == 0) for colour in (GIVEN, SHOWN))
    assert given.any(axis=0).nonzero()[0].tolist() == [10] and given.sum() == 40  # column 2 of 8, where 40 pixels are 8
    assert shown[15].sum() == 0 and not shown.any()  # its corner, at (20, 15), lies beside the picture
    wide = np.asarray(found.drawn_on(Image.new("RGB", (40, 20)), 0)).astype(int)
    shown = np.abs(wide - ImageColor.getrgb(SHOWN)).sum(2) == 0
    assert shown[15:, 20].all() and shown[15, 20:].all() and shown.sum() == 24


@pytest.mark.parametrize("task", [SEGMENTATION, DETECTION])
def test_loss_is_summed_over_the_images_whose_labels_are_known(task):
    labels = torch.zeros(3, 2, 5)
    labels[1] = torch.nan
    assert task.loss(torch.tensor([[0.5, 0.25]]), labels, Recipe(), None) == 1.5


def test_classes_are_compared_with_intervals_and_missing_ones_have_none():
    runs = {arm: [predictions_of(*draw(right=right))] for arm, right in (("a", 0.9), ("b", 0.6))}
    groups = [np.array([0]), np.array([3]), np.array([0, 1, 2])]
    first, missing, every = SEGMENTATION.compare_classes(runs, "a", "b", groups)
    assert first.low > 0 and first.difference == pytest.approx(first.accuracy["a"] - first.accuracy["b"])
    assert missing.test_images == 0 and missing.difference is None
    assert every.test_images == 12 and every.intervals["a"][0] < every.accuracy["a"] < every.intervals["a"][1]


def test_class_that_no_image_has_does_not_count_for_the_arm_that_predicts_it():
    (predicted, truth), groups = draw(), [np.array([0, 1, 2]), np.arange(CLASSES)]
    more = predicted.copy()
    more[:, 0] = CLASSES - 1
    runs = {arm: [predictions_of(each, truth)] for arm, each in (("a", more), ("b", predicted))}
    known, every = SEGMENTATION.compare_classes(runs, "a", "b", groups)
    assert every.accuracy == known.accuracy and every.difference == known.difference


@pytest.mark.parametrize("setting", [{"mixup": 0.2}, {"label_loss": "gce"}, {"targets": "label"}])
def test_settings_that_mean_nothing_for_masks_are_refused(setting):
    with pytest.raises(ConfigError, match="with masks"):
        SEGMENTATION.check(Recipe(**setting), 0.0)
