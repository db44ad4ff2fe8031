"""Texts compared with image features, on data with known truth."""

import numpy as np
import pytest

from gpt4image.core.errors import DescriptionError
from gpt4image.core.format import MINUS
from gpt4image.quality.check_record import PairedGap
from gpt4image.quality.knowledge import choose_images, measure_knowledge, weigh_up

CLASSES = ("ant", "bee", "cat")


def view(labels, signal, seed, width=12):
    """Noisy vectors of the label: views of equal signal and width are equally informative."""
    noise = np.random.default_rng([seed, width]).standard_normal((len(labels), width))
    return (signal * np.eye(len(CLASSES), width)[labels] + noise).astype(np.float32)


def draw_labels(size=240, seed=0):
    return np.random.default_rng(seed).integers(0, len(CLASSES), size)


def measure(text, image, labels, groups=None, **options):
    groups = np.arange(len(labels)) if groups is None else groups
    return measure_knowledge(text, image, labels, groups, CLASSES, **options)


def test_informative_texts_know_more():
    labels = draw_labels()
    found = measure(view(labels, 4, 1), view(labels, 1.5, 2), labels)
    assert found.verdict == "more"
    assert 0 < found.text_over_image.low < found.text_over_image.mean < found.text_over_image.high
    assert found.text_over_image.mean == pytest.approx(found.text.accuracy - found.image.accuracy)
    assert found.mended > 0.5 > found.broken
    assert "no guarantee" in found.advice
    assert found.text.low < found.text.accuracy < found.text.high


def test_noisy_texts_know_less():
    labels = draw_labels()
    found = measure(view(labels, 1.5, 1), view(labels, 4, 2), labels)
    assert found.verdict == "less"
    assert found.text_over_image.high < 0
    assert "Do not train on these texts" in found.advice


@pytest.mark.slow
def test_equally_informative_texts_are_rarely_called_better_or_worse():
    verdicts = []
    for seed in range(10):
        labels = draw_labels(120, seed)
        verdicts.append(measure(view(labels, 2, 2 * seed), view(labels, 2, 2 * seed + 1), labels, seed=seed).verdict)
    # two independent views of a class know more together than each alone
    assert verdicts.count("same") + verdicts.count("adds") >= 9


def test_same_does_not_claim_equality():
    gap = PairedGap(mean=0.01, low=-0.04, high=0.06)
    verdict, title, _ = weigh_up(gap, gap, 0.2)
    assert verdict == "same"
    assert "not shown" in title
    assert f"+1.0 points (95% interval {MINUS}4.0 to +6.0)" in title


LESS, UNCLEAR = PairedGap(mean=-0.07, low=-0.1, high=-0.04), PairedGap(mean=0.015, low=-0.02, high=0.05)
MORE = PairedGap(mean=0.082, low=0.045, high=0.122)


@pytest.mark.parametrize(
    ("text", "both", "verdict"),
    [
        (MORE, MORE, "more"),
        (UNCLEAR, MORE, "adds"),
        (LESS, MORE, "adds"),
        (LESS, UNCLEAR, "less"),
        (UNCLEAR, UNCLEAR, "same"),
    ],
)
def test_title_and_advice_agree(text, both, verdict):
    """Training is advised where the texts are better or add something, and only there."""
    found, title, advice = weigh_up(text, both, 0.4)
    assert found == verdict
    assert ("+8.2 points" in title) == (verdict in ("more", "adds"))
    assert ("worth a try" in advice) == (verdict in ("more", "adds"))
    assert ("not count on a gain" in advice or "Do not train" in advice) == (verdict in ("same", "less"))


@pytest.mark.slow
def test_both_together_combine_their_knowledge():
    """Texts separate ants from the rest, features bees from cats."""
    labels = draw_labels(300)
    generator = np.random.default_rng(3)
    text = np.stack([4.0 * (labels == 0), np.zeros(300)], axis=1) + generator.standard_normal((300, 2))
    image = np.stack([4.0 * (labels == 1), np.zeros(300)], axis=1) + generator.standard_normal((300, 2))
    found = measure(text, image, labels)
    assert found.both.accuracy > max(found.text.accuracy, found.image.accuracy) + 0.1
    assert found.both_over_image.low > 0


