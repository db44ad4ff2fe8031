"""The fit equals that of scikit-learn, however the rows are chunked and stored."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.probing import logistic_regression
from gpt4image.probing.logistic_regression import _Objective, _Span, fit_softmax_regression, standardise, turn_to_axes


def make_data(rows=400, width=12, classes=4, seed=0):
    """Overlapping classes on vectors whose mean is far from 0, float16."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    vectors = generator.normal(size=(rows, width)) + generator.normal(size=(classes, width))[labels] + 2
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), labels


def probabilities(model, vectors):
    return np.exp(model.log_probabilities(vectors))


def reference(vectors, labels, strength):
    return LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(vectors.astype(np.float64), labels)


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kept", [2**27, 0], ids=["kept", "read-each-pass"])
@pytest.mark.parametrize("wide", [8, 0], ids=["axes-of-covariance", "own-axes"])
def test_probabilities_equal_scikit_learn(monkeypatch, strength, classes, kept, wide):
    monkeypatch.setattr(logistic_regression, "KEPT", kept)
    monkeypatch.setattr(logistic_regression, "WIDE", wide)
    vectors, labels = make_data(classes=classes)
    model = fit_softmax_regression(vectors, labels, classes, strength=strength, device="cpu")
    # of two classes scikit-learn fits the difference w alone: W = (-w / 2, w / 2) costs half as much
    same = strength if classes > 2 else 2 * strength
    expected = reference(vectors, labels, same).predict_proba(vectors.astype(np.float64))
    np.testing.assert_allclose(probabilities(model, vectors), expected, atol=1e-4)


@pytest.mark.slow
def test_correlated_vectors_take_few_steps(monkeypatch):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, 2000)
    vectors = generator.normal(size=(2000, 40)) + generator.normal(size=(4, 40))[labels] / 4
    turn = np.linalg.qr(generator.normal(size=(40, 40)))[0]
    models = {}
    for name, spread in {"even": np.ones(40), "uneven": np.logspace(0, -2, 40)}.items():
        models[name] = fit_softmax_regression(vectors * spread @ turn, labels, 4, strength=100, device="cpu")
    monkeypatch.setattr(logistic_regression, "WIDE", 0)
    own = fit_softmax_regression(vectors * spread @ turn, labels, 4, strength=100, device="cpu")
    assert models["uneven"].steps <= 2 * models["even"].steps < own.steps
    moved = vectors * spread @ turn
    np.testing.assert_allclose(probabilities(models["uneven"], moved), probabilities(own, moved), atol=1e-4)


def test_stored_precision_does_not_change_the_fit():
    """Numbers that float16 holds exactly give the same fit, to the last bit, in float32 and float64."""
    vectors, labels = make_data()
    half, single, double = (
        fit_softmax_regression(vectors.astype(kind), labels, 4, device="cpu")
        for kind in (np.float16, np.float32, float)
    )
    for other in (single, double):
        np.testing.assert_array_equal(other.weights, half.weights)
        np.testing.assert_array_equal(other.bias, half.bias)


def test_gradient_equals_automatic_differentiation():
    vectors, labels = make_data(rows=50, width=5, classes=3)
    rows = np.arange(5, 45)
    objective = _Objective(vectors, labels, rows, 3, 2.0, "cpu")
    flat = np.random.default_rng(1).normal(size=3 * 6)
    loss, slopes = objective(flat)

    weights = torch.from_numpy(flat.reshape(3, 6)).requires_grad_()
    part = torch.from_numpy(vectors[rows].astype(np.float64) - vectors[rows].astype(np.float64).mean(axis=0))
    logits = part @ weights[:, :5].T + weights[:, 5]
    total = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]), reduction="sum")
    total = (total + (weights[:, :5] ** 2).sum() / (2 * 2.0)) / 40
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-12)
    np.testing.assert_allclose(slopes, weights.grad.numpy().ravel(), atol=1e-12)


def test_chunks_hold_at_most_their_size_and_do_not_change_the_fit(monkeypatch, tmp_path):
    vectors, labels = make_data(rows=300)
    whole = fit_softmax_regression(vectors, labels, 4, device="cpu")
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    monkeypatch.setattr(logistic_regression, "CHUNK", {"cpu": 16 * 7})
    monkeypatch.setattr(logistic_regression, "KEPT", 0)
    stored = np.load(path, mmap_mode="r")
    sizes = {len(part) for part, _ in _Objective(stored, labels, np.arange(300), 4, 3.0, "cpu")._read()}
    assert sizes == {7, 300 % 7}
    cut = fit_softmax_regression(stored, labels, 4, device="cpu")
    np.testing.assert_allclose(probabilities(cut, vectors), probabilities(whole, vectors), atol=1e-5)


def test_rows_left_out_have_no_influence():
    vectors, labels = make_data()
    rows = np.arange(0, 400, 3)
    damaged = vectors.copy()
    damaged[1::3] = np.nan
    chosen = fit_softmax_regression(damaged, labels, 4, rows=rows, device="cpu")
    alone = fit_softmax_regression(vectors[rows], labels[rows], 4, device="cpu")
    np.testing.assert_array_equal(chosen.weights, alone.weights)
    np.testing.assert_array_equal(chosen.bias, alone.bias)


def test_moved_vectors_give_the_same_probabilities():
    vectors, labels = make_data()
    moved = vectors.astype(np.float64) + 5
    here, there = (fit_softmax_regression(part, labels, 4, device="cpu") for part in (vectors, moved))
    np.testing.assert_allclose(probabilities(here, vectors), probabilities(there, moved), atol=1e-4)


