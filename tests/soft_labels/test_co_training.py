"""Co-training: the pool by a plain loop, what it gains from two views, and what it never looks at."""

import math

import numpy as np
import pytest

from gpt4image.soft_labels import label_by_texts
from gpt4image.soft_labels.co_training import MOST_ROUNDS, co_train, pool_views
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples, FitSettings, Method, Rows
from support.labelling_parts import WordEncoder, informative_texts, make_store, make_table

CLASSES, ROWS = 4, 400
SETTINGS = FitSettings(None, 5, 0, "cpu")
EXAMPLES = Examples(np.eye(CLASSES, 8), np.arange(CLASSES))
METHOD = Method("class texts", examples=True, strength=3.0)


def two_views(noise=(0.9, 0.9), count=6, seed=0):
    """Return true classes, vectors of two kinds that are independent given the class, and `count` labels a class."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, CLASSES, ROWS)
    views = [np.eye(CLASSES, 8)[true] + spread * generator.normal(size=(ROWS, 8)) for spread in noise]
    given = np.full(ROWS, -1)
    for value in range(CLASSES):
        given[np.flatnonzero(true == value)[:count]] = value
    return true, given, *views


def trained(given, text, image):
    return co_train(Rows.of(text, given, np.arange(ROWS), CLASSES, EXAMPLES), image, METHOD, SETTINGS)


def test_pool_equals_a_plain_loop():
    generator = np.random.default_rng(0)
    text, image = (np.log(generator.dirichlet(np.ones(3), 5)) for _ in range(2))
    shares = np.array([0.5, 0.3, 0.2])
    found = pool_views(text, image, shares, weight=0.7)
    for row in range(5):
        r = [math.exp(text[row, k]) ** 0.7 * math.exp(image[row, k]) ** 0.3 / shares[k] for k in range(3)]
        for value in range(3):
            assert math.exp(found[row, value]) == pytest.approx(r[value] / sum(r), rel=1e-12)


@pytest.mark.slow
def test_two_views_together_label_better_than_either():
    true, given, text, image = two_views((0.5, 0.5), count=8)
    free, found = given < 0, trained(given, text, image)
    alone = trained(given, text, np.zeros_like(image)).logits  # one and the same image says nothing
    for view in (text, image):
        plain = label_rows(view, given, np.arange(ROWS), CLASSES, strength=3.0).out_of_fold
        assert (found.logits.argmax(axis=1) == true)[free].mean() > (plain.argmax(axis=1) == true)[free].mean() + 0.02
    assert (found.logits.argmax(axis=1) == true)[free].mean() > (alone.argmax(axis=1) == true)[free].mean() + 0.02
    assert found.accuracies[-1] > found.accuracies[0]


def test_images_that_know_nothing_do_no_harm():
    true, given, text, image = two_views((0.5, 0.9), count=10)
    rows = Rows.of(text, given, np.arange(ROWS), CLASSES, EXAMPLES)
    plain = METHOD.label(rows, SETTINGS)[:ROWS].argmax(axis=1)
    together = trained(given, text, np.random.default_rng(1).permutation(image)).logits.argmax(axis=1)
    free = given < 0
    assert (together == true)[free].mean() > (plain == true)[free].mean() - 0.03


def test_rounds_end_when_out_of_fold_accuracy_falls():
    _, given, text, image = two_views((0.9, 1.5))
    *rising, last = trained(given, text, image).accuracies
    assert rising == sorted(rising)
    assert len(rising) == MOST_ROUNDS or last < rising[-1]


def test_a_label_has_no_part_in_its_own_judgement(monkeypatch):
    """Temperatures are fitted to all labels together, so they are held."""
    monkeypatch.setattr("gpt4image.soft_labels.co_training.fit_temperature", lambda *_: 0.5)
    monkeypatch.setattr("gpt4image.soft_labels.co_training.MOST_ROUNDS", 2)
    _, given, text, image = two_views()
    row = int(np.flatnonzero(given == 0)[0])
    other = given.copy()
    other[row] = 1
    folds = np.random.default_rng(0).permutation(ROWS) % 5
    monkeypatch.setattr("gpt4image.soft_labels.co_training.deal_out", lambda labels, *_: np.resize(folds, len(labels)))
    monkeypatch.setattr("gpt4image.soft_labels.co_training._Views.shares", np.full(CLASSES, 1 / CLASSES))
    one, two = (trained(labels, text, image) for labels in (given, other))
    np.testing.assert_array_equal(one.logits[row], two.logits[row])
    assert not np.array_equal(one.logits[given < 0], two.logits[given < 0])


@pytest.mark.slow
def test_text_labels_take_a_partner_and_are_kept_apart_from_others(tmp_path):
    true = [number % 3 for number in range(120)]
    given = [label if number < 15 else -1 for number, label in enumerate(true)]
    images = make_table(given, ("ant", "bee", "cow"))
    words = make_store(images, informative_texts(true, images.classes), tmp_path / "words")
    pictures = make_store(
        images, informative_texts(true, images.classes, seed=1), tmp_path / "pictures", WordEncoder("pixels")
    )
    alone = label_by_texts(images, [words], tmp_path / "labels", encoders=[WordEncoder()])
    both = label_by_texts(images, [words], tmp_path / "both", encoders=[WordEncoder()], partner=pictures)
    assert alone.manifest.origin != both.manifest.origin
    assert [source.name for source in both.manifest.origin.sources] == ["words", "pixels"]
    assert "co-trained with images" in both.manifest.estimate.method
    assert (both.take(both.find(images.ids)).argmax(axis=1) == true).mean() > 0.9
