"""No row is answered by a model that saw it or its like."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.probing import cross_fit as crossfit
from gpt4image.probing.calibration import calibration_error, fit_temperature, measure_quality
from gpt4image.probing.cross_fit import cross_fit

CLASSES = ("a", "b", "c", "d")


def random_vectors(rows, width=64, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def telling_vectors(labels, width=16, seed=0):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(len(labels), width)) + generator.normal(size=(len(CLASSES), width))[labels]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def seen(monkeypatch):
    """Rows that each model was fitted to, in order."""
    rows_of_models = []
    fit = crossfit.fit_softmax_regression

    def noting(*arguments, rows, **settings):
        rows_of_models.append(rows)
        return fit(*arguments, rows=rows, **settings)

    monkeypatch.setattr(crossfit, "fit_softmax_regression", noting)
    return rows_of_models


def test_answers_are_those_of_scikit_learn_on_the_same_folds():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    vectors = telling_vectors(labels)
    found = cross_fit(vectors, labels, np.arange(200), CLASSES, folds=4, strength=2.0)
    assert sorted(set(found.folds.tolist())) == [0, 1, 2, 3]
    for fold in range(4):
        train = found.folds != fold
        model = LogisticRegression(C=2.0, tol=1e-9, max_iter=10_000).fit(vectors[train].astype(float), labels[train])
        expected = model.predict_proba(vectors[~train].astype(float))
        np.testing.assert_allclose(np.exp(found.logits[~train]), expected, atol=1e-4)


def test_random_labels_are_guessed_at_chance():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    vectors = random_vectors(300, width=300)
    model = crossfit.fit_softmax_regression(vectors, labels, 4, strength=30)
    assert (model.log_probabilities(vectors).argmax(axis=1) == labels).mean() == 1
    found = cross_fit(vectors, labels, np.arange(300), CLASSES, strength=30, folds=3)
    assert found.quality.accuracy < 0.33


def test_copies_do_not_vouch_for_each_other():
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(0, 4, 150), 2)
    vectors = np.repeat(random_vectors(150, width=300), 2, axis=0)
    groups = np.repeat(np.arange(150), 2)
    assert cross_fit(vectors, labels, groups, CLASSES, strength=30, folds=4).quality.accuracy < 0.36
    assert cross_fit(vectors, labels, np.arange(300), CLASSES, strength=30, folds=4).quality.accuracy > 0.7


def test_no_model_saw_a_row_it_answers_nor_one_of_its_group(seen):
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 4, 300)
    groups = generator.integers(0, 200, 300) * 7 + 3
    found = cross_fit(random_vectors(300), labels, groups, CLASSES, folds=3)
    assert len(seen) == 3
    for fold, rows in enumerate(seen):
        assert (labels[rows] >= 0).all()
        assert not set(groups[rows]) & set(groups[found.folds == fold])
        assert set(rows) == set(np.flatnonzero((found.folds != fold) & (labels >= 0)))
    strangers = found.folds < 0
    assert strangers.any()
    assert set(groups[strangers]) == set(groups) - set(groups[labels >= 0])
    assert ((labels < 0) & ~strangers).any()


def test_unlabelled_rows_get_the_mean_of_all_models(monkeypatch):
    models = []
    fit = crossfit.fit_present
    monkeypatch.setattr(crossfit, "fit_present", lambda *given: models.append(fit(*given)) or models[-1])
    labels = np.random.default_rng(0).integers(0, 4, 120)
    vectors = telling_vectors(labels)
    labels[100:] = -1
    found = cross_fit(vectors, labels, np.arange(120), CLASSES, folds=3)
    expected = np.mean([model.log_probabilities(vectors[100:]) for model in models], axis=0)
    np.testing.assert_allclose(found.logits[100:], expected, atol=1e-5)
    assert found.quality.images == 100
    assert (found.folds[100:] == -1).all()


def test_each_class_is_dealt_out_evenly():
    labels = np.repeat([0, 1, 2, 3], [103, 11, 5, 31])
    found = cross_fit(random_vectors(150), labels, np.arange(150), CLASSES)
    counts = np.stack([np.bincount(found.folds[labels == value], minlength=5) for value in range(4)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_rare_and_missing_classes_get_the_share_of_one_more_row():
    labels = np.repeat([0, 1, 2], [20, 20, 1])
    vectors = telling_vectors(labels)
    found = cross_fit(vectors, labels, np.arange(41), CLASSES, folds=4)
    shares = np.exp(found.logits)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    learned_from = (found.folds != found.folds[40]).sum()
    np.testing.assert_allclose(shares[40, 2:], 1 / (learned_from + 1) / 2, rtol=1e-4)  # two classes share it
    other = found.folds != found.folds[40]
    expected = [1 / ((found.folds != fold).sum() + 1) for fold in found.folds[other]]
    np.testing.assert_allclose(shares[other, 3], expected, rtol=1e-4)


def test_fewer_groups_than_folds():
    labels = np.asarray([0, 0, 1, 1, -1])
    vectors = telling_vectors(labels)
    found = cross_fit(vectors, labels, np.asarray([0, 1, 2, 2, 3]), CLASSES[:2], folds=9)
    assert np.isfinite(found.logits).all()
    models = [
        crossfit.fit_present(vectors, labels, np.asarray(rows), 2, 3.0, None) for rows in ([1, 2, 3], [0, 2, 3], [0, 1])
    ]
    expected = np.mean([model.log_probabilities(vectors[4:]) for model in models], axis=0)
    np.testing.assert_allclose(found.logits[4:], expected, atol=1e-5)


def test_same_input_gives_the_same_and_another_seed_other_folds():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    vectors = telling_vectors(labels)
    first, again, other = (cross_fit(vectors, labels, np.arange(100), CLASSES, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert (first.folds != other.folds).any()


def test_logits_can_be_written_to_a_memory_map(tmp_path):
    labels = np.repeat([0, 1, 2, 3, -1], 10)
    vectors = random_vectors(50)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", mode="w+", dtype=np.float32, shape=(50, 4))
    found = cross_fit(vectors, labels, np.arange(50), CLASSES, out=out)
    assert found.logits is out
    np.testing.assert_array_equal(out, cross_fit(vectors, labels, np.arange(50), CLASSES).logits)


def test_what_cannot_be_cross_fitted_is_refused():
    vectors, labels, groups = random_vectors(8), np.asarray([0, 1] * 4), np.arange(8)
    with pytest.raises(ConfigError, match="at least 2 folds, not 1"):
        cross_fit(vectors, labels, groups, CLASSES, folds=1)
    with pytest.raises(ConfigError, match="do not match"):
        cross_fit(vectors, labels[:7], groups, CLASSES)
    with pytest.raises(ConfigError, match="Label 4 is beyond the 4 classes"):
        cross_fit(vectors, labels * 4, groups, CLASSES)
    with pytest.raises(DataError, match="two classes"):
        cross_fit(vectors, labels * 0, groups, CLASSES)
    with pytest.raises(DataError, match="two classes"):
        cross_fit(vectors, labels * 0 - 1, groups, CLASSES)
    with pytest.raises(DataError, match="one group"):
        cross_fit(vectors, labels, groups * 0, CLASSES)


def test_temperature_undoes_a_known_distortion():
    generator = np.random.default_rng(0)
    honest = log_softmax(generator.normal(size=(20_000, 5)) * 2, axis=1)
    labels = (np.exp(honest).cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    labels = np.minimum(labels, 4)
    for factor in (0.5, 1.0, 3.0):
        assert fit_temperature(honest * factor, labels) == pytest.approx(factor, rel=0.04)
    labels[::2] = -1
    spoilt = honest.copy()
    spoilt[::2] *= -1
    assert fit_temperature(spoilt, labels) == pytest.approx(1, rel=0.05)


def test_a_sample_is_enough_for_the_temperature(monkeypatch):
    from gpt4image.probing import calibration

    generator = np.random.default_rng(0)
    logits = generator.normal(size=(5000, 3))
    labels = (logits + generator.gumbel(size=(5000, 3))).argmax(axis=1)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr(calibration, "FITTED_ON", 2000)
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=0.15)


def test_quality_is_that_of_torchmetrics(monkeypatch):
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    from gpt4image.probing import calibration

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
