"""Out-of-fold soft labels from texts: leakage groups, splits, recomputation after changes, interruption."""

import signal
from pathlib import Path

import numpy as np
import pytest

from gpt4image import EmbeddingStore, SoftLabels, label_by_vectors
from gpt4image.core.errors import ConfigError, DataError, DescriptionError
from gpt4image.soft_labels import existing_labels, labeller, report_labels, write_label_issues
from gpt4image.soft_labels.report import LabelIssue
from support.forks import forked_python
from support.labelling_parts import WordEncoder, image_id, informative_texts, make_store, make_table

CLASSES = ("ant", "bee", "cow")
LABELS = [number % 3 for number in range(60)]


def positions(labels, images):
    return labels.find(images.ids)


@pytest.fixture
def fits(monkeypatch):
    """Record the arguments of each cross-fit."""
    found = []
    fit = labeller.cross_fit

    def record(vectors, labels, groups, *arguments, **settings):
        found.append((np.asarray(vectors), labels.copy(), groups))
        return fit(vectors, labels, groups, *arguments, **settings)

    monkeypatch.setattr(labeller, "cross_fit", record)
    return found


def test_informative_texts_label_their_images(tmp_path):
    images = make_table(LABELS, CLASSES)
    store = make_store(images, informative_texts(LABELS, CLASSES), tmp_path / "words")
    labels = label_by_vectors(images, [store], tmp_path / "labels")
    shares = labels.take(positions(labels, images))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares.argmax(axis=1) == images.labels).mean() > 0.9
    quality = labels.manifest.quality
    assert quality.accuracy == (shares.argmax(axis=1) == images.labels).mean()
    own = shares[np.arange(60), images.labels]
    assert quality.negative_log_likelihood == pytest.approx(-np.log(own).mean(), abs=2e-3)
    origin = labels.manifest.origin
    assert (origin.kind, origin.folds, origin.strength, origin.seed) == ("text", 5, 3.0, 0)
    assert [(source.name, source.revision) for source in origin.sources] == [("words", "1")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "labels.lock", "words", "words.lock"]


def test_images_with_one_text_leak_nothing(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    pair_labels = generator.integers(0, 3, 60)
    images = make_table(np.repeat(pair_labels, 2).tolist(), CLASSES)
    texts = [f"a{pair} b{pair}" for pair in range(60) for _ in range(2)]
    store = make_store(images, texts, tmp_path / "words", WordEncoder(width=100))
    honest = label_by_vectors(images, [store], tmp_path / "honest", strength=30)
    assert honest.manifest.quality.accuracy < 0.45
    monkeypatch.setattr(labeller.TrainingVectors, "groups", lambda self: np.arange(len(self.ids)))
    leaky = label_by_vectors(images, [store], tmp_path / "leaky", strength=30)
    assert leaky.manifest.quality.accuracy > 0.8


def test_shared_texts_in_any_store_form_leakage_groups(tmp_path, fits):
    images = make_table(LABELS, CLASSES)
    several = [[f"own{row}", f"more{row}"] for row in range(60)]
    several[4].append("own0")
    several[9].insert(0, "more4")
    alone = [f"other{row}" for row in range(60)]
    alone[20] = alone[21] = "the same"
    stores = [
        make_store(images, several, tmp_path / "words"),
        make_store(images, alone, tmp_path / "two", WordEncoder("two", width=8)),
    ]
    label_by_vectors(images, stores, tmp_path / "labels")
    (vectors, labels, groups) = fits[0]
    order = np.argsort(images.ids)
    np.testing.assert_array_equal(labels, images.labels[order])
    group_of = dict(zip(order.tolist(), groups.tolist(), strict=True))
    assert group_of[0] == group_of[4] == group_of[9]
    assert group_of[20] == group_of[21]
    assert len(set(groups.tolist())) == 57
    expected = np.concatenate([store.take(store.find(images.ids[order])) for store in stores], axis=1)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)