def test_classes_without_rows_get_a_small_probability_and_a_single_class_all():
    vectors, labels = make_data(classes=3)
    found = probabilities(fit_softmax_regression(vectors, labels, 5, device="cpu"), vectors)
    assert np.isfinite(found).all()
    assert found[:, 3:].max() < 0.01
    np.testing.assert_allclose(
        probabilities(fit_softmax_regression(vectors, np.zeros(400, dtype=int), 1, device="cpu"), vectors), 1
    )


def test_invalid_arguments_are_rejected():
    vectors, labels = make_data()
    for strength in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="strength above 0"):
            fit_softmax_regression(vectors, labels, 4, strength=strength)
    with pytest.raises(ConfigError, match="at least one row"):
        fit_softmax_regression(vectors, labels, 4, rows=np.empty(0, dtype=int))
    vectors[3, 3] = np.inf
    with pytest.raises(StoreError, match=r"not finite.*embed again"):
        fit_softmax_regression(vectors, labels, 4)


def test_number_of_threads_is_restored_even_after_an_error(monkeypatch):
    vectors, labels = make_data()
    before = torch.get_num_threads()
    used = []
    call = _Objective.__call__
    monkeypatch.setattr(_Objective, "__call__", lambda *given: used.append(torch.get_num_threads()) or call(*given))
    try:
        torch.set_num_threads(2)
        fit_softmax_regression(vectors, labels, 4, device="cpu")
        assert set(used) == {1}
        vectors[3, 3] = np.inf
        with pytest.raises(StoreError):
            fit_softmax_regression(vectors, labels, 4, device="cpu")
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(logistic_regression, "TINY", 0)
        used.clear()
        fit_softmax_regression(*make_data(), 4, device="cpu")
        assert set(used) == {2}
    finally:
        torch.set_num_threads(before)


def test_looser_tolerance_takes_fewer_steps_for_nearly_the_same_probabilities():
    vectors, labels = make_data()
    exact, loose = (
        fit_softmax_regression(vectors, labels, 4, strength=30, tolerance=t, device="cpu") for t in (1e-7, 1e-4)
    )
    assert loose.steps < exact.steps
    np.testing.assert_allclose(probabilities(loose, vectors), probabilities(exact, vectors), atol=5e-3)


def test_standardised_vectors_have_mean_0_and_mean_squared_length_1():
    vectors, _ = make_data()
    found = standardise(100 * vectors.astype(np.float64) + 7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    assert (found.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-6)
    assert not standardise(np.ones((5, 3))).any()


@pytest.mark.parametrize("classes", [2, 4])
def test_few_wide_vectors_are_fitted_in_the_space_that_they_span(monkeypatch, classes):
    generator = np.random.default_rng(0)
    labels = np.append(np.arange(classes), generator.integers(0, classes, 26))
    vectors = generator.normal(size=(40, 300)) + 3
    vectors[20:25] = vectors[10:15]  # so that they span less than their number
    settings = {"strength": 2.0, "rows": np.arange(5, 35), "tolerance": 1e-9, "device": "cpu"}
    labels = np.append(np.zeros(5, int), np.append(labels, np.zeros(5, int)))
    model = fit_softmax_regression(vectors, labels, classes, **settings)
    monkeypatch.setattr(logistic_regression, "SPANNED", 0)
    whole = fit_softmax_regression(vectors, labels, classes, **settings)
    np.testing.assert_allclose(model.weights, whole.weights, atol=1e-5)
    np.testing.assert_allclose(model.bias, whole.bias, atol=1e-4)
    assert _Span.of(vectors, np.arange(30), classes) is None
    begun = fit_softmax_regression(vectors, labels, classes, **{**settings, "start": model})
    assert 3 * begun.steps <= model.steps  # one or two, by the processor


def test_vectors_along_their_axes_give_the_same_answers():
    generator = np.random.default_rng(0)
    vectors = (generator.normal(size=(120, 20)) @ generator.normal(size=(20, 50)) + 4).astype(np.float32)  # rank 20
    labels = generator.integers(0, 3, 120)
    turned = turn_to_axes(vectors)
    assert turned.dtype == np.float32 and turned.shape == (120, 20)
    covariance = np.cov(turned.T.astype(np.float64))
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-4 * covariance[0, 0])
    assert (np.diff(np.diag(covariance)) <= 0).all()
    centred = vectors - vectors.mean(axis=0)
    np.testing.assert_allclose(turned @ turned.T, centred @ centred.T, rtol=1e-3, atol=1e-2)
    rows = np.arange(90)
    one, other = (fit_softmax_regression(each, labels, 3, rows=rows, tolerance=1e-9) for each in (vectors, turned))
    np.testing.assert_allclose(probabilities(one, vectors), probabilities(other, turned), atol=1e-4)


@pytest.mark.parametrize("rows", [10, 30])
def test_axes_of_equal_vectors_and_of_few_wide_ones(rows):
    same = turn_to_axes(np.ones((rows, 20)))
    assert same.shape == (rows, 1) and not same.any()
    vectors = np.random.default_rng(0).normal(size=(rows, 20))
    turned, centred = turn_to_axes(vectors), vectors - vectors.mean(axis=0)
    assert turned.shape == (rows, min(rows - 1, 20))
    np.testing.assert_allclose(turned @ turned.T, centred @ centred.T, atol=1e-4)
    vectors[3, 4] = np.nan
    assert np.isnan(turn_to_axes(vectors)[3, 4])  # the fit refuses it
