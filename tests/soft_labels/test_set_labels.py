"""Text labels of images with several labels each: few, missing and wrong ones, and how they are kept and filled in."""

import json

import numpy as np
import pytest

from gpt4image import load_images
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError, DataError, DescriptionError
from gpt4image.core.workdir import WorkDir
from gpt4image.images.corrections import apply_corrections, label_in_words
from gpt4image.quality.audit_record import AuditRecord
from gpt4image.soft_labels.methods import Examples
from gpt4image.soft_labels.set_labelling import fit_odds_temperature, label_rows_with_sets
from gpt4image.soft_labels.set_labels import SetLabels, doubtful_labels, label_sets_by_texts
from support.labelling_parts import WordEncoder, make_store
from support.several_labels import NAMES, write_several_labels

ROWS, CLASSES = 400, 4


def draw(seed=0, noise=0.5):
    """Vectors in which each class that is present adds its own direction; and the true labels."""
    generator = np.random.default_rng(seed)
    true = (generator.random((ROWS, CLASSES)) < 0.35).astype(np.int8)
    directions = generator.normal(size=(CLASSES, 24)) / 24**0.5
    vectors = true @ directions + noise * generator.normal(size=(ROWS, 24)) / 24**0.5
    return vectors, true, Examples(directions, np.arange(CLASSES))


def found_right(labelling, marks, true):
    return ((labelling.probabilities(marks) > 0.5) == true).mean(axis=1)


def test_few_labels_find_the_rest_and_the_estimate_holds():
    vectors, true, names = draw()
    marks = np.where(np.arange(ROWS)[:, None] < 40, true, -1)
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS), names)
    assert found_right(found, marks, true)[40:].mean() > 0.9
    chosen = found.log_odds[40:] > 0
    precision = (true[40:][chosen] > 0).mean()
    assert found.precision.low <= precision <= found.precision.high
    assert not found.replaced and (found.probabilities(marks)[:40] == true[:40]).all()
    assert "class texts" in found.method


def test_unknown_labels_are_not_taken_for_absent():
    vectors, true, _ = draw()
    unknown = np.random.default_rng(1).random(true.shape) < np.where(true > 0, 0.7, 0.1)  # most of those present
    marks = np.where(unknown, -1, true)
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS))
    filled = found.probabilities(marks) > 0.5
    taken = label_rows_with_sets(vectors, np.where(unknown, 0, true), np.arange(ROWS))
    hidden = unknown & (true > 0)
    assert filled[hidden].mean() > 0.7 > (taken.log_odds > 0)[hidden].mean() + 0.2


def test_wrong_labels_are_counted_and_replaced():
    vectors, true, names = draw(noise=0.3)
    generator = np.random.default_rng(1)
    wrong = generator.random(true.shape) < 0.15
    marks = np.where(wrong, 1 - true, true)
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS), names)
    share = found.estimate.wrong
    assert found.replaced and share.low <= wrong.mean() <= share.high
    replaced = found.probabilities(marks) > 0.5
    assert (replaced == true).mean() > 0.95 > (marks == true).mean()
    listed = doubtful_labels(marks, found)
    assert np.mean([wrong[each.position, each.label] for each in listed[:40]]) > 0.9
    assert all(each.given == (marks[each.position, each.label] > 0) for each in listed)


def test_posterior_of_a_given_label_equals_a_plain_loop():
    vectors, true, _ = draw()
    marks = np.where(np.random.default_rng(1).random(true.shape) < 0.2, 1 - true, true)
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS))
    probabilities, transition = found.probabilities(marks), np.exp(found.noise.log_transition)
    (power,) = found.noise.weights
    for i in range(0, ROWS, 37):
        for k in range(CLASSES):
            p = 1 / (1 + np.exp(-found.log_odds[i, k]))
            present, absent = p**power * transition[1, marks[i, k]], (1 - p) ** power * transition[0, marks[i, k]]
            assert probabilities[i, k] == pytest.approx(present / (present + absent), abs=1e-9)


