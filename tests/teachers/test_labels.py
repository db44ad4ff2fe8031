"""A classifier's logits as soft labels: same classes, looked up by id, computed once."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from gpt4image import SoftLabels, label_images, load_images
from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.teachers.labels import class_columns
from support.teacher_parts import CountingTeacher, kill_while_writing, pick, prepare, same_bytes


def predict(teacher, images, places) -> torch.Tensor:
    """Compute the logits of images directly."""
    return torch.from_numpy(teacher.predict(prepare(images, places, teacher.preparation.plain))).double()


@pytest.fixture(scope="module")
def teacher_labels(images, run_teacher, tmp_path_factory):
    return label_images(images, run_teacher, tmp_path_factory.mktemp("teacher") / "labels", batch_size=3)


def test_soft_labels_are_the_runs_probabilities(images, run, run_teacher, teacher_labels):
    train, labels = images.split("train"), teacher_labels
    assert np.flatnonzero(labels.find(images.ids) >= 0).tolist() == train.tolist()
    labels.check(images.classes)
    expected = predict(run_teacher, images, train)
    found = labels.take(labels.find(images.ids[train]), temperature=1.0)
    np.testing.assert_allclose(found, expected.softmax(1), atol=2e-3)
    origin = labels.manifest.origin
    assert (origin.kind, origin.sources[0].name) == ("classifier", f"run:{run.layout.folder}")


def test_temperature_and_quality_come_from_validation_images(images, run_teacher, teacher_labels, tmp_path):
    validation = images.split("validation")
    logits, given = predict(run_teacher, images, validation), torch.from_numpy(images.labels[validation]).long()

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / np.exp(log_temperature), given))

    best = np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x)
    manifest = teacher_labels.manifest
    assert manifest.temperature == pytest.approx(best, rel=0.02)
    assert manifest.quality.images == len(validation)
    assert manifest.quality.accuracy == pytest.approx(float((logits.argmax(1) == given).double().mean()))
    assert manifest.quality.negative_log_likelihood == pytest.approx(loss(np.log(best)), abs=1e-3)

    fixed = label_images(images, run_teacher, tmp_path / "labels", temperature=3.0)
    assert (fixed.manifest.temperature, fixed.manifest.quality.images) == (3.0, len(validation))
    assert label_images(images, run_teacher, tmp_path / "labels", temperature=5.0).manifest.temperature == 5.0
    assert label_images(images, run_teacher, tmp_path / "labels").manifest.temperature == manifest.temperature
    for splits in (("train", "validation"), ("validation",)):
        itself = label_images(images, run_teacher, tmp_path / "labels", splits=splits).manifest
        assert (itself.temperature, itself.quality) == (1.0, None)


def test_copies_of_labelled_images_are_not_held_out(images, run_teacher, tmp_path):
    rows = images.rows.take(
        np.concatenate([images.split("train"), images.split("train")[:4], images.split("validation")])
    )
    splits = ["train"] * 20 + ["validation"] * (rows.num_rows - 20)
    leaky = replace(images, rows=rows.set_column(rows.schema.get_field_index("split"), "split", [splits]))
    labels = label_images(leaky, run_teacher, tmp_path / "labels")
    assert labels.manifest.quality.images == len(images.split("validation"))


def test_classes_may_have_another_order(images, run_teacher, teacher_labels, tmp_path):
    counting = CountingTeacher(run_teacher)
    counting.classes = run_teacher.classes[::-1]
    counting.predict = lambda shown: run_teacher.predict(shown)[:, ::-1]
    turned = label_images(images, counting, tmp_path / "labels", batch_size=3)
    assert same_bytes(turned, teacher_labels)


def test_classes_of_a_teacher_match_in_composed_and_decomposed_characters(images, run_teacher):
    named = replace(images, classes=("blue", "green", "caf\u00e9"))
    teacher = CountingTeacher(run_teacher)
    teacher.classes = ("cafe\u0301", "blue", "green")
    assert class_columns(teacher, named).tolist() == [1, 2, 0]


def test_other_classes_and_invalid_teachers_are_rejected(images, run_teacher, resnet, tmp_path):
    other = replace(images, classes=("blue", "green", "violet"))
    with pytest.raises(ConfigError, match=r"other classes.*does not know: violet\. The images have no: red\. Use"):
        label_images(other, run_teacher, tmp_path / "labels")
    with pytest.raises(ConfigError, match=r"does not know: violet\. Use"):
        label_images(replace(images, classes=(*images.classes, "violet")), run_teacher, tmp_path / "labels")
    with pytest.raises(ConfigError, match="gives features, not logits: embed_images"):
        label_images(images, resnet, tmp_path / "labels")
    with pytest.raises(ConfigError, match="temperature of soft labels must be above 0"):
        label_images(images, run_teacher, tmp_path / "labels", temperature=0.0)
    with pytest.raises(DataError, match="has no images in train"):
        label_images(pick(images, images.split("test")), run_teacher, tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_only_new_images_are_computed(images, run_teacher, tmp_path):
    train, counting = images.split("train"), CountingTeacher(run_teacher)

    def label(table, **options) -> tuple[SoftLabels, int]:
        counting.seen.clear()
        return label_images(table, counting, tmp_path / "labels", batch_size=4, **options), sum(counting.seen)

    few, count = label(pick(images, train[5:]))
    assert (count, len(few), few.manifest.quality) == (15, 15, None)
    assert label(pick(images, train[5:]))[1] == 0
    probabilities = few.take(few.find(images.ids[train[5:]]))
    grown, count = label(pick(images, train))
    assert (count, len(grown)) == (5, 20)
    np.testing.assert_allclose(grown.take(grown.find(images.ids[train[5:]])), probabilities, atol=2e-3)
    counting.revision = "other"
    assert label(pick(images, train))[1] == 20
    assert not grown.layout.scratch.exists()


def test_unreadable_images_are_skipped_or_stop_the_labelling(image_set, run_teacher, tmp_path, capsys):
    shutil.copytree(image_set, tmp_path / "set")
    table = load_images(tmp_path / "set", validation_share=0.2, test_share=0.25)
    train = table.split("train")
    (tmp_path / "set" / table.path(int(train[0]))).write_bytes(b"")
    (tmp_path / "set" / table.path(int(table.split("validation")[0]))).unlink()
    labels = label_images(table, run_teacher, tmp_path / "labels", batch_size=3)
    assert "left out: 1 image that cannot be read, such as " in " ".join(capsys.readouterr().err.split())
    assert (len(labels), labels.find(table.ids[train[:1]]).tolist()) == (19, [-1])
    validation, quality = table.split("validation")[1:], labels.manifest.quality
    scaled = (predict(run_teacher, table, validation) / labels.manifest.temperature).log_softmax(1)
    given = table.labels[validation].tolist()
    likelihood = -float(scaled[range(len(given)), given].mean())
    assert quality.images == len(given) == 6
    assert quality.negative_log_likelihood == pytest.approx(likelihood, abs=1e-4)
    expected = predict(run_teacher, table, train[1:]).softmax(1)
    np.testing.assert_allclose(labels.take(labels.find(table.ids[train[1:]]), 1.0), expected, atol=2e-3)
    with pytest.raises(ImageError, match="on_bad_image to skip"):
        label_images(table, run_teacher, tmp_path / "strict", on_bad_image="fail")


@pytest.mark.slow
@pytest.mark.parametrize(("after", "left"), [(1, 12 + 7), (3, 7), (-1, 0)])
def test_killed_labelling_resumes_and_ends_in_the_same_bytes(images, image_set, run_teacher, tmp_path, after, left):
    folder, counting = tmp_path / "labels", CountingTeacher(run_teacher)
    teacher = {"name": run_teacher.name, "device": "cpu"}
    kill_while_writing(label_images, after, image_set, teacher, folder, batch_size=1)
    assert not folder.exists()
    resumed = label_images(images, counting, folder, batch_size=1)
    assert sum(counting.seen) == left
    assert same_bytes(resumed, label_images(images, run_teacher, tmp_path / "whole", batch_size=1))
    assert {path.name for path in tmp_path.iterdir()} == {"labels", "labels.lock", "whole", "whole.lock"}
