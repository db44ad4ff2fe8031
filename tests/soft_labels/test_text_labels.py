"""Text labels: few, no and wrong labels; given labels that stay; validation; recomputation; the command's report."""

import numpy as np
import pytest

from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.probing.calibration import class_shares
from gpt4image.soft_labels import (
    ClassTexts,
    SoftLabels,
    describe_text_labels,
    label_by_texts,
    summarise_text_labels,
)
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples, likeness
from support.labelling_parts import WordEncoder, informative_texts, make_store, make_table

CLASSES = ("ant", "bee", "cow")
TRUE = [number % 3 for number in range(240)]
ENCODER = WordEncoder()


def make(tmp_path, given, splits=None, texts=None):
    images = make_table(given, CLASSES, splits)
    return images, make_store(images, texts or informative_texts(TRUE, CLASSES), tmp_path / "words")


def label(tmp_path, images, store, **settings):
    settings = {"encoders": [ENCODER], **settings}
    return label_by_texts(images, [store], tmp_path / "text", **settings)


def likeliest(labels, images):
    return labels.take(labels.find(images.ids)).argmax(axis=1)


def test_few_labels_and_class_names_label_the_rest_and_the_estimate_holds(tmp_path):
    few = np.where(np.arange(240) < 15, TRUE, -1)
    images, store = make(tmp_path, few)
    labels = label(tmp_path, images, store)
    right = (likeliest(labels, images) == TRUE)[15:].mean()
    estimate = labels.manifest.estimate
    assert right > 0.9
    assert estimate.accuracy.low <= right <= estimate.accuracy.high
    assert (estimate.labelled, estimate.unlabelled, estimate.replaced, estimate.changed) == (15, 225, False, 0)
    assert "self-training" in estimate.method
    text = "\n".join(describe_text_labels(labels))
    assert "of 225 new labels" in text
    assert "15 given labels, all kept: how many are wrong cannot be estimated" in text


def test_names_alone_label_images_where_none_has_a_label(tmp_path):
    images, store = make(tmp_path, [-1] * 240)
    labels = label(tmp_path, images, store)
    assert (likeliest(labels, images) == TRUE).mean() > 0.9
    assert labels.manifest.estimate.accuracy is None
    assert "it is unknown how many" in "\n".join(describe_text_labels(labels))
    with pytest.raises(DescriptionError, match="has a label and a vector"):
        label(tmp_path, images, store, encoders=())


def test_texts_of_the_classes_count_and_not_their_names_alone(tmp_path):
    images, store = make(tmp_path, [-1] * 240)
    swapped = ClassTexts(CLASSES, (("bee beeish",), ("cow cowish",), ("ant antish",)))
    found = likeliest(label(tmp_path, images, store, classes=swapped), images)
    assert (found == (np.asarray(TRUE) - 1) % 3).mean() > 0.9


@pytest.mark.slow
def test_wrong_labels_are_replaced_in_training_and_validation_and_their_share_is_estimated(tmp_path):
    wrong = np.random.default_rng(0).random(240) < 0.3
    given = np.where(wrong, (np.asarray(TRUE) + 1) % 3, TRUE)
    splits = ["validation" if number % 8 == 7 else "train" for number in range(240)]
    images, store = make(tmp_path, given.tolist(), splits)
    labels = label(tmp_path, images, store)
    estimate = labels.manifest.estimate
    assert estimate.replaced
    assert estimate.wrong.low < wrong.mean() < estimate.wrong.high
    found = likeliest(labels, images)
    assert (found == TRUE).mean() > 0.93
    validation = images.split("validation")
    assert (found == TRUE)[validation].mean() > (given == TRUE)[validation].mean()
    assert sum(estimate.transition[0]) == pytest.approx(1)
    assert estimate.transition[0][1] == pytest.approx(0.3, abs=0.12)


@pytest.mark.slow
def test_validation_labels_are_not_learned_from(tmp_path):
    splits = ["train" if number < 120 else "validation" for number in range(240)]
    few = np.where((np.arange(240) < 30) | (np.arange(240) >= 120), TRUE, -1)
    images, store = make(tmp_path, few, splits)
    other = np.where(np.arange(240) >= 120, (few + 1) % 3, few)
    turned = make_table(other.tolist(), CLASSES, splits)
    first = label(tmp_path, images, store)
    second = label_by_texts(turned, [store], tmp_path / "other", encoders=[ENCODER])
    free = np.flatnonzero(few < 0)
    np.testing.assert_array_equal(likeliest(first, images)[free], likeliest(second, turned)[free])
    assert first.manifest.estimate.accuracy == second.manifest.estimate.accuracy