@pytest.mark.slow
def test_copies_share_a_fold():
    """The features identify the image and nothing else."""
    labels = np.repeat(draw_labels(80), 3)
    images = np.repeat(np.arange(80), 3)
    noise = np.random.default_rng(0).standard_normal((80, 64))[images]
    honest = measure(view(labels, 3, 1), noise, labels, images)
    leaky = measure(view(labels, 3, 1), noise, labels)
    assert leaky.image.accuracy > 0.9
    assert honest.image.accuracy < 0.5
    assert honest.image.high - honest.image.low > 1.3 * 2 * 1.96 * (0.25 / 240) ** 0.5 * 0.9


@pytest.mark.slow
def test_scale_and_offset_of_vectors_do_not_matter():
    labels = draw_labels(150)
    text, image = view(labels, 3, 1), view(labels, 2, 2)
    plain, changed = measure(text, image, labels), measure(text, 1000 * image + 77, labels)
    assert changed.image.accuracy == pytest.approx(plain.image.accuracy, abs=0.03)


def test_constant_features_know_nothing():
    labels = draw_labels(150)
    found = measure(view(labels, 3, 1), np.ones((150, 4)), labels)
    assert found.image.accuracy <= found.chance + 0.02
    assert found.verdict == "more"


def test_per_class_numbers_add_up():
    labels = draw_labels(180)
    found = measure(view(labels, 3, 1), view(labels, 2, 2), labels)
    assert [record.name for record in found.per_class] == list(CLASSES)
    for side in ("text", "image", "both"):
        weighted = sum(getattr(record, side) * record.images for record in found.per_class) / found.images
        assert weighted == pytest.approx(getattr(found, side).accuracy)
    assert found.chance == pytest.approx(np.bincount(labels).max() / 180)


def test_rare_classes_and_unlabelled_images_are_left_out():
    labels = draw_labels(150)
    labels[labels == 2] = 0
    labels[:4] = 2
    labels[10:20] = -1
    found = measure(view(labels, 3, 1), view(labels, 2, 2), labels)
    assert found.left_out == {"cat": 4}
    assert found.images == 136
    assert [record.name for record in found.per_class] == ["ant", "bee"]


def test_class_of_few_groups_is_left_out_however_many_images_it_has():
    labels = draw_labels(150)
    groups = np.arange(150)
    groups[labels == 2] = 150 + np.arange((labels == 2).sum()) % 4
    found = measure(view(labels, 3, 1), view(labels, 2, 2), labels, np.unique(groups, return_inverse=True)[1])
    assert list(found.left_out) == ["cat"]


def test_class_in_five_groups_is_classified():
    labels = np.concatenate([np.zeros(60, dtype=int), np.ones(60, dtype=int), np.full(5, 2)])
    found = measure(view(labels, 6, 1), view(labels, 2, 2), labels)
    assert found.left_out == {}
    assert found.per_class[2].images == 5


@pytest.mark.parametrize("labels", [np.zeros(100, dtype=int), np.full(100, -1), np.arange(30) % 3])
def test_too_few_images_or_classes_is_an_error(labels):
    with pytest.raises(DescriptionError, match="50 images in two classes"):
        measure(view(labels, 3, 1), view(labels, 2, 2), labels)


def test_large_sets_are_sampled(monkeypatch):
    monkeypatch.setattr("gpt4image.quality.knowledge.MAX_IMAGES", 100)
    monkeypatch.setattr("gpt4image.quality.knowledge.MAX_CLASSES", 4)
    labels = np.arange(600) % 10
    rows = choose_images(labels, np.arange(600), 10, seed=0)
    assert len(rows) == 100
    assert len(set(labels[rows])) == 4
    assert np.array_equal(rows, choose_images(labels, np.arange(600), 10, seed=0))
    assert not np.array_equal(rows, choose_images(labels, np.arange(600), 10, seed=1))


@pytest.mark.slow
def test_masked_texts_are_measured():
    labels = draw_labels(150)
    found = measure(view(labels, 4, 1), view(labels, 2, 2), labels, masked_vectors=view(labels, 1, 3))
    assert found.masked.accuracy < found.text.accuracy


def test_perfect_features_have_no_errors_to_fix():
    labels = draw_labels(150)
    found = measure(view(labels, 2, 1), view(labels, 60, 2), labels)
    assert found.image.accuracy == 1
    assert found.mended is None
    assert found.image.low == found.image.high == 1


@pytest.mark.slow
def test_results_are_deterministic():
    labels = draw_labels(120)
    text, image = view(labels, 3, 1), view(labels, 2, 2)
    assert measure(text, image, labels) == measure(text, image, labels)