def test_temperature_gives_the_labels_the_highest_likelihood():
    generator = np.random.default_rng(0)
    odds = generator.normal(size=4000) * 2
    present = generator.random(4000) < 1 / (1 + np.exp(-odds))
    assert fit_odds_temperature(3 * odds, present, np.zeros(4000)) == pytest.approx(3, rel=0.1)
    assert fit_odds_temperature(1 + 3 * (odds - 1), present, np.ones(4000)) == pytest.approx(3, rel=0.1)


def test_texts_that_know_nothing_find_what_is_frequent():
    _, true, _ = draw()
    marks = np.where(np.arange(ROWS)[:, None] < 100, true, -1)
    vectors = np.random.default_rng(5).normal(size=(ROWS, 24))
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS))
    shares = 1 / (1 + np.exp(-found.log_odds[100:]))
    assert shares.mean() == pytest.approx(true[:100].mean(), abs=0.1)
    assert shares.std() < 0.15


def test_classes_of_which_texts_cannot_tell_stay_as_they_are():
    vectors, true, _ = draw()
    marks = np.where(np.arange(ROWS)[:, None] < 100, true, -1)
    marks[:, 0] = np.where(marks[:, 0] > 0, 1, -1)
    found = label_rows_with_sets(vectors, marks, np.arange(ROWS))
    probabilities = found.probabilities(marks)
    assert found.told.tolist() == [False, True, True, True]
    assert (probabilities[:, 0] == 1).sum() == (marks[:, 0] == 1).sum() and np.isnan(probabilities[100:, 0]).all()
    with pytest.raises(DataError, match="known to be present in some images"):
        label_rows_with_sets(vectors, np.where(marks == 0, -1, marks), np.arange(ROWS))
    with pytest.raises(DataError, match="two images with different texts"):
        label_rows_with_sets(vectors, marks, np.zeros(ROWS, int))


@pytest.fixture
def images(tmp_path):
    return load_images(write_several_labels(tmp_path / "photos", images=160, unknown=0.5))


def texts_of(images):
    return [f"{images.label_of(row) or 'no one'} knows number {row}" for row in range(len(images))]


def test_labels_are_kept_filled_in_and_made_again_only_after_a_change(images, tmp_path, monkeypatch):
    truth = load_images(write_several_labels(tmp_path / "all", images=160))
    store = make_store(images, texts_of(truth), tmp_path / "words")
    made = label_sets_by_texts(images, [store], tmp_path / "text", encoders=[WordEncoder()])
    known = made.manifest.estimate
    train, missing = images.split("train"), images.label_matrix < 0
    assert known.missing == missing[train].sum() == known.filled and known.changed == 0
    filled = made.fill(images)
    assert (filled.label_matrix[missing] == truth.label_matrix[missing]).mean() > 0.9
    assert (filled.label_matrix[~missing] == images.label_matrix[~missing]).all()
    assert filled.rows.schema.field("label").type == images.rows.schema.field("label").type
    assert f"{missing[train].sum()} unknown labels" in "\n".join(made.lines())

    from gpt4image.soft_labels import set_labels

    with monkeypatch.context() as patch:
        patch.setattr(set_labels, "label_rows_with_sets", None)
        again = label_sets_by_texts(images, [store], tmp_path / "text", encoders=[WordEncoder()])
    assert again.manifest == made.manifest and (again.marks == made.marks).all()
    (tmp_path / "text" / "marks.npy").write_bytes(b"broken")
    mended = label_sets_by_texts(images, [store], tmp_path / "text", encoders=[WordEncoder()])
    assert (mended.marks == made.marks).all()
    unsure = label_sets_by_texts(images, [store], tmp_path / "text", encoders=[WordEncoder()], abstain=0.99)
    assert unsure.manifest.estimate.filled < known.filled
    assert SetLabels(tmp_path / "text").manifest == unsure.manifest
    with pytest.raises(ConfigError, match="at least 2 folds"):
        label_sets_by_texts(images, [store], tmp_path / "text", folds=1)
    with pytest.raises(DescriptionError, match="None of the training images"):
        empty = make_store(images, [[] if row in train else "a" for row in range(len(images))], tmp_path / "none")
        label_sets_by_texts(images, [empty], tmp_path / "other")


