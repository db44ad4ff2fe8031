"""Boxes: average precisions against torchmetrics with pycocotools, intervals against repeated images, thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from gpt4image import Recipe
from gpt4image.core.errors import ConfigError
from gpt4image.tasks.box_metrics import (
    best_thresholds,
    image_precisions,
    mean_average_precision,
    overlaps,
    rank_classes,
    resampled_precisions,
)
from gpt4image.tasks.detection import DETECTION, pad_boxes

CLASSES, MOST, KEPT = 3, 4, 12


def draw(images=30, seed=0, noise=0.03):
    """Boxes [N, 4, 5] of up to four objects an image, and detections [N, 12, 6] near them and elsewhere."""
    generator = np.random.default_rng(seed)
    boxes = np.full((images, MOST, 5), -1, np.float32)
    found = np.tile(np.array([-1, 0, 0, 0, 0, 0], np.float32), (images, KEPT, 1))
    for number in range(images):
        objects = int(generator.integers(0, MOST + 1)) if number else 0
        for at in range(objects):
            left, top = generator.uniform(0, 0.6, 2)
            boxes[number, at] = [generator.integers(CLASSES), left, top, left + 0.3, top + generator.uniform(0.1, 0.4)]
        for at in range(int(generator.integers(0, KEPT + 1))):
            row = boxes[number, generator.integers(MOST)]
            corners = np.sort((row[1:] + generator.normal(scale=noise, size=4)).reshape(2, 2), axis=0).ravel()
            label = row[0] if row[0] >= 0 and generator.random() < 0.8 else generator.integers(CLASSES)
            found[number, at] = [label, *corners, round(generator.random(), 2)]  # some scores are equal
    return found, boxes


def judge(found, boxes, *, together=False):
    """Return what torchmetrics says; `together` ranks all classes in one list, by boxes that are apart by class."""
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),  # as COCO has them; the default is rounded to float32
        class_metrics=True,
        backend="pycocotools",
    )
    for own, truth in zip(found, boxes, strict=True):
        parts = []
        for rows in (own[own[:, 0] >= 0], truth[truth[:, 0] >= 0]):
            corners, labels = torch.from_numpy(rows[:, 1:5]), torch.from_numpy(rows[:, 0]).long()
            if together:
                corners, labels = corners + 10 * labels[:, None], torch.zeros_like(labels)
            parts.append({"boxes": corners, "labels": labels})
        metric.update([parts[0] | {"scores": torch.from_numpy(own[own[:, 0] >= 0, 5])}], [parts[1]])
    return metric.compute()


def test_overlaps_equal_those_of_torchvision():
    _, boxes = draw()
    corners = boxes[boxes[..., 0] >= 0][:, 1:]
    expected = box_iou(torch.from_numpy(corners[:20]).double(), torch.from_numpy(corners[20:40]).double())
    np.testing.assert_allclose(overlaps(corners[:20], corners[20:40]), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_average_precisions_of_classes_equal_cocos(noise):
    found, boxes = draw(noise=noise)
    expected = judge(found, boxes)
    precisions = [ranking.precisions for ranking in rank_classes(found, boxes, CLASSES)]
    np.testing.assert_allclose([each.mean() for each in precisions], expected["map_per_class"].numpy(), atol=1e-6)
    both, half = mean_average_precision(found, boxes)
    assert (both, half) == pytest.approx((float(expected["map"]), float(expected["map_50"])))
    assert np.mean([each.mean() for each in precisions]) == pytest.approx(both, abs=1e-6)
    assert np.mean([each[0] for each in precisions]) == pytest.approx(half, abs=1e-6)


def test_mean_average_precision_equals_that_of_pycocotools_alone():
    found, boxes = draw()
    content = {"images": [{"id": n} for n in range(30)], "categories": [{"id": n} for n in range(CLASSES)]}
    given, detected = (
        [to_coco(n, row) for n, part in enumerate(each) for row in part.tolist() if row[0] >= 0]
        for each in (boxes, found)
    )
    truth = COCO()
    truth.dataset = content | {"annotations": [{"id": n, **each} for n, each in enumerate(given, 1)]}
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(detected), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert mean_average_precision(found, boxes) == pytest.approx(tuple(evaluation.stats[:2]))


def to_coco(image, row):
    label, left, top, right, bottom, *score = row
    width, height = right - left, bottom - top
    entry = {"image_id": image, "category_id": int(label), "bbox": [left, top, width, height], "iscrowd": 0}
    return entry | {"area": width * height} | ({"score": score[0]} if score else {})


def test_average_precision_of_an_image_equals_cocos_with_all_classes_in_one_ranking():
    found, boxes = draw()
    scores = image_precisions(found, boxes)
    for own, truth, score in zip(found, boxes, scores, strict=True):
        if (truth[:, 0] >= 0).any():
            assert score == pytest.approx(float(judge(own[None], truth[None], together=True)["map"]), abs=1e-6)
        else:
            assert score == pytest.approx(1 - own[own[:, 0] >= 0, 5].max(initial=0))


def test_resampled_precisions_equal_those_of_images_that_are_repeated(monkeypatch):
    monkeypatch.setattr("gpt4image.tasks.box_metrics.RESAMPLES", 4)
    monkeypatch.setattr("gpt4image.tasks.box_metrics.CHUNK", 100)  # so that several parts are computed
    (found, boxes), (other, _) = draw(20), draw(20, seed=1)
    runs = [rank_classes(each, boxes, CLASSES) for each in (found, other)]
    drawn = resampled_precisions({"arm": runs}, 20, seed=2)["arm"]
    draws = np.random.default_rng(2).multinomial(20, np.full(20, 1 / 20), 4)
    for row, counts in zip(drawn, draws, strict=True):
        again = np.repeat(np.arange(20), counts)
        each = [
            [ranking.precisions.mean() for ranking in rank_classes(part[again], boxes[again], CLASSES)]
            for part in (found, other)
        ]
        np.testing.assert_allclose(row, np.mean(each, axis=0))


def test_thresholds_give_the_best_f1_of_all():
    found, boxes = draw(seed=3)
    rankings = rank_classes(found, boxes, CLASSES + 1)  # of the last there is nothing
    thresholds = best_thresholds(rankings)
    assert thresholds[CLASSES] == 0.5
    for ranking, threshold in zip(rankings[:CLASSES], thresholds, strict=False):

        def f1(limit, ranking=ranking):
            shown = ranking.scores >= limit
            return 2 * ranking.hits[0][shown].sum() / (shown.sum() + ranking.counts.sum())

        assert f1(threshold) == pytest.approx(max(f1(limit) for limit in [*ranking.scores, 2.0]))
    assert DETECTION.fit_thresholds(found.reshape(30, -1), boxes) == thresholds[:CLASSES]


def test_classes_are_compared_with_paired_intervals():
    found, boxes = draw(60)
    worse = found.copy()
    worse[..., 1:5] += 0.04
    arms = {"baseline": worse, "described": found}
    predictions = {
        arm: [DETECTION.predictions(np.arange(60), boxes, each.reshape(60, -1))] for arm, each in arms.items()
    }
    groups = [*np.arange(CLASSES)[:, None], np.arange(CLASSES)]
    *classes, together = DETECTION.compare_classes(predictions, "described", "baseline", groups)
    expected = {arm: judge(each, boxes)["map_per_class"].tolist() for arm, each in arms.items()}
    for label, compared in enumerate(classes):
        assert compared.test_images == (boxes[..., 0] == label).any(axis=1).sum()
        assert {arm: values[label] for arm, values in expected.items()} == pytest.approx(compared.accuracy, abs=1e-6)
        assert 0 < compared.low < compared.difference < compared.high
        assert compared.intervals["baseline"][0] < compared.accuracy["baseline"] < compared.intervals["baseline"][1]
    assert together.difference == pytest.approx(np.mean([each.difference for each in classes]))


def test_answers_are_the_detections_from_their_thresholds_on():
    boxes = np.full((3, 2, 5), -1, np.float32)
    boxes[0, 0], boxes[0, 1], boxes[1, 0] = [1, 0, 0, 0.5, 0.5], [1, 0.5, 0.5, 1, 1], [0, 0, 0, 1, 1]
    found = np.tile(np.array([-1, 0, 0, 0, 0, 0], np.float32), (3, 3, 1))
    found[0, :2] = [[1, 0, 0, 0.5, 0.5, 0.9], [1, 0.5, 0.5, 1, 0.9, 0.7]]
    found[1, 0], found[2, 0] = [0, 0, 0, 1, 1, 0.3], [2, 0, 0, 1, 1, 0.2]
    given = DETECTION.predictions(np.arange(3), boxes, found.reshape(3, -1), [0.4, 0.6, 0.5])
    answers = given.answers(["ant", "bee", "cow"])
    assert [words for words, _ in answers] == ["2 x bee", "none", "none"]
    assert [sure for _, sure in answers] == pytest.approx([0.8, 0.7, 0.8])
    assert given.truths(["ant", "bee", "cow"]) == ["2 x bee", "ant", "none"]
    assert given.correct.tolist() == [True, False, True]
    lower = DETECTION.predictions(np.arange(3), boxes, found.reshape(3, -1), [0.2, 0.6, 0.1])
    assert lower.correct.tolist() == [True, True, False]


def test_boxes_are_in_shares_of_the_longer_side_and_unknown_ones_are_nan():
    boxes = [np.array([[2, 10, 20, 30, 40]], np.float32), None, np.zeros((0, 5), np.float32)]
    padded = pad_boxes(boxes, np.array([[40, 80], [1, 1], [7, 7]]))
    np.testing.assert_allclose(padded[0], [[2, 0.125, 0.25, 0.375, 0.5]])
    assert np.isnan(padded[1]).all() and (padded[2] == -1).all()


def test_loss_is_a_sum_over_the_images_whose_boxes_are_known():
    targets = torch.full((4, 2, 5), -1.0)
    targets[3] = torch.nan
    loss = DETECTION.loss(torch.tensor([[0.5, 0.25]]), targets, Recipe(), None)
    assert loss.item() == pytest.approx(3 * 0.75)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mixup": 0.2}, "mixup does not work with boxes: set it to 0"),
        ({"auto_augment": "rand-m9"}, "set it to none"),
        ({"label_loss": "gce", "label_smoothing": 0.0}, "set it to cross-entropy"),
        ({"targets": "label"}, "set targets to same"),
        ({"freeze": ("body",), "cached_views": 2}, "cached_views"),
    ],
)
def test_settings_that_mean_nothing_for_boxes_are_refused_with_the_fix(settings, said):
    with pytest.raises(ConfigError, match=said):
        DETECTION.check(Recipe(**settings), 0.0)