def test_validation_and_test_images_are_not_used(tmp_path, monkeypatch, fits):
    splits = ["train", "train", "train", "train", "validation", "test"] * 10
    labels = np.random.default_rng(0).integers(0, 3, 60).tolist()
    images = make_table(labels, CLASSES, splits)
    store = make_store(images, informative_texts(labels, CLASSES), tmp_path / "words")
    taken = []
    take = EmbeddingStore.take
    monkeypatch.setattr(EmbeddingStore, "take", lambda self, at, *more: taken.extend(at) or take(self, at, *more))
    labels = label_by_vectors(images, [store], tmp_path / "labels")
    train = images.split("train")
    assert sorted(taken) == sorted(store.find(images.ids[train]))
    np.testing.assert_array_equal(positions(labels, images) >= 0, np.isin(np.arange(60), train))
    assert len(fits[0][1]) == 40


def test_images_without_label_get_soft_labels_and_those_without_text_none(tmp_path):
    given = [-1 if number % 10 == 5 else label for number, label in enumerate(LABELS)]
    texts = informative_texts(LABELS, CLASSES)
    texts[7] = []
    images = make_table(given, CLASSES)
    labels = label_by_vectors(images, [make_store(images, texts, tmp_path / "words")], tmp_path / "labels")
    shares = labels.take(positions(labels, images))
    assert not shares[7].any()
    assert len(labels) == 59
    free = [row for row in range(60) if row % 10 == 5]
    assert (shares[free].argmax(axis=1) == np.asarray(LABELS)[free]).mean() > 0.8
    assert labels.manifest.quality.images == 53


def test_images_missing_from_a_store_get_no_soft_label(tmp_path):
    images = make_table(LABELS, CLASSES)
    texts = informative_texts(LABELS, CLASSES)
    whole = make_store(images, texts, tmp_path / "words")
    part = make_store(images, [*texts[:50], *([[]] * 10)], tmp_path / "two", WordEncoder("two"))
    labels = label_by_vectors(images, [whole, part], tmp_path / "labels")
    np.testing.assert_array_equal(positions(labels, images) >= 0, np.arange(60) < 50)
    assert [source.name for source in labels.manifest.origin.sources] == ["words", "two"]


def test_copies_count_once_and_images_in_several_classes_once_each(tmp_path, fits):
    numbers = [*range(60), 0, 1, 2, 2]
    given = [*LABELS, 0, 1, 0, -1]  # copies of 0 and 1 as they are, one of 2 in another class and one in none
    images = make_table(given, CLASSES, numbers=numbers)
    texts = [*informative_texts(LABELS, CLASSES), [], [], [], []]
    labels = label_by_vectors(images, [make_store(images, texts, tmp_path / "words")], tmp_path / "labels")
    _, fitted, groups = fits[0]
    assert (len(labels), len(fitted), len(np.unique(groups))) == (60, 62, 60)
    report = report_labels(labels, images)
    assert len(report.per_class) == 3
    # as many labels are examined as the classifier was judged by: a copy in the same class adds none
    assert labels.manifest.quality.images == 61 == sum(count for count, _ in report.per_class.values())
    assert "of 61 given labels" in " ".join(report.lines()) and "of 60 distinct training images" in report.lines()[0]


def test_order_of_the_table_does_not_matter(tmp_path):
    texts = informative_texts(LABELS, CLASSES)
    images = make_table(LABELS, CLASSES)
    store = make_store(images, texts, tmp_path / "words")
    there = label_by_vectors(images, [store], tmp_path / "labels")
    turned = make_table(LABELS[::-1], CLASSES, numbers=range(59, -1, -1))
    again = label_by_vectors(turned, [store], tmp_path / "turned")
    np.testing.assert_array_equal(there.take(np.arange(60)), again.take(np.arange(60)))
    assert there.manifest == again.manifest


