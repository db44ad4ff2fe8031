"""Images with several labels, from a file to the report, the exported model and its predictions."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn import metrics

from gpt4image import load_images, open_run, train_model
from gpt4image.__main__ import main
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison
from gpt4image.core.errors import ConfigError
from support.several_labels import NAMES, write_several_labels
from support.training import StoppedError, observe, same_weights

MODEL = ("--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_several_labels(tmp_path_factory.mktemp("several") / "photos", unknown=0.25)


@pytest.fixture(scope="module")
def images(source):
    return load_images(source)


@pytest.fixture(scope="module")
def compared(source, tmp_path_factory):
    """The work directory of a comparison, and what it printed as JSON."""
    from contextlib import redirect_stdout

    work, said = tmp_path_factory.mktemp("compared"), io.StringIO()
    with redirect_stdout(said):
        words = ["compare", str(source), *MODEL, "--targets", "label", "--seeds", "2"]
        code = main([*words, "--work", str(work), "--json"])
    assert code == 0
    return work, json.loads(said.getvalue())


@pytest.mark.slow
def test_comparison_is_of_the_average_precision_of_each_image(compared, images):
    work, said = compared
    record = Comparison.load(work / "comparison.json")
    assert (record.task, record.score, said["score"]) == ("multi-label", *["average precision per image"] * 2)
    differences = []
    for seed in (0, 1):
        means = {}
        for arm in ("baseline", "described"):
            found = predict_test_images(open_run(work / "runs" / f"{arm}-{seed}"), images)
            means[arm] = metrics.label_ranking_average_precision_score(found.labels, found.logits)
            (run,) = (run for each in record.arms if each.name == arm for run in each.runs if run.seed == seed)
            assert run.test_accuracy == pytest.approx(means[arm])
            precision = metrics.average_precision_score(found.labels, found.logits, average="macro")
            assert run.mean_average_precision == pytest.approx(precision)
            assert run.micro_f1 == pytest.approx(metrics.f1_score(found.labels, found.chosen, average="micro"))
        differences.append(means["described"] - means["baseline"])
    assert record.difference.per_seed == pytest.approx(differences)
    assert record.difference.covers == "seeds and images"
    assert [each.name for each in record.per_class] == list(NAMES)
    with (work / "experiments" / said["experiment"] / "test_answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {name for row in rows for name in row["label"].split(", ")} <= {*NAMES, "none"}
    page = (work / "report.html").read_text()
    assert "Mean test average precision per image" in page and "mAP" in page
    prose = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)  # figures have ids of their own
    assert 'id="confusion"' not in prose
    assert "accuracy" not in prose.lower()


@pytest.mark.slow
def test_exported_model_predicts_labels_from_their_thresholds_on(compared, source, images, tmp_path, capsys):
    work, _ = compared
    run = open_run(work / "runs" / "described-0")
    assert len(run.thresholds) == 3
    words = ["export", str(source), "--run", str(run.layout.folder), "--out", str(tmp_path / "model"), "--no-onnx"]
    assert main([*words, "--work", str(work)]) == 0
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["task"], config["thresholds"]) == ("multi-label", run.thresholds)
    assert "mean average precision" in (tmp_path / "model/README.md").read_text()
    expected = predict_test_images(run, images)
    files = [str(source.parent / images.path(row)) for row in expected.rows.tolist()]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "model"), *files, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, logits, chosen in zip(rows, expected.logits, expected.chosen, strict=True):
        probabilities = [float(row[name]) for name in NAMES]
        assert probabilities == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-3)
        assert row["labels"] == ", ".join(name for name, given in zip(NAMES, chosen, strict=True) if given)


@pytest.mark.slow
def test_interrupted_training_resumes_in_the_same_weights_and_thresholds(images, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe(label_loss="asymmetric", label_smoothing=0.0, mixup=0.4)

    def train(name):
        return train_model(images, None, recipe, tmp_path / name, arm="baseline", checkpoint_seconds=0)

    with monkeypatch.context() as patch:
        seen = observe(patch, lambda _, __, batch: batch.labels.shape[1])
        whole = train("whole")
    assert set(seen) == {3}
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        observe(patch, lambda *_: None, stop_after=len(seen) // 2)
        train("stopped")
    resumed = train("stopped")
    assert same_weights(resumed.layout.weights, whole.layout.weights)
    assert resumed.thresholds == whole.thresholds
    assert whole.task == "multi-label"
    assert load_file(whole.layout.weights)["fc.weight"].shape[0] == 3


@pytest.mark.parametrize(
    ("arm", "changes", "said"),
    [
        ("image-labels", {}, "arm image-labels needs one class per image"),
        ("text-labels", {}, "labels that texts have filled in"),
        ("fixmatch", {}, "consistency needs one class per image"),
        ("gce", {}, "label_loss gce"),
        ("described", {"soft_labels": 0.5}, "soft_labels needs one class"),
        ("described", {"targets": "label", "queue": 8}, "set queue to 0"),
    ],
)
def test_arms_and_settings_of_one_class_an_image_are_refused(images, small_recipe, tmp_path, arm, changes, said):
    with pytest.raises(ConfigError, match=said):
        train_model(images, None, small_recipe(**changes), tmp_path, arm=arm)
