"""Images with masks, from a folder to the report, the exported model and its masks."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from safetensors.torch import save_file

from gpt4image import load_images, open_run
from gpt4image.__main__ import main
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison
from gpt4image.tasks.mask_metrics import mean_iou
from support.scenes import NAMES, draw_scenes, write_masks

SCENES = draw_scenes(32)
MODEL = ("--backbone", "lraspp:test_resnet", "--no-pretrained", "--image-size", "64", "--epochs", "2")
CLASSES = ("background", *NAMES)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_masks(tmp_path_factory.mktemp("scenes") / "set", SCENES)
    (folder / "masks" / "train" / f"{SCENES[0].name}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def compared(source, tmp_path_factory):
    """The work directory of a comparison, and what it printed as JSON."""
    work, said = tmp_path_factory.mktemp("compared"), io.StringIO()
    words = ["compare", str(source), "--task", "segmentation", "--text", str(source / "descriptions.jsonl"), *MODEL]
    with redirect_stdout(said):
        code = main([*words, "--batch-size", "4", "--seeds", "2", "--work", str(work), "--json"])
    assert code == 0
    return work, json.loads(said.getvalue())


@pytest.mark.slow
def test_comparison_is_of_the_mean_iou_of_each_image(compared, source):
    work, said = compared
    images = load_images(source, task="segmentation")
    record = Comparison.load(work / "comparison.json")
    assert (record.task, record.score, said["score"]) == ("segmentation", *["mean IoU per image"] * 2)
    differences = []
    for seed in (0, 1):
        means = {}
        for arm in ("baseline", "described"):
            found = predict_test_images(open_run(work / "runs" / f"{arm}-{seed}"), images)
            means[arm] = found.scores.mean()
            (run,) = (run for each in record.arms if each.name == arm for run in each.runs if run.seed == seed)
            assert run.test_accuracy == pytest.approx(means[arm])
            assert (run.mean_iou, run.pixel_accuracy) == pytest.approx(mean_iou(found.sums(4)))
        differences.append(means["described"] - means["baseline"])
    assert record.difference.per_seed == pytest.approx(differences)
    assert record.difference.covers == "seeds and images"
    assert [each.name for each in record.per_class] == list(CLASSES)
    page = (work / "report.html").read_text()
    assert "Mean test mean IoU per image" in page and "mIoU" in page and f"{SCENES[0].name}.png" in page


@pytest.mark.slow
def test_exported_forms_find_what_the_trained_model_finds(compared, source, tmp_path, capsys):
    run, folder = open_run(compared[0] / "runs" / "described-0"), tmp_path / "model"
    words = ["export", str(source), "--task", "segmentation", "--run", str(run.layout.folder), "--out", str(folder)]
    assert main([*words, "--work", str(compared[0])]) == 0
    assert json.loads((folder / "config.json").read_text())["architecture"] == "lraspp:test_resnet"
    card = (folder / "README.md").read_text()
    assert "A segmentation model of 4 classes" in card and "image-segmentation" in card and "mIoU" in card
    graph = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert graph.run(None, {"images": np.zeros((2, 3, 64, 64), np.float32)})[0].shape == (2, 4, 64, 64)
    images = load_images(source, task="segmentation")
    expected = predict_test_images(run, images)
    files = [source / images.path(row) for row in expected.rows.tolist()]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    capsys.readouterr()
    words = ["predict", str(folder), *map(str, files), str(bad), "--csv"]
    assert main([*words, "--masks", str(tmp_path / "masks"), "--drawn", str(tmp_path / "drawn")]) == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert "not an image" in rows[-1]["error"] and all(name in CLASSES for name in [rows[0]["classes"].split()[0]])
    assert (tmp_path / "masks" / "classes.txt").read_text().split() == list(CLASSES)
    for file, predicted in zip(files, expected.predicted, strict=True):
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{file.stem}.png"))
        assert mask.shape == (64, 96)
        coarse = predicted.reshape(64, 64)[(np.arange(64) * 64 // 96)][:, (np.arange(96) * 64 // 96)]
        assert (mask == coarse).mean() > 0.95  # the edges are finer
        assert Image.open(tmp_path / "drawn" / f"{file.stem}.png").size == (96, 64)


def test_folder_of_another_model_writes_no_masks(tmp_path, capsys):
    save_file({}, tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["cat", "dog"], "model_args": {}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {}}))
    assert main(["predict", str(tmp_path), "photo.jpg", "--masks", str(tmp_path / "masks")]) != 0
    assert "need a segmentation model" in " ".join(capsys.readouterr().err.split())
