"""Two arms, their seeds, and records that add up."""

import numpy as np
import pytest

from gpt4image import compare_arms, open_run, write_report
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison, Gallery
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.train.spec import ARMS, Arm


@pytest.fixture(scope="module")
def work(images, descriptions, store, tmp_path_factory):
    from gpt4image import Recipe

    folder = tmp_path_factory.mktemp("compare")
    recipe = Recipe(backbone="resnet10t", pretrained=False, image_size=32, epochs=2, batch_size=8, lr=2e-3)
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    return folder, recipe


def test_records_follow_from_the_answers(work, images):
    folder, _ = work
    comparison = Comparison.load(folder / "comparison.json")
    right = {}
    for arm in comparison.arms:
        for run in arm.runs:
            answers = predict_test_images(open_run(folder / "runs" / f"{arm.name}-{run.seed}"), images)
            right[arm.name, run.seed] = answers.logits.argmax(axis=1) == answers.labels
            assert run.test_accuracy == pytest.approx(right[arm.name, run.seed].mean())
        assert np.sum(arm.confusion) == 2 * len(images.split("test"))
    expected = [right["described", s].mean() - right["baseline", s].mean() for s in (0, 1)]
    assert comparison.difference.per_seed == pytest.approx(expected)
    assert comparison.difference.mean == pytest.approx(np.mean(expected))
    assert comparison.difference.low <= comparison.difference.mean <= comparison.difference.high
    weighted = sum(c.difference * c.test_images for c in comparison.per_class) / len(images.split("test"))
    assert weighted == pytest.approx(comparison.difference.mean)
    assert (
        comparison.data.images == {"train": 24, "validation": 3, "test": 9}
        or sum(comparison.data.images.values()) == 36
    )


def test_gallery_groups_say_what_the_answers_say(work):
    gallery = Gallery.load(work[0] / "gallery.json")
    assert gallery.items
    for item in gallery.items:
        before, after = (item.answers[arm].right for arm in ("baseline", "described"))
        expected = {(False, True): "mended", (True, False): "broken", (True, True): "both right"}
        assert item.group == expected.get((before, after), "both wrong")
        assert item.label in item.description


def test_finished_runs_are_not_trained_again(work, images, descriptions, store):
    folder, recipe = work
    weights = sorted(folder.glob("runs/*/best.safetensors"))
    assert len(weights) == 4
    before = [path.stat().st_mtime_ns for path in weights]
    again = compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert [path.stat().st_mtime_ns for path in weights] == before
    first = Comparison.load(folder / "comparison.json")
    assert again.difference == first.difference


def test_report_is_written(work):
    page = write_report(work[0]).read_text()
    assert "with descriptions" in page
    assert "A red disc" in page


def test_seeds_and_stores_are_checked(work, images, descriptions, store, minilm, tmp_path):
    from gpt4image import embed_descriptions
    from gpt4image.descriptions.description_set import join_texts

    folder, recipe = work
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ConfigError, match="different numbers"):
            compare_arms(images, descriptions, store, recipe, folder, seeds=seeds)
    other = join_texts(images, [(images.ids[0].decode(), "other")], 0, "other")
    with pytest.raises(StoreError, match="other descriptions"):
        compare_arms(images, descriptions, embed_descriptions(other, minilm, tmp_path / "o"), recipe, folder)


def test_difference_is_described_minus_baseline(work, images, descriptions, store):
    """Answers made by hand: baseline right on the first two test images, described on all but one."""
    from gpt4image.compare.gallery import choose_gallery
    from gpt4image.compare.predictions import Predictions
    from gpt4image.compare.summarize import RunOutcome, record_comparison

    folder, recipe = work
    real = predict_test_images(open_run(folder / "runs" / "baseline-0"), images)
    count = len(real.labels)

    def answered(right):
        wrong = (real.labels + 1) % 3
        answers = np.where(np.isin(np.arange(count), right), real.labels, wrong)
        return Predictions(real.rows, real.labels, np.eye(3, dtype=np.float32)[answers] * 4)

    answers = {"baseline": answered([0, 1]), "described": answered(range(1, count))}
    runs = {arm: open_run(folder / "runs" / f"{arm}-0") for arm in answers}
    outcomes = {arm: [RunOutcome(runs[arm], answers[arm])] for arm in answers}
    found = record_comparison(images, descriptions, [store], recipe, outcomes)
    assert found.difference.mean == pytest.approx((count - 3) / count)
    assert found.difference.covers == "images only"
    assert sum(c.difference * c.test_images for c in found.per_class) == pytest.approx(count - 3)
    groups = [item.group for item in choose_gallery(images, descriptions, answers).items]
    assert (groups.count("broken"), groups.count("both right"), groups.count("mended")) == (1, 1, count - 2)


def test_added_arm_is_trained_and_reported(work, images, descriptions, store, monkeypatch):
    folder, recipe = work
    monkeypatch.setitem(ARMS._entries, "smoothed", Arm("smoothed", "smoother labels", False, {"label_smoothing": 0.3}))
    comparison = compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    assert [arm.name for arm in comparison.arms] == ["baseline", "described", "smoothed"]
    assert open_run(folder / "runs" / "smoothed-0").recipe.label_smoothing == 0.3
    assert (comparison.difference.arm, comparison.difference.reference) == ("described", "baseline")
    assert "smoother labels" in write_report(folder).read_text()
