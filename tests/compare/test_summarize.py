"""Records of a comparison from made-up predictions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from gpt4image import open_run
from gpt4image.compare.gallery import choose_gallery
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.summarize import RunOutcome, compare_with_baseline, find_candidate, record_comparison, record_run
from gpt4image.probing.verdicts import holm
from gpt4image.tasks.classification import ClassPredictions


def test_metrics_equal_those_of_scikit_learn(work):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 5)), generator.integers(0, 4, 200)  # class 4 never occurs
    run = open_run(work[0] / "runs" / "baseline-0")
    predictions = ClassPredictions(np.arange(200), labels, logits)
    found = record_run(RunOutcome(replace(run, history=[]), predictions))
    classes = logits.argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.test_accuracy == metrics.accuracy_score(labels, classes)
    assert found.negative_log_likelihood == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(5)))
    assert np.array_equal(predictions.confusion, metrics.confusion_matrix(labels, classes, labels=range(5)))
    recalls = metrics.recall_score(labels, classes, labels=range(4), average=None)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
    by_hand = np.zeros((5, 5))
    for label, predicted in zip(labels, classes, strict=True):
        by_hand[label, predicted] += 1
    assert np.array_equal(predictions.confusion, by_hand)


def test_verdict_rests_on_corrected_arms_and_uncorrected_controls():
    """Three arms and a control, of which the candidate gains 4 points on it and 8 on the baseline."""
    generator = np.random.default_rng(0)

    def answers(share):
        return (generator.random((4, 300)) < share).astype(float)

    right = {"baseline": answers(0.5), "described": answers(0.58), "shuffled": answers(0.54), "other": answers(0.5)}
    controls = {arm: "described" if arm == "shuffled" else None for arm in right}
    found = compare_with_baseline("described", right, controls, range(4), 0.01)
    others = {other.arm: other for other in found["others"]}
    assert found["difference"].arm == "described" and list(others) == ["shuffled", "other"]
    p_values = [found["difference"].p_value, others["other"].p_value]
    assert [found["difference"].adjusted_p, others["other"].adjusted_p] == holm(p_values)
    assert others["shuffled"].adjusted_p is None
    (control,) = found["controls"]
    assert (control.arm, control.reference, control.adjusted_p) == ("described", "shuffled", None)
    assert control.mean == pytest.approx((right["described"] - right["shuffled"]).mean())
    assert (control.needed is not None) == (control.mean > 0 >= control.low)
    for each in (found["difference"], others["other"]):
        assert (each.needed is not None) == (each.kind(0.01) == "undecided")
        assert each.low < each.equivalence[0] < each.mean < each.equivalence[1] < each.high


def test_difference_is_described_minus_baseline(work, images, descriptions, store):
    """Made-up predictions: baseline correct on the first two test images, described on all but the first."""
    folder, recipe = work
    real = predict_test_images(open_run(folder / "runs" / "baseline-0"), images)
    count = len(real.labels)

    def predictions(right):
        wrong = (real.labels + 1) % 3
        classes = np.where(np.isin(np.arange(count), right), real.labels, wrong)
        return ClassPredictions(real.rows, real.labels, np.eye(3, dtype=np.float32)[classes] * 4)

    arms = {"baseline": predictions([0, 1]), "described": predictions(range(1, count))}
    runs = {arm: open_run(folder / "runs" / f"{arm}-0") for arm in arms}
    elsewhere = replace(runs["described"], device="64 x abacus")
    outcomes = {arm: [RunOutcome(runs[arm], arms[arm])] for arm in arms} | {
        "described": [RunOutcome(elsewhere, arms["described"])]
    }
    found = record_comparison(images, descriptions, [store], recipe, outcomes)
    assert found.device.startswith(f"{runs['baseline'].device}, 64 x abacus, torch ")
    assert found.difference.mean == pytest.approx((count - 3) / count)
    assert found.difference.covers == "images only"
    assert sum(c.difference * c.test_images for c in found.per_class) == pytest.approx(count - 3)
    by_group = {group.name: group for group in found.groups}
    assert sum(group.test_images for group in found.groups) == count
    assert {name: group.classes for name, group in by_group.items()} == {"few": 3}  # each has fewer than 20 images
    few = by_group["few"]
    known = stats.binomtest(2, count).proportion_ci(method="wilson")
    assert few.intervals["baseline"] == pytest.approx((known.low, known.high))
    assert few.p_value == pytest.approx(stats.binomtest(1, count - 1).pvalue)
    assert sum(each.predictions for each in found.arms[0].reliability) == count
    groups = [item.group for item in choose_gallery(images, descriptions, arms).items]
    assert (groups.count("broken"), groups.count("both right"), groups.count("mended")) == (1, 1, count - 2)


@pytest.mark.parametrize(
    ("arms", "headline"),
    [
        ("baseline self-training text-labels described", "text-labels"),
        ("baseline described text-labels", "described"),
        ("baseline shuffled teacher llm-labels described", "described"),
        ("baseline llm-labels", "llm-labels"),
        ("baseline image-labels shuffled", None),
    ],
)
def test_headline_is_about_the_first_arm_that_learns_from_texts(arms, headline):
    assert find_candidate(arms.split()) == headline