@pytest.mark.slow
def test_given_labels_that_are_right_stay(tmp_path):
    images, store = make(tmp_path, TRUE)
    labels = label(tmp_path, images, store, form="soft")
    assert not labels.manifest.estimate.replaced
    shares = labels.take(labels.find(images.ids))
    np.testing.assert_array_equal(shares, np.eye(3)[TRUE])


@pytest.mark.slow
def test_forms_are_one_hot_sharpened_and_calibrated(tmp_path):
    few = np.where(np.arange(240) < 15, TRUE, -1)
    images, store = make(tmp_path, few, texts=informative_texts([number % 3 for number in range(240)], CLASSES))
    forms = {}
    for form in ("hard", "sharp", "soft"):
        labels = label_by_texts(images, [store], tmp_path / form, encoders=[ENCODER], form=form)
        forms[form] = labels.take(labels.find(images.ids))
    soft = forms["soft"].astype(float)
    np.testing.assert_allclose(forms["sharp"], soft**2 / (soft**2).sum(axis=1, keepdims=True), atol=2e-3)
    np.testing.assert_array_equal(forms["hard"].argmax(axis=1), soft.argmax(axis=1))
    assert (forms["hard"].max(axis=1) > 0.9).mean() > 0.98


def test_unsure_images_get_no_label_and_are_counted(tmp_path):
    texts = informative_texts(TRUE, CLASSES)
    texts[100:110] = [f"n{number} m{number}" for number in range(10)]
    images, store = make(tmp_path, np.where(np.arange(240) < 30, TRUE, -1), texts=texts)
    labels = label(tmp_path, images, store, abstain=0.9)
    left_out = np.flatnonzero(labels.find(images.ids) < 0)
    assert len(left_out) == labels.manifest.estimate.abstained > 0
    assert np.isin(left_out, np.arange(100, 110)).mean() >= 0.5
    with pytest.raises(ConfigError, match="probability below 1"):
        label(tmp_path, images, store, abstain=1.0)


def test_texts_that_know_nothing_label_nothing(tmp_path):
    few = np.where(np.arange(240) < 30, TRUE, -1)
    shuffled = np.random.default_rng(0).permutation(informative_texts(TRUE, CLASSES)).tolist()
    images, store = make(tmp_path, few, texts=shuffled)
    labels = label(tmp_path, images, store)
    np.testing.assert_array_equal(labels.find(images.ids) >= 0, few >= 0)
    assert labels.manifest.estimate.abstained == 210
    assert "not shown to predict the classes" in "\n".join(describe_text_labels(labels))
    assert "of 210 new labels, none of which is given" in "\n".join(describe_text_labels(labels))
    assert "no image gets a new one" in summarise_text_labels(labels.manifest.estimate)


def test_share_of_wrong_labels_is_not_estimated_from_texts_that_tell_nothing_of_them(tmp_path):
    wrong = (np.asarray(TRUE) + np.random.default_rng(1).integers(0, 3, 240)) % 3  # two thirds are wrong
    images, store = make(tmp_path, wrong)
    labels = label(tmp_path, images, store)
    estimate = labels.manifest.estimate
    assert (estimate.wrong, estimate.transition, estimate.replaced) == (None, None, False)
    np.testing.assert_array_equal(likeliest(labels, images), wrong)
    assert "or from texts that tell so little of them" in "\n".join(describe_text_labels(labels))


def test_class_without_a_label_is_found_by_its_name_and_widens_the_estimate(tmp_path):
    given = np.where((np.arange(240) < 120) & (np.asarray(TRUE) < 2), TRUE, -1)  # no cow has a label
    images, store = make(tmp_path, given)
    labels = label(tmp_path, images, store)
    estimate = labels.manifest.estimate
    right = (likeliest(labels, images) == TRUE)[given < 0].mean()
    assert right > 0.9
    assert estimate.accuracy.low < 0.5  # two thirds of the new labels are cows, of which nothing is measured
    assert estimate.accuracy.low <= right <= estimate.accuracy.high
    assert "not measured, because no label is given: cow" in "\n".join(describe_text_labels(labels))


def test_images_in_two_classes_keep_their_labels(tmp_path):
    numbers = [*range(239), 0]
    images = make_table([*TRUE[:239], 1], CLASSES, numbers=numbers)
    store = make_store(images, [*informative_texts(TRUE[:239], CLASSES), []], tmp_path / "words")
    labels = label(tmp_path, images, store)
    assert labels.find(images.ids[[0, 239]]).tolist() == [-1, -1]
    assert len(labels) == 238
    assert "no text label: 1 image in more than one class, which keeps its labels" in describe_text_labels(labels)


