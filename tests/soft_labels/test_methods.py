"""The choice of a way to fit the labeller: its regularisation by cross-validation, and when it is left alone."""

import numpy as np
import pytest

from gpt4image.soft_labels import methods
from gpt4image.soft_labels.labelling import _choose, label_rows
from gpt4image.soft_labels.methods import STRENGTH, Examples, FitSettings, Rows

CLASSES = 3


def rows(scale, count, seed=0):
    """Return rows of which `count` of each class have a label; vectors as short as `scale` need a weaker penalty."""
    generator = np.random.default_rng(seed)
    true = np.arange(180) % CLASSES
    vectors = scale * (np.eye(CLASSES, 6)[true] + 0.4 * generator.normal(size=(180, 6)))
    given = np.where(np.arange(180) < CLASSES * count, true, -1)
    return Rows.of(vectors, given, np.arange(180), CLASSES, None)


def chosen(table, strength=None):
    return _choose(table, FitSettings(strength, 5, 0, "cpu"))[0]


@pytest.mark.parametrize(("scale", "expected"), [(0.02, 100.0), (0.3, 10.0)])
def test_strength_follows_the_labels_and_stays_where_they_do_not_tell(scale, expected):
    method = chosen(rows(scale, 12))
    assert (method.strength or STRENGTH) == expected
    assert ("strength 100" in method.title) == (expected == 100)


def test_strength_is_not_chosen_by_two_labels_a_class_or_against_a_given_one():
    assert chosen(rows(0.02, 2)).strength is None
    assert chosen(rows(0.02, 12), strength=5.0).strength is None


@pytest.mark.parametrize("count", [5, 60])
@pytest.mark.slow
def test_labels_are_those_of_vectors_that_are_not_turned_and_fits_that_are_not_shared(monkeypatch, count):
    generator = np.random.default_rng(0)
    true = np.arange(180) % CLASSES
    vectors = 0.3 * (np.eye(CLASSES, 40)[true] + 0.3 * generator.normal(size=(180, 40)))
    vectors = vectors @ generator.normal(size=(40, 40)) + 2
    given = np.where(np.arange(180) < CLASSES * count, true, -1)
    given[:30] = (given[:30] + (generator.random(30) < 0.4)) % CLASSES
    names = Examples(np.stack([vectors[true == value].mean(axis=0) for value in range(CLASSES)]), np.arange(CLASSES))

    def found():
        return label_rows(vectors, given, np.arange(180), CLASSES, names, device="cpu")

    turned = found()
    monkeypatch.setattr(methods, "MOST_TURNED", 0)
    monkeypatch.setattr(methods.Fits, "keep", lambda *_: None)
    plain = found()
    assert turned.method == plain.method
    np.testing.assert_allclose(np.exp(turned.out_of_fold), np.exp(plain.out_of_fold), atol=0.01)
    if count == 60:
        assert turned.wrong.mean == pytest.approx(plain.wrong.mean, abs=0.003)