@pytest.mark.slow
def test_labels_are_recomputed_only_after_a_change(tmp_path, fits):
    folder = tmp_path / "labels"
    texts = informative_texts(LABELS, CLASSES)
    images = make_table(LABELS, CLASSES)
    store = make_store(images, texts, tmp_path / "words")

    def label(images=images, store=store, **settings):
        before = len(fits)
        label_by_vectors(images, [store], folder, **settings)
        return len(fits) - before

    assert [label(), label()] == [1, 0]
    for settings in ({"strength": 1.0}, {"folds": 3}, {"seed": 1}, {"kind": "images"}):
        assert [label(**settings), label(**settings)] == [1, 0], settings
    assert label() == 1
    other_labels = make_table([1, *LABELS[1:]], CLASSES)
    assert [label(other_labels), label(other_labels)] == [1, 0]
    assert label() == 1
    other_names = make_table(LABELS, ("ant", "bee", "dog"))
    assert [label(other_names), label(other_names)] == [1, 0]
    fewer = make_table(LABELS, CLASSES, ["test", *["train"] * 59])
    assert [label(fewer), label(fewer)] == [1, 0]
    assert label() == 1
    other_text = make_store(images, ["another text", *texts[1:]], tmp_path / "other")
    assert [label(store=other_text), label(store=other_text)] == [1, 0]
    newer = make_store(images, texts, tmp_path / "newer", WordEncoder(revision="2"))
    assert [label(store=newer), label(store=newer)] == [1, 0]
    (folder / "logits.npy").write_bytes(b"broken")
    assert [label(store=newer), label(store=newer)] == [1, 0]


def test_errors_name_the_missing_input(tmp_path):
    images = make_table(LABELS, CLASSES)
    texts = informative_texts(LABELS, CLASSES)
    store = make_store(images, texts, tmp_path / "words")
    folder = tmp_path / "labels"
    with pytest.raises(ConfigError, match="gpt4image embed"):
        label_by_vectors(images, [], folder)
    for settings in ({"strength": 0.0}, {"strength": float("nan")}, {"folds": 1}):
        with pytest.raises(ConfigError, match="above 0"):
            label_by_vectors(images, [store], folder, **settings)
    with pytest.raises(DataError, match="needs at least 2"):
        label_by_vectors(make_table([0] * 60, ["ant"]), [store], folder)
    with pytest.raises(DescriptionError, match=r"None of the 60 training images.*gpt4image describe"):
        label_by_vectors(make_table(LABELS, CLASSES, numbers=range(100, 160)), [store], folder)
    with pytest.raises(DescriptionError, match="None of the 60"):
        label_by_vectors(make_table([-1] * 60, CLASSES), [store], folder)
    with pytest.raises(DescriptionError, match="None of the 0"):
        label_by_vectors(make_table(LABELS, CLASSES, ["test"] * 60), [store], folder)
    with pytest.raises(DescriptionError, match="two classes or more"):
        label_by_vectors(make_table([1] * 60, CLASSES), [store], folder)
    names = make_store(images, [f"a photo of {CLASSES[label]}" for label in LABELS], tmp_path / "names")
    with pytest.raises(DescriptionError, match="two classes or more"):
        label_by_vectors(images, [names], folder)
    assert not folder.exists()


def test_image_alone_in_its_class_gets_no_soft_label(tmp_path, capsys):
    images = make_table([2, *[number % 2 for number in range(59)]], CLASSES)
    store = make_store(
        images, informative_texts([2, *[number % 2 for number in range(59)]], CLASSES), tmp_path / "words"
    )
    labels = label_by_vectors(images, [store], tmp_path / "labels")

    assert (positions(labels, images) < 0).tolist() == [True] + [False] * 59
    assert "'cow' (1)" in capsys.readouterr().err


def test_existing_labels_are_found_whatever_their_settings(tmp_path):
    images = make_table(LABELS, CLASSES)
    store = make_store(images, informative_texts(LABELS, CLASSES), tmp_path / "words")
    assert existing_labels(images, [store], tmp_path / "labels") is None
    label_by_vectors(images, [store], tmp_path / "labels", strength=0.5, folds=3)
    assert existing_labels(images, [store], tmp_path / "labels").manifest.origin.strength == 0.5
    assert existing_labels(make_table([1, *LABELS[1:]], CLASSES), [store], tmp_path / "labels") is None


