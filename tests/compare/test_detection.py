"""Images with boxes, from a COCO folder to the report, the exported detector and its predictions."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from gpt4image import load_images, open_run
from gpt4image.__main__ import main
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison
from gpt4image.core.errors import ConfigError
from gpt4image.export import detect_objects, open_detector
from gpt4image.export import detector as forms
from gpt4image.export.detector import Detections, Found, check_folders, write_drawn
from gpt4image.images import MAX_PIXELS
from gpt4image.tasks.box_metrics import mean_average_precision
from support.scenes import NAMES, draw_scenes, write_coco

SCENES = draw_scenes(32)
MODEL = ("--backbone", "ssdlite:test_resnet", "--no-pretrained", "--image-size", "64", "--epochs", "2")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_coco(tmp_path_factory.mktemp("scenes") / "set", SCENES)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].append(content["annotations"][-1])  # a duplicate is left out
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def compared(source, tmp_path_factory):
    """The work directory of a comparison, and what it printed as JSON."""
    work, said = tmp_path_factory.mktemp("compared"), io.StringIO()
    words = ["compare", str(source), "--task", "detection", "--text", str(source / "descriptions.jsonl"), *MODEL]
    with redirect_stdout(said):
        code = main([*words, "--batch-size", "4", "--seeds", "2", "--work", str(work), "--json"])
    assert code == 0
    return work, json.loads(said.getvalue())


@pytest.fixture(scope="module")
def exported(compared, source, tmp_path_factory):
    """The run that is exported, and the folder of the exported detector."""
    work, folder = compared[0], tmp_path_factory.mktemp("exported") / "model"
    run = open_run(work / "runs" / "described-0")
    words = ["export", str(source), "--task", "detection", "--run", str(run.layout.folder), "--out", str(folder)]
    assert main([*words, "--work", str(work)]) == 0
    return run, folder


@pytest.mark.slow
def test_comparison_is_of_the_average_precision_of_each_image(compared, source):
    work, said = compared
    images = load_images(source, task="detection")
    record = Comparison.load(work / "comparison.json")
    assert (record.task, record.score, said["score"]) == ("detection", *["average precision per image"] * 2)
    assert record.data.rejected_boxes == 1
    differences = []
    for seed in (0, 1):
        means = {}
        for arm in ("baseline", "described"):
            found = predict_test_images(open_run(work / "runs" / f"{arm}-{seed}"), images)
            means[arm] = found.scores.mean()
            (run,) = (run for each in record.arms if each.name == arm for run in each.runs if run.seed == seed)
            assert run.test_accuracy == pytest.approx(means[arm])
            both = run.mean_average_precision, run.mean_average_precision_50
            assert both == pytest.approx(mean_average_precision(found.logits, found.labels))
        differences.append(means["described"] - means["baseline"])
    assert record.difference.per_seed == pytest.approx(differences)
    assert record.difference.covers == "seeds and images"
    assert [each.name for each in record.per_class] == list(NAMES)
    with (work / "experiments" / said["experiment"] / "test_answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    page = (work / "report.html").read_text()
    assert "Mean test average precision per image" in page and "mAP at 0.5" in page and "COCO" in page


@pytest.mark.slow
def test_exported_forms_find_what_the_trained_detector_finds(exported, source, tmp_path, capsys):
    run, folder = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "ssdlite:test_resnet" and len(config["thresholds"]) == 3
    assert (folder / "model.onnx").exists()
    card = (folder / "README.md").read_text()
    assert "A detector of 3 classes" in card and "object-detection" in card
    config["thresholds"] = [0.1, 0.1, 0.1]
    (folder / "config.json").write_text(json.dumps(config))
    images = load_images(source, task="detection")
    expected = predict_test_images(run, images)
    files = [source / images.path(row) for row in expected.rows.tolist()]
    found = list(detect_objects(open_detector(folder), files))
    for rows, each in zip(expected.logits, found, strict=True):
        shown = rows[(rows[:, 0] >= 0) & (rows[:, 5] >= 0.1)]
        assert [(each.name, each.score) for each in each.objects] == [
            (NAMES[int(row[0])], pytest.approx(row[5], abs=1e-4)) for row in shown
        ]
        for box, row in zip(each.objects, shown, strict=True):
            np.testing.assert_allclose(box.box, np.clip(96 * row[1:5], 0, [96, 64, 96, 64]), atol=0.01)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    capsys.readouterr()
    words = ["predict", str(folder), *map(str, files), str(bad), "--csv"]
    assert main([*words, "--coco", str(tmp_path / "out.json"), "--drawn", str(tmp_path / "drawn")]) == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["count"]) for row in rows[:-1]] == [len(each.objects) for each in found]
    assert "not an image" in rows[-1]["error"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["images"]) == len(files)
    assert len(written["annotations"]) == sum(len(each.objects) for each in found) > 0
    assert {entry["category_id"] for entry in written["annotations"]} <= {1, 2, 3}
    assert len(list((tmp_path / "drawn").iterdir())) == len(files)
    drawn = np.asarray(Image.open(tmp_path / "drawn" / f"{files[0].stem}.png"))
    assert drawn.shape == (64, 96, 3)


@pytest.mark.slow
def test_written_predictions_are_a_source_of_boxes(exported, source, tmp_path):
    files = sorted((source / "images").glob("*.png"))[:8]
    given = [Detections(file, (96, 64), (Found("red", 0.9, (1.0, 2.0, 30.5, 40.0)),)) for file in files]
    forms.write_coco(tmp_path / "objects.json", given, NAMES)
    images = load_images(tmp_path / "objects.json", task="detection", validation_share=0.2, test_share=0.2)
    assert len(images) == 8 and images.classes == ("red",)
    np.testing.assert_allclose(images.boxes()[0], [[0, 1, 2, 30.5, 40]])


@pytest.mark.slow
def test_boxes_without_a_class_get_it_from_their_texts(source, tmp_path, capfd):
    """A text tells the colour, and a fifth of the boxes say what a colour is called."""
    words = ["compare", str(source), "--task", "detection", "--text", str(source / "descriptions.jsonl"), *MODEL]
    words += ["--crops", "0.1", "--crop-text", str(source / "objects.jsonl"), "--arms", "text-labels"]
    words += ["--label-share", "0.2", "--batch-size", "4", "--seeds", "1", "--work", str(tmp_path)]
    assert main(words) == 0
    images = load_images(source, task="detection")
    runs = {arm: open_run(tmp_path / "runs" / f"{arm}-0") for arm in ("baseline", "text-labels")}
    known = {arm: run.layout.read_images()["boxes"].to_pylist() for arm, run in runs.items()}
    given = [
        boxes
        for boxes, split in zip(images.rows["boxes"].to_pylist(), images.rows["split"].to_pylist(), strict=True)
        if split != "test"
    ]
    assert known["text-labels"] == given
    assert 0 < sum(box[0] >= 0 for boxes in known["baseline"] for box in boxes) < sum(map(len, given))
    assert "labels from the descriptions" in (tmp_path / "report.html").read_text()
    assert main([*words[:6], *MODEL, "--arms", "text-labels", "--seeds", "1", "--work", str(tmp_path / "two")]) != 0
    assert "labels boxes by their own descriptions" in " ".join(capfd.readouterr().err.split())


def test_folder_of_a_classifier_draws_no_boxes(tmp_path, capsys):
    save_file({}, tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["cat", "dog"], "model_args": {}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {}}))
    assert main(["predict", str(tmp_path), "photo.jpg", "--coco", str(tmp_path / "out.json")]) != 0
    assert "need a detector" in " ".join(capsys.readouterr().err.split())


def test_drawn_images_of_the_same_name_get_numbers_and_overwrite_no_image(source, tmp_path):
    file = sorted((source / "images").glob("*.png"))[0]
    found, taken = Detections(file, (96, 64), (Found("red", 0.9, (1.0, 2.0, 30.5, 40.0)),)), set()
    for _ in range(2):
        write_drawn(tmp_path, found, NAMES, MAX_PIXELS, taken)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"{file.stem}-2.png", file.name]
    with pytest.raises(ConfigError, match="images that could be overwritten: name another folder for drawn"):
        check_folders({"drawn": file.parents[1] / "images"}, [tmp_path / "other.png", file])
    with pytest.raises(ConfigError, match="masks and drawn write files of the same names"):
        check_folders({"masks": tmp_path, "drawn": tmp_path}, [file])
