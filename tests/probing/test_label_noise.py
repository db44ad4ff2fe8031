"""Wrong labels: pooling, posterior and transition matrix against plain loops, and recovery of planted errors."""

import math

import numpy as np
import pytest

from gpt4image.probing.intervals import weighted_share
from gpt4image.probing.label_noise import NoiseModel, _Likelihood, estimate_noise, fit_noise_model


def make_classifier(true, classes, sharpness=2.0, seed=0):
    """Return calibrated log-probabilities of a classifier: q(k) is proportional to exp(z_k), and classes follow q."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(len(true), classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (shares.cumsum(axis=1) > generator.random((len(true), 1))).argmax(axis=1)
    for row, (was, wanted) in enumerate(zip(drawn, true, strict=True)):  # move the drawn class's logit to the true one
        logits[row, [was, wanted]] = logits[row, [wanted, was]]
    return np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def plant(true, classes, share, kind, seed=0):
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(true)) < share
    step = generator.integers(1, classes, len(true)) if kind == "symmetric" else 1
    return np.where(wrong, (true + step) % classes, true)


def random_case(rows=40, classes=3, sources=2, seed=0):
    generator = np.random.default_rng(seed)
    classifiers = [np.log(generator.dirichlet(np.ones(classes), rows)) for _ in range(sources)]
    labels = generator.integers(-1, classes, rows)
    transition = generator.dirichlet(np.ones(classes) + 2, classes)
    return classifiers, labels, NoiseModel(generator.uniform(0.3, 2, sources), np.log(transition))


def test_pool_and_posterior_equal_a_plain_loop():
    classifiers, labels, model = random_case()
    pooled, posterior = model.log_probabilities(classifiers), model.posterior(classifiers, labels)
    for row, label in enumerate(labels):
        q = [
            math.prod(math.exp(each[row, k]) ** w for w, each in zip(model.weights, classifiers, strict=True))
            for k in range(3)
        ]
        s = [q[k] * (math.exp(model.log_transition[k, label]) if label >= 0 else 1) for k in range(3)]
        np.testing.assert_allclose(np.exp(pooled[row]), np.array(q) / sum(q), atol=1e-12)
        np.testing.assert_allclose(np.exp(posterior[row]), np.array(s) / sum(s), atol=1e-12)


def test_likelihood_and_its_slopes_equal_a_plain_loop_and_finite_differences():
    classifiers, labels, model = random_case()
    known = labels >= 0
    counts = np.random.default_rng(1).integers(0, 3, known.sum()).astype(float)
    fitted = _Likelihood(np.stack([each[known] for each in classifiers]), labels[known], counts)
    pseudo = np.random.default_rng(2).uniform(0.5, 2, (3, 3))

    def loop(parameters):
        weights, theta = np.exp(parameters[:2]), parameters[2:].reshape(3, 3)
        transition = np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True)
        total = (pseudo * np.log(transition)).sum()
        for at, row in enumerate(np.flatnonzero(known)):
            q = np.array(
                [math.exp(sum(w * e[row, k] for w, e in zip(weights, classifiers, strict=True))) for k in range(3)]
            )
            total += counts[at] * math.log(sum((q / q.sum())[k] * transition[k, labels[row]] for k in range(3)))
        return -total

    start = np.concatenate([np.log(model.weights), model.log_transition.ravel()])
    value, slopes = fitted._free(start, pseudo)
    assert value == pytest.approx(loop(start), rel=1e-12)
    for at in range(len(start)):
        step = np.zeros(len(start))
        step[at] = 1e-6
        assert slopes[at] == pytest.approx((loop(start + step) - loop(start - step)) / 2e-6, rel=1e-4, abs=1e-6)


def test_slopes_of_evenly_spread_errors_equal_finite_differences():
    classifiers, labels, _ = random_case()
    known = labels >= 0
    fitted = _Likelihood(np.stack([each[known] for each in classifiers]), labels[known], np.ones(known.sum()))
    start = np.array([0.2, -0.3, -1.0])
    _, slopes = fitted._uniform(start)
    for at in range(3):
        step = np.zeros(3)
        step[at] = 1e-6
        difference = (fitted._uniform(start + step)[0] - fitted._uniform(start - step)[0]) / 2e-6
        assert slopes[at] == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize("kind", ["symmetric", "pairwise"])
def test_planted_transition_is_recovered(kind):
    true = np.random.default_rng(0).integers(0, 4, 3000)
    classifier = make_classifier(true, 4)
    given = plant(true, 4, 0.3, kind)
    model = fit_noise_model([classifier], given)
    found = np.exp(model.log_transition)
    expected = np.array([[((true == k) & (given == j)).sum() / (true == k).sum() for j in range(4)] for k in range(4)])
    np.testing.assert_allclose(found, expected, atol=0.06)
    right = (model.posterior([classifier], given).argmax(axis=1) == true).mean()
    assert right > max((given == true).mean(), (classifier.argmax(axis=1) == true).mean()) + 0.05


def test_rows_without_a_label_do_not_count_and_weights_count_repeated_rows():
    true = np.random.default_rng(0).integers(0, 3, 200)
    classifier, given = make_classifier(true, 3), plant(true, 3, 0.2, "symmetric")
    alone = fit_noise_model([classifier[:150]], given[:150])
    hidden = fit_noise_model([classifier], np.where(np.arange(200) < 150, given, -1))
    weighted = fit_noise_model([classifier], given, weights=(np.arange(200) < 150).astype(float))
    for other in (hidden, weighted):
        np.testing.assert_allclose(np.exp(other.log_transition), np.exp(alone.log_transition), atol=1e-3)


@pytest.mark.slow
def test_clean_labels_have_few_wrong_ones_and_a_classifier_that_knows_nothing_gets_no_weight():
    true = np.random.default_rng(0).integers(0, 3, 800)
    good, useless = make_classifier(true, 3, 3.0), make_classifier(true, 3, 3.0, seed=1)[::-1]
    model = fit_noise_model([good, useless], true)
    assert 0.7 < model.weights[0] < 1.5
    assert model.weights[1] < 0.15
    assert estimate_noise(model, [good, useless], true, np.arange(800)).wrong.low < 0.02


def test_classifier_that_has_learned_systematic_errors_neither_hides_them_nor_counts():
    true = np.random.default_rng(0).integers(0, 4, 1200)
    given = plant(true, 4, 0.35, "pairwise")
    good, fooled = make_classifier(true, 4), make_classifier(given, 4, 3.0, seed=1)
    both = fit_noise_model([good, fooled], given)
    alone = fit_noise_model([good], given)
    assert fit_noise_model([fooled], given).log_transition.diagonal().min() > math.log(0.9)
    np.testing.assert_array_equal(both.log_transition, alone.log_transition)
    log = np.stack([good, fooled])

    def likelihood(weights):
        pooled = np.exp(np.tensordot(weights, log, 1))
        pooled /= pooled.sum(axis=1, keepdims=True)
        return sum(math.log(pooled[row] @ np.exp(alone.log_transition[:, y])) for row, y in enumerate(given))

    best = likelihood(both.weights)
    for change in ([1.1, 1], [0.9, 1], [1, 1.1], [1, 0.9]):
        assert likelihood(both.weights * change) < best + 1e-3
    agreed = make_classifier(true, 4, seed=2)
    pooled = fit_noise_model([good, agreed], given)
    shares = [
        (m.posterior(c, given).argmax(axis=1) == true).mean() for m, c in ((alone, [good]), (pooled, [good, agreed]))
    ]
    assert shares[1] > shares[0] + 0.02


@pytest.mark.slow
def test_estimates_cover_the_planted_shares_and_are_wider_for_larger_groups():
    true = np.random.default_rng(3).integers(0, 3, 600)
    classifier, given = make_classifier(true, 3), plant(true, 3, 0.25, "symmetric")
    model = fit_noise_model([classifier], given)
    alone = estimate_noise(model, [classifier], given, np.arange(600))
    assert alone.wrong.low < (given != true).mean() < alone.wrong.high
    assert alone.wrong.high - alone.wrong.low < 0.15
    right = (model.posterior([classifier], given).argmax(axis=1) == true).mean()
    assert alone.right.low < right < alone.right.high
    surest = np.exp(model.posterior([classifier], given)).max(axis=1)
    by_chance = 1.96 * math.sqrt(sum(p * (1 - p) for p in surest)) / 600
    assert alone.right.high - alone.right.low > 2 * by_chance
    grouped = estimate_noise(model, [classifier], given, np.argsort(np.argsort(given * 1000 + true)) // 20)
    assert grouped.wrong.high - grouped.wrong.low > alone.wrong.high - alone.wrong.low


def test_weighted_share_is_wilsons_interval_of_the_effective_number():
    true = np.array([True] * 7 + [False] * 3)
    weights = np.array([1.0] * 5 + [3.0] * 5)
    share = (5 + 6) / 20
    count = 20**2 / (5 + 45)
    z = 1.959964
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    found = weighted_share(true, weights)
    assert (found.mean, found.low, found.high) == pytest.approx((share, middle - half, middle + half), abs=1e-6)
    assert weighted_share(np.ones(7, dtype=bool), np.random.default_rng(0).random(7)).high == 1.0
    assert weighted_share(np.zeros(7, dtype=bool), np.ones(7)).low == 0.0