def test_classes_without_descriptions_get_a_small_probability(tmp_path):
    images = make_table(LABELS, [*CLASSES, "yak"])
    store = make_store(images, informative_texts(LABELS, CLASSES), tmp_path / "words")
    labels = label_by_vectors(images, [store], tmp_path / "labels")
    shares = labels.take(positions(labels, images))
    assert ((shares[:, 3] > 0) & (shares[:, 3] < 0.05)).all()


def test_likely_label_errors_are_listed_with_control_characters_escaped(tmp_path):
    given = [*LABELS, 1]
    texts = [*informative_texts(LABELS, CLASSES), "ant antish ant antish"]
    images = make_table(given, CLASSES)
    store = make_store(images, texts, tmp_path / "words")
    labels = label_by_vectors(images, [store], tmp_path / "labels", strength=30)
    report = report_labels(labels, images)
    first = report.issues[0]
    assert (first.image_id, first.path, first.label, first.likelier) == (image_id(60), "60.png", "bee", "ant")
    assert first.probability * 20 < first.its_probability
    assert [issue.probability for issue in report.issues] == sorted(issue.probability for issue in report.issues)
    shares = [share for _, share in report.per_class.values()]
    assert shares == sorted(shares)
    assert sum(count for count, _ in report.per_class.values()) == 61
    lines = "\n".join(report.lines())
    assert f"of {labels.manifest.quality.images} given labels" in lines
    assert "temperature" in lines

    hostile = LabelIssue("0" * 32, "a\x1b[31m\tb.png", "c\nd", 0.001, "e\x07", 0.9)
    write_label_issues(tmp_path / "doubtful.tsv", [hostile])
    heading, line = (tmp_path / "doubtful.tsv").read_text().splitlines()
    assert len(heading.split("\t")) == len(line.split("\t")) == 6
    assert line.split("\t")[1:3] == [r"a\x1b[31m\tb.png", r"c\nd"]


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_labeller import CLASSES, LABELS
from support.labelling_parts import make_table
from gpt4image import EmbeddingStore, label_by_vectors
from gpt4image.probing import cross_fit
from gpt4image.soft_labels import store

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

match sys.argv[4]:
    case "fitting": cross_fit.fit_temperature = die
    case "writing": store.write_logits = die
    case "renaming": Path.rename = die
label_by_vectors(make_table(LABELS, CLASSES), [EmbeddingStore(sys.argv[2])], Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["fitting", "writing", "renaming"])
def test_killed_labelling_ends_in_the_same_bytes(tmp_path, fits, moment):
    images = make_table(LABELS, CLASSES)
    store = make_store(images, informative_texts(LABELS, CLASSES), tmp_path / "words")
    folder = tmp_path / "labels"
    here = str(Path(__file__).parent)
    command = ["-c", SCRIPT, here, str(store.layout.folder), str(folder), moment]
    result = forked_python(command, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not folder.exists()
    labels = label_by_vectors(images, [store], folder)
    assert len(fits) == (0 if moment == "renaming" else 1)
    whole = label_by_vectors(images, [store], tmp_path / "whole")
    for name in ("ids.npy", "logits.npy", "manifest.json"):
        assert (labels.layout.folder / name).read_bytes() == (whole.layout.folder / name).read_bytes(), name
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"words", "words.lock", "labels", "labels.lock", "whole", "whole.lock"}


@pytest.mark.slow
def test_label_command_reports_quality_and_label_issues(image_set, descriptions_file, tmp_path, capsys):
    from gpt4image.cli.main import main

    command = ["label", str(image_set), "--text", str(descriptions_file), "--work", str(tmp_path)]
    assert main([*command, "--folds", "4", "--strength", "10", "--label-seed", "3"]) == 0
    output = capsys.readouterr().out
    folder = tmp_path / "labels" / "minilm"
    assert "out of fold: " in output
    assert f"soft labels of 24 images: {folder}" in output or str(folder) in output
    origin = SoftLabels(folder).manifest.origin
    assert (origin.folds, origin.strength, origin.seed) == (4, 10.0, 3)
    assert (folder / "doubtful.tsv").read_text().startswith("id\tpath\tlabel\t")
    assert main([*command, "--folds", "1"]) == 1
    assert "folds should be greater than or equal to 2, not 1" in capsys.readouterr().err