@pytest.mark.slow
def test_commands_label_and_train_on_what_texts_fill_in(tmp_path, capsys):
    source, work = write_several_labels(tmp_path / "photos", images=120, unknown=0.6), str(tmp_path / "work")
    assert main(["label", str(source), "--work", work, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    estimate = said["text_labels"]["estimate"]
    assert main(["label", str(source), "--work", work, "--label-form", "soft"]) == 1
    assert "With several labels per image" in capsys.readouterr().err
    assert estimate["filled"] == estimate["missing"] > 0 and set(said["per_class"]) == set(NAMES)
    recipe = [
        "--backbone",
        "test_resnet",
        "--no-pretrained",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    words = ["compare", str(source), "--work", work, *recipe, "--seeds", "1"]
    assert main([*words, "--arms", "text-labels", "--json"]) == 0
    arms = {each["name"] for each in json.loads(capsys.readouterr().out)["arms"]}
    assert arms == {"baseline", "text-labels"}
    assert main([*words, "--arms", "image-labels", "described"]) == 1
    assert "image-labels needs one class per image" in capsys.readouterr().err


def corrected(images, path, lines):
    path.write_text("\n".join(["id,path,given,decision,label", *lines]))
    return apply_corrections(images, path)


def test_corrections_of_several_labels_change_one_class_each(images, tmp_path):
    ids, marks = images.rows["id"].to_pylist(), images.label_matrix
    known = np.flatnonzero(images.is_labelled)
    first, second, third = known[:3].tolist()
    has, name = marks[first, 0] > 0, NAMES[0]
    given, other = label_in_words(name, has), label_in_words(name, not has)
    lines = [f"{ids[first]},x,{given},relabel,{other}", f"{ids[first]},x,with {NAMES[1]},keep,"]
    changed = corrected(images, tmp_path / "c.csv", [*lines, f"{ids[second]},x,with {NAMES[1]},drop,"])
    assert len(changed) == len(images) - 1 and ids[second] not in changed.rows["id"].to_pylist()
    expected = np.delete(marks, second, axis=0)
    expected[first, 0] = 1 - expected[first, 0]
    assert (changed.label_matrix == expected).all()
    with pytest.raises(DataError, match=r"line 2: 'with owl' is not a class.*with NAME or without NAME"):
        corrected(images, tmp_path / "c.csv", [f"{ids[third]},x,,relabel,with owl"])
    with pytest.raises(DataError, match="none of its 1 image is in"):
        corrected(images, tmp_path / "c.csv", ["0,x,,keep,"])


@pytest.mark.slow
def test_audit_shows_planted_errors_on_a_page_whose_corrections_mend_them(tmp_path, capsys):
    source = write_several_labels(tmp_path / "photos", images=200)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    planted = {row["path"] for row in rows[::13] if row["split"] == "train"}
    for number, row in enumerate(rows):
        row["description"] += f" Number {number}."  # images with one text would be judged together
        if row["path"] in planted:
            row["labels"] = [name for name in NAMES if name not in row["labels"]]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    work = tmp_path / "work"
    assert main(["audit", str(source), "--work", str(work)]) == 0
    said = capsys.readouterr().out
    audit = AuditRecord.load(WorkDir(work).audit)
    assert f"labels likely wrong, by text and label: {audit.found['label']}" in said
    found = {item.path for item in audit.items[: 3 * len(planted)]}
    assert planted <= found and len(audit.items) < 6 * len(planted)
    assert audit.items[0].suggested == audit.items[0].given.replace("without", "with") or (
        audit.items[0].given == audit.items[0].suggested.replace("without", "with")
    )
    page = WorkDir(work).audit_page.read_text()
    assert f"Keep {audit.items[0].given}" in page and "hidden><option" in page
    lines = [f"{item.image_id},{item.path},{item.given},relabel,{item.suggested}" for item in audit.items]
    (tmp_path / "corrections.csv").write_text("\n".join(["id,path,given,decision,label", *lines]))
    words = ["audit", str(source), "--work", str(work), "--corrections", str(tmp_path / "corrections.csv")]
    assert main(words) == 0
    assert len(AuditRecord.load(WorkDir(work).audit).items) <= len(planted) / 2
    assert main([*words, "--write", "cleanlab"]) == 1
    assert "needs one class per image" in capsys.readouterr().err
