"""Cross-fitting: no model predicts a row that it, or a row of the same leakage group, was fitted to."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gpt4image.core.errors import ConfigError, DataError
from gpt4image.probing import cross_fit as crossfit
from gpt4image.probing import fitter as fitting
from gpt4image.probing.cross_fit import STRENGTHS, Refits, choose_strengths, cross_fit
from gpt4image.probing.fitter import Fits, Fitter
from gpt4image.probing.logistic_regression import standardise

CLASSES = ("a", "b", "c", "d")


def random_vectors(rows, width=64, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def informative_vectors(labels, width=16, seed=0):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(len(labels), width)) + generator.normal(size=(len(CLASSES), width))[labels]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def seen(monkeypatch):
    """Record the rows that each model was fitted to."""
    rows_of_models = []
    fit = fitting.fit_softmax_regression

    def record(*arguments, rows, **settings):
        rows_of_models.append(rows)
        return fit(*arguments, rows=rows, **settings)

    monkeypatch.setattr(fitting, "fit_softmax_regression", record)
    return rows_of_models


def test_predictions_equal_scikit_learn_on_the_same_folds():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    vectors = informative_vectors(labels)
    found = cross_fit(vectors, labels, np.arange(200), 4, folds=4, strength=2.0)
    assert sorted(set(found.folds.tolist())) == [0, 1, 2, 3]
    for fold in range(4):
        train = found.folds != fold
        model = LogisticRegression(C=2.0, tol=1e-9, max_iter=10_000).fit(vectors[train].astype(float), labels[train])
        expected = model.predict_proba(vectors[~train].astype(float))
        np.testing.assert_allclose(np.exp(found.logits[~train]), expected, atol=1e-4)


def test_random_labels_are_predicted_at_chance_level():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    vectors = random_vectors(300, width=300)
    model = fitting.fit_softmax_regression(vectors, labels, 4, strength=30)
    assert (model.log_probabilities(vectors).argmax(axis=1) == labels).mean() == 1
    found = cross_fit(vectors, labels, np.arange(300), 4, strength=30, folds=3)
    assert found.quality.accuracy < 0.33


def test_copies_in_one_group_leak_nothing():
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(0, 4, 150), 2)
    vectors = np.repeat(random_vectors(150, width=300), 2, axis=0)
    groups = np.repeat(np.arange(150), 2)
    assert cross_fit(vectors, labels, groups, 4, strength=30, folds=4).quality.accuracy < 0.36
    assert cross_fit(vectors, labels, np.arange(300), 4, strength=30, folds=4).quality.accuracy > 0.7


def test_models_are_fitted_to_all_other_folds_without_the_group(seen):
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 4, 300)
    groups = generator.integers(0, 200, 300) * 7 + 3
    found = cross_fit(random_vectors(300), labels, groups, 4, folds=3)
    assert len(seen) == 3
    for fold, rows in enumerate(seen):
        assert (labels[rows] >= 0).all()
        assert not set(groups[rows]) & set(groups[found.folds == fold])
        assert set(rows) == set(np.flatnonzero((found.folds != fold) & (labels >= 0)))
    ungrouped = found.folds < 0
    assert ungrouped.any()
    assert set(groups[ungrouped]) == set(groups) - set(groups[labels >= 0])
    assert ((labels < 0) & ~ungrouped).any()


def test_unlabelled_rows_get_the_mean_of_all_models(monkeypatch):
    models = []
    fit = Fitter.fit
    monkeypatch.setattr(Fitter, "fit", lambda *given: models.append(fit(*given)) or models[-1])
    labels = np.random.default_rng(0).integers(0, 4, 120)
    vectors = informative_vectors(labels)
    labels[100:] = -1
    found = cross_fit(vectors, labels, np.arange(120), 4, folds=3)
    expected = np.mean([model.log_probabilities(vectors[100:]) for model in models], axis=0)
    np.testing.assert_allclose(found.logits[100:], expected, atol=1e-5)
    assert found.quality.images == 100
    assert (found.folds[100:] == -1).all()


def test_folds_hold_equal_shares_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [103, 11, 5, 31])
    found = cross_fit(random_vectors(150), labels, np.arange(150), 4)
    counts = np.stack([np.bincount(found.folds[labels == value], minlength=5) for value in range(4)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_absent_classes_share_the_probability_of_one_more_row():
    labels = np.repeat([0, 1, 2], [20, 20, 1])
    vectors = informative_vectors(labels)
    found = cross_fit(vectors, labels, np.arange(41), 4, folds=4)
    shares = np.exp(found.logits)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    training_rows = (found.folds != found.folds[40]).sum()
    np.testing.assert_allclose(shares[40, 2:], 1 / (training_rows + 1) / 2, rtol=1e-4)  # two classes share it
    other = found.folds != found.folds[40]
    expected = [1 / ((found.folds != fold).sum() + 1) for fold in found.folds[other]]
    np.testing.assert_allclose(shares[other, 3], expected, rtol=1e-4)


def test_fewer_groups_than_folds_leave_folds_unused():
    labels = np.asarray([0, 0, 1, 1, -1])
    vectors = informative_vectors(labels)
    found = cross_fit(vectors, labels, np.asarray([0, 1, 2, 2, 3]), 2, folds=9)
    assert np.isfinite(found.logits).all()
    models = [Fitter(vectors, labels, 2).fit(np.asarray(rows), 3.0) for rows in ([1, 2, 3], [0, 2, 3], [0, 1])]
    expected = np.mean([model.log_probabilities(vectors[4:]) for model in models], axis=0)
    np.testing.assert_allclose(found.logits[4:], expected, atol=1e-5)


def test_seed_decides_the_folds_and_nothing_else_is_random():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    vectors = informative_vectors(labels)
    first, again, other = (cross_fit(vectors, labels, np.arange(100), 4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert (first.folds != other.folds).any()


def test_logits_fill_a_given_memory_map(tmp_path):
    labels = np.repeat([0, 1, 2, 3, -1], 10)
    vectors = random_vectors(50)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", mode="w+", dtype=np.float32, shape=(50, 4))
    found = cross_fit(vectors, labels, np.arange(50), 4, out=out)
    assert found.logits is out
    np.testing.assert_array_equal(out, cross_fit(vectors, labels, np.arange(50), 4).logits)


def test_invalid_arguments_are_rejected():
    vectors, labels, groups = random_vectors(8), np.asarray([0, 1] * 4), np.arange(8)
    with pytest.raises(ConfigError, match="at least 2 folds, not 1"):
        cross_fit(vectors, labels, groups, 4, folds=1)
    with pytest.raises(ConfigError, match="do not match"):
        cross_fit(vectors, labels[:7], groups, 4)
    with pytest.raises(ConfigError, match="Label 4 is beyond the 4 classes"):
        cross_fit(vectors, labels * 4, groups, 4)
    with pytest.raises(DataError, match="two classes"):
        cross_fit(vectors, labels * 0, groups, 4)
    with pytest.raises(DataError, match="two classes"):
        cross_fit(vectors, labels * 0 - 1, groups, 4)
    with pytest.raises(DataError, match="one group"):
        cross_fit(vectors, labels, groups * 0, 4)


def wide_vectors(labels):
    """Vectors of 3 informative and 600 noisy numbers, which need strong regularisation."""
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(len(labels), 603)) * np.repeat([1.0, 2.0], [3, 600])
    vectors[np.arange(len(labels)), labels] += 3
    return standardise(vectors)


def test_strength_is_chosen_among_several_without_the_judged_rows():
    labels = np.random.default_rng(0).integers(0, 3, 120)
    vectors, groups = wide_vectors(labels), np.arange(120)
    settings = {"tolerance": 1e-4, "device": "cpu"}
    chosen = cross_fit(vectors, labels, groups, 3, strength=STRENGTHS, **settings).quality.accuracy
    fixed = [cross_fit(vectors, labels, groups, 3, strength=s, **settings).quality.accuracy for s in STRENGTHS]
    assert min(fixed) < chosen
    assert chosen >= max(fixed) - 0.06


def test_choice_of_strength_counts_only_folds_that_the_model_learns_from(monkeypatch):
    """Fold 0's rows are the only ones that a weak regularisation predicts right: fold 0's own model ignores that."""
    labels, fold_of = np.asarray([0, 1] * 15), np.repeat([0, 1, 2], 10)
    fits = []

    class Model:
        def __init__(self, strength):
            self.strength = strength

        def log_probabilities(self, rows):
            right = (fold_of[rows] == 0) if self.strength == 30 else (fold_of[rows] != 0)
            return np.eye(2)[np.where(right, labels[rows], 1 - labels[rows])]

    class Recorder(Fitter):
        def fit(self, rows, strength):
            fits.append(set(fold_of[rows]))
            return Model(strength)

    fitter = Recorder(np.arange(30), labels, 2)
    assert choose_strengths(fitter, fold_of, [0, 1, 2], [0.3, 30]) == {0: 0.3, 1: 0.3, 2: 0.3}
    monkeypatch.setattr(Model, "log_probabilities", lambda self, rows: np.eye(2)[labels[rows] ^ (self.strength < 30)])
    assert choose_strengths(fitter, fold_of, [0, 1, 2], [0.3, 30]) == {0: 30, 1: 30, 2: 30}
    assert fits == [{2}, {2}, {1}, {1}, {0}, {0}] * 2


def test_examples_are_learned_from_by_every_model_and_lie_in_no_fold(seen):
    labels = np.random.default_rng(0).integers(0, 4, 80)
    vectors = informative_vectors(np.concatenate([labels, np.arange(4)]))
    examples = np.arange(84) >= 80
    found = cross_fit(vectors, np.append(labels, np.arange(4)), np.arange(84), 4, folds=4, examples=examples)
    assert all(set(range(80, 84)) <= set(rows.tolist()) for rows in seen)
    assert (found.folds[80:] == -1).all()
    assert found.quality.images == 80


def test_prior_is_added_to_the_log_probabilities():
    labels = np.random.default_rng(0).integers(0, 4, 80)
    vectors = informative_vectors(labels)
    prior = np.log(np.random.default_rng(1).dirichlet(np.ones(4), 80))
    plain, found = (cross_fit(vectors, labels, np.arange(80), 4, prior=each) for each in (None, prior))
    joint = np.exp(plain.logits.astype(float) + prior)
    np.testing.assert_allclose(np.exp(found.logits), joint / joint.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("refits", [Refits(trims=2), Refits(rounds=2, sure=0.3), Refits(trims=1, rounds=1)])
def test_refitted_models_do_not_learn_the_labels_that_they_predict(refits):
    labels = np.random.default_rng(0).integers(0, 4, 300)
    found = cross_fit(random_vectors(300, width=100), labels, np.arange(300), 4, folds=3, strength=30, refits=refits)
    assert found.quality.accuracy < 0.33


def test_trimming_leaves_out_the_labels_that_other_folds_believe_least():
    true = np.random.default_rng(0).integers(0, 4, 400)
    vectors, wrong = informative_vectors(true), np.random.default_rng(1).random(400) < 0.3
    labels = np.where(wrong, (true + 1) % 4, true)
    fitter, train = Fitter(vectors, labels, 4), np.arange(400)
    kept = Refits(trims=1)._trust(fitter, train, train, np.arange(400), 3.0, 0)
    assert np.bincount(labels[kept]).tolist() == [n - int(0.3 * n) for n in np.bincount(labels).tolist()]
    assert wrong[kept].mean() < 0.6 * wrong.mean()


def test_self_training_learns_from_sure_guesses_alone(seen):
    true = np.random.default_rng(0).integers(0, 4, 300)
    vectors = informative_vectors(true)
    labels = np.where(np.arange(300) < 20, true, -1)
    fitter, train = Fitter(vectors, labels, 4), np.arange(20)
    first = fitter.fit(train, 3.0)
    Refits(rounds=1, sure=0.6).refit(fitter, first, train, np.arange(300), 3.0, 0)
    sure = np.exp(first.log_probabilities(vectors[20:]).max(axis=1)) > 0.6
    assert 0 < sure.sum() < 280
    assert set(seen[-1].tolist()) == {*range(20), *(20 + np.flatnonzero(sure)).tolist()}


def test_fits_are_shared_and_begin_where_those_of_another_strength_ended(seen):
    labels = np.random.default_rng(0).integers(0, 4, 200)
    vectors, known = informative_vectors(labels), Fits()
    fitter, alone = Fitter(vectors, labels, 4, 1e-7, fits=known), Fitter(vectors, labels, 4, 1e-7)
    rows, others = np.arange(150), np.arange(50, 200)
    first = fitter.fit(rows, 3.0)
    assert fitter.fit(rows, 3.0) is first and len(seen) == 1
    assert fitter.latest(rows) is first and fitter.latest(others) is None
    weaker, cold = fitter.fit(rows, 5.0), alone.fit(rows, 5.0)
    assert weaker.model.steps < cold.model.steps
    np.testing.assert_allclose(weaker.log_probabilities(vectors), cold.log_probabilities(vectors), atol=1e-3)
    changed = np.where(np.arange(200) == 7, (labels + 1) % 4, labels)
    assert Fitter(vectors, changed, 4, 1e-7, fits=known).fit(rows, 3.0) is not first


def test_oldest_fits_are_forgotten(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, 60)
    vectors = informative_vectors(labels)
    monkeypatch.setattr(fitting, "MOST_KEPT", 2 * 4 * 16 * 8)  # two models
    fitter, parts = Fitter(vectors, labels, 4, fits=Fits()), [np.arange(n, 60) for n in range(3)]
    for rows in parts:
        fitter.fit(rows, 3.0)
    assert [fitter.latest(rows) is None for rows in parts] == [True, False, False]


def test_refits_that_begin_with_the_last_model_end_like_fits_from_the_start(monkeypatch):
    true = np.random.default_rng(0).integers(0, 4, 400)
    labels = np.where(np.random.default_rng(1).random(400) < 0.3, (true + 1) % 4, true)
    labels[300:] = -1
    vectors = informative_vectors(true)

    def found():
        refits = Refits(trims=3, trimmed=0.5, rounds=2)
        return cross_fit(vectors, labels, np.arange(400), 4, folds=3, refits=refits, tolerance=1e-7)

    monkeypatch.setattr(crossfit, "RANKING", 1e-7)  # so that both leave out the same rows
    begun = found()
    fit = fitting.fit_softmax_regression
    monkeypatch.setattr(
        fitting, "fit_softmax_regression", lambda *given, **more: fit(*given, **{**more, "start": None})
    )
    np.testing.assert_allclose(np.exp(begun.logits), np.exp(found().logits), atol=2e-3)
