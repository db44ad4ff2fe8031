"""The rehearsal: what labels from texts add on held-out labels, few, wrong, clean, and with texts that know nothing."""

import numpy as np
import pytest

from gpt4image.core.errors import DescriptionError
from gpt4image.probing.label_noise import NoiseModel
from gpt4image.probing.logistic_regression import fit_softmax_regression, standardise
from gpt4image.quality.check_record import PairedGap
from gpt4image.quality.rehearsal import (
    PROBE_STRENGTH,
    KeptRehearsal,
    Rehearsal,
    _Trial,
    _widen,
    credit_of,
    rehearse,
)
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples

ROWS, CLASSES = 300, 3
GENERATOR = np.random.default_rng(1)
TRUE = np.arange(ROWS) % CLASSES
CENTRES = GENERATOR.normal(size=(CLASSES, 12))
TEXTS = (CENTRES[TRUE] + 0.8 * GENERATOR.normal(size=(ROWS, 12))) / 5  # a classifier on them is nearly always right
PICTURES = 0.14 * GENERATOR.normal(size=(CLASSES, 150))[np.arange(5 * ROWS) % CLASSES]
PICTURES = PICTURES + GENERATOR.normal(size=(5 * ROWS, 150))
FEATURES, OTHERS = PICTURES[:ROWS], PICTURES[ROWS:]  # the others are test images
EXAMPLES = Examples(CENTRES / 5, np.arange(CLASSES))
FEW = np.where(np.arange(ROWS) < 60, TRUE, -1)


def run(labels, texts=TEXTS, features=FEATURES, **settings):
    return rehearse(texts, features, labels, np.arange(ROWS), CLASSES, EXAMPLES, **settings)


def accuracy(labels):
    """That of a classifier of image features, fitted to some labels, on test images."""
    both = standardise(np.concatenate([FEATURES, OTHERS]))
    rows = np.flatnonzero(labels >= 0)
    model = fit_softmax_regression(both, labels, CLASSES, strength=PROBE_STRENGTH, rows=rows)
    answers = model.log_probabilities(both[ROWS:]).argmax(axis=1)
    return (answers == np.arange(4 * ROWS) % CLASSES).mean()


def text_labels(labels):
    return label_rows(TEXTS, labels, np.arange(ROWS), CLASSES, EXAMPLES).of_labels(labels).argmax(axis=1)


@pytest.mark.slow
def test_gain_with_few_labels_is_that_on_test_images():
    found, true = run(FEW), accuracy(text_labels(FEW)) - accuracy(FEW)
    gain = found.gains["text-labels"]
    assert true > 0.1 and gain.mean > 0.03 and gain.low <= true <= gain.high
    assert (found.images, found.judged) == (60, ROWS - 60) and not found.corrected
    assert found.text.low > found.image.mean > found.chance == pytest.approx(1 / 3)
    assert found.text_over_image.low > 0
    assert found.more_labels.low <= 0.05 <= found.more_labels.high


@pytest.mark.slow
def test_gain_with_wrong_labels_is_corrected_for_them():
    generator = np.random.default_rng(0)
    wrong = generator.random(ROWS) < 0.4
    given = np.where(wrong, (TRUE + generator.integers(1, CLASSES, ROWS)) % CLASSES, TRUE)
    found, true = run(given), accuracy(text_labels(given)) - accuracy(given)
    assert found.corrected
    assert found.gains["text-labels"].low <= true <= found.gains["text-labels"].high
    assert found.image.mean == pytest.approx(accuracy(given), abs=0.1)
    assert found.text.mean > 0.85  # 0.6 of the given labels agree with any labels that are right


@pytest.mark.slow
def test_clean_labels_leave_nothing_to_gain():
    found = run(TRUE)
    assert found.gains["text-labels"].mean == found.gains["text-labels"].high == 0
    assert not found.corrected and found.text.low > found.image.high


@pytest.mark.slow
def test_shuffled_texts_gain_nothing():
    found = run(FEW, np.random.default_rng(0).permutation(TEXTS))
    assert found.text.low <= found.chance
    assert found.gains["text-labels"].low <= 0


@pytest.mark.slow
def test_without_image_features_only_the_texts_are_measured():
    found = run(FEW, features=None)
    assert found.text.low > found.chance
    assert (found.image, found.gains, found.more_labels) == (None, {}, None)


def test_images_that_are_judged_and_their_groups_have_no_part_in_the_answers():
    groups, fold_of = np.arange(ROWS) // 2, np.arange(ROWS) // 2 % 5
    labels = TRUE.copy()
    trial = _Trial(standardise(FEATURES), labels, groups, CLASSES, {}, False, np.eye(CLASSES), 5, 0)
    before = trial._answers(labels, fold_of)
    after = trial._answers(np.where(fold_of == 0, (labels + 1) % CLASSES, labels), fold_of)
    np.testing.assert_array_equal(before[fold_of == 0], after[fold_of == 0])
    assert (before != after).any()


def test_agreement_with_labels_that_are_right_by_a_share_is_scaled_to_accuracy():
    generator = np.random.default_rng(0)
    true, rows, classes, share = generator.integers(0, 5, 20_000), 20_000, 5, 0.7
    labels = np.where(generator.random(rows) < share, true, (true + generator.integers(1, classes, rows)) % classes)
    agreement = []
    for accuracy_ in (0.3, 0.6):
        answers = np.where(
            generator.random(rows) < accuracy_, true, (true + generator.integers(1, classes, rows)) % classes
        )
        agreement.append((answers == labels).mean())
    factor = 1 / (share - (1 - share) / (classes - 1))
    found = _widen(PairedGap(mean=agreement[1] - agreement[0], low=0.1, high=0.3), (factor, factor - 0.1, factor + 0.1))
    assert found.mean == pytest.approx(0.3, abs=0.03)
    assert (found.low, found.high) == pytest.approx((0.1 * (factor - 0.1), 0.3 * (factor + 0.1)))


def test_correction_counts_right_answers_as_often_as_the_true_labels_do():
    transition = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.15, 0.6]])
    credit = credit_of(NoiseModel(np.ones(1), np.log(transition)))
    for true in range(3):
        for answer in range(3):
            expected = sum(transition[true, given] * credit[given, answer] for given in range(3))
            assert expected == pytest.approx(float(true == answer))


def test_halving_takes_every_second_label_of_a_class():
    halved = _Trial(FEATURES, FEW, np.arange(ROWS), CLASSES, {}, False, np.eye(CLASSES), 5, 0)._halve()
    assert np.bincount(halved[halved >= 0]).tolist() == [10] * CLASSES
    assert (halved[halved >= 0] == FEW[halved >= 0]).all()


def test_labels_that_leave_nothing_to_hold_out_are_refused():
    one_each = np.where(np.arange(ROWS) < CLASSES, TRUE, -1)
    with pytest.raises(DescriptionError, match="too few labels"):
        run(one_each)


def test_rehearsal_is_kept_for_the_same_inputs_only(tmp_path):
    found = Rehearsal(images=9, chance=0.5, text={"mean": 0.6, "low": 0.5, "high": 0.7}, corrected=False)
    path = tmp_path / "rehearsal.json"
    assert KeptRehearsal.find(path, "one") is None
    KeptRehearsal(identity="one", found=found).save(path)
    assert KeptRehearsal.find(path, "one").found == found
    assert KeptRehearsal.find(path, "two") is None
    path.write_text("{}")
    assert KeptRehearsal.find(path, "one") is None