@pytest.mark.slow
def test_labels_are_made_again_only_after_a_change(tmp_path):
    images, store = make(tmp_path, np.where(np.arange(240) < 15, TRUE, -1))
    folder = label(tmp_path, images, store).layout.folder
    before = (folder / "manifest.json").stat().st_mtime_ns
    label(tmp_path, images, store)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    label(tmp_path, images, store, form="soft")
    assert (folder / "manifest.json").stat().st_mtime_ns != before


def test_likeness_equals_a_plain_loop():
    generator = np.random.default_rng(0)
    vectors, owners = generator.normal(size=(7, 3)), np.array([0, 1, 1])
    found = likeness(vectors, 4, owners, 2)
    names = [vectors[4], (vectors[5] + vectors[6]) / 2]
    middle, mean = (names[0] + names[1]) / 2, vectors[:4].mean(axis=0)
    for row in range(7):
        for value in range(2):
            one, other = vectors[row] - mean, names[value] - middle
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            assert found[row, value] == pytest.approx(cosine, abs=1e-6)


def test_shares_of_the_classes_are_found_behind_a_classifier_fitted_to_others():
    generator = np.random.default_rng(0)
    true = generator.choice(3, 4000, p=[0.7, 0.2, 0.1])
    joint = np.exp(-(((generator.normal(size=4000) + 2 * true)[:, None] - 2 * np.arange(3)) ** 2) / 2)
    balanced = joint / joint.sum(axis=1, keepdims=True)
    assert abs(balanced.mean(axis=0)[0] - 0.7) > 0.02
    np.testing.assert_allclose(class_shares(balanced, np.array([20, 20, 20])), np.bincount(true) / 4000, atol=0.02)


@pytest.mark.slow
def test_accuracy_is_weighted_by_the_classes_of_the_unlabelled_rows():
    generator = np.random.default_rng(0)
    true = generator.choice(3, 600, p=[0.8, 0.1, 0.1])
    centres = np.array([[2.0, 0, 0, 0], [0, 1.0, 0.8, 0], [0, 0.8, 1.0, 0]])  # the two rare classes are alike
    vectors = centres[true] + 0.6 * generator.normal(size=(600, 4))
    few = np.concatenate([np.flatnonzero(true == value)[:20] for value in range(3)])
    labels = np.full(600, -1)
    labels[few] = true[few]
    found = label_rows(vectors, labels, np.arange(600), 3, Examples(centres, np.arange(3)))
    right = (found.of_labels(labels).argmax(axis=1) == true)[labels < 0].mean()
    out_of_fold = (found.out_of_fold.argmax(axis=1) == labels)[few].mean()
    assert found.accuracy.low <= right <= found.accuracy.high
    assert abs(found.accuracy.mean - right) < abs(out_of_fold - right)


def test_command_writes_the_labels_and_the_table_of_classes(image_set, descriptions_file, tmp_path, capsys):
    from gpt4image.cli.main import main

    (tmp_path / "classes.txt").write_text("\n".join(sorted(p.name for p in image_set.iterdir() if p.is_dir())))
    command = ["label", str(image_set), "--text", str(descriptions_file), "--work", str(tmp_path / "work")]
    assert main([*command, "--classes", str(tmp_path / "classes.txt"), "--label-form", "soft"]) == 0
    assert "text labels of" in capsys.readouterr().out
    labels = SoftLabels(tmp_path / "work/labels/text-minilm")
    assert labels.manifest.temperature == 1.0
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert main([*command, "--classes", str(tmp_path / "classes.txt")]) == 1
    assert "Use the same names" in " ".join(capsys.readouterr().err.split())


def test_adjustment_gives_rare_classes_their_due_and_its_labels_are_kept_apart():
    generator = np.random.default_rng(0)
    true = np.concatenate([np.zeros(400, int), np.repeat([1, 2], 200)])
    vectors = generator.normal(size=(800, 4)) + 1.3 * np.eye(4)[true]
    given = np.full(800, -1)
    given[:70], given[400:406], given[600:604] = 0, 1, 2  # too few to judge them
    recall = {}
    for strength in (0.0, 1.0):
        found = label_rows(vectors, given, np.arange(800), 3, adjustment=strength)
        answers = found.of_labels(given).argmax(axis=1)
        recall[strength] = (answers == true)[(given < 0) & (true > 0)].mean()
        assert (answers == given)[given >= 0].all()
    assert recall[1.0] > recall[0.0] + 0.1


@pytest.mark.slow
def test_labels_of_another_adjustment_are_made_anew(tmp_path):
    images, store = make(tmp_path, np.where(np.arange(240) < 15, TRUE, -1))
    plain, again = label(tmp_path, images, store), label(tmp_path, images, store, adjustment=0.0)
    assert plain.manifest == again.manifest
    assert label(tmp_path, images, store, adjustment=1.0).manifest.origin != plain.manifest.origin
