"""Models of clips for deployment: verified forms, and predictions for files that nobody prepared."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from gpt4image import Recipe, export_model, load_images, predict_images, train_model
from gpt4image.cli.main import main
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from support.clips import write_clip_set

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("clips") / "set")


@pytest.fixture(scope="module")
def clips(folder):
    return load_images(folder, frames=3, work=folder.parent / "work", validation_share=0.2, test_share=0.2)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    recipe = Recipe(
        backbone="test_resnet",
        pretrained=False,
        image_size=32,
        epochs=1,
        batch_size=4,
        warmup_epochs=0.0,
        frame_pooling="attention",
    )
    return train_model(clips, None, recipe, tmp_path_factory.mktemp("runs") / "baseline-0", arm="baseline")


@pytest.fixture(scope="module")
def model(run, clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    summary = export_model(run, clips, out)
    assert [found.form for found in summary.parity] == ["safetensors", "ONNX"]
    assert all(found.difference < 1e-3 for found in summary.parity)
    return out


def test_predictions_are_those_of_the_trained_model_and_broken_clips_are_named(run, clips, folder, model):
    found = {str(each.path.relative_to(folder)): each for each in predict_images(model, [folder], top=3)}
    assert len(found) == 21
    assert {path for path, each in found.items() if each.error} == {"left/cut.mp4", "right/empty.mp4", "down/nothing"}
    truth = predict_test_images(run, clips)
    for row, label, sure in zip(truth.rows.tolist(), truth.classes, truth.confidence, strict=True):
        answer = found[clips.path(row)].answers[0]
        assert answer[0] == clips.classes[label] and answer[1] == pytest.approx(sure, abs=1e-4)


def test_folder_of_frames_and_single_files_can_be_named(folder, model):
    found = list(predict_images(model, [folder / "down/clip2", folder / "left/1.mp4", folder / "missing.mp4"]))
    assert [bool(each.error) for each in found] == [False, False, True]


def test_video_next_to_pictures_is_a_clip_and_they_are_none(folder, model, tmp_path):
    for name in ("left/1.mp4", "left/clip2/frame0.png"):
        shutil.copy(folder / name, tmp_path)
    assert [each.path.name for each in predict_images(model, [tmp_path])] == ["1.mp4"]
    (tmp_path / "1.mp4").rename(tmp_path / "1.gif")  # FFmpeg goes by the content
    assert [(each.path.name, each.error) for each in predict_images(model, [tmp_path])] == [("1.gif", None)]


def test_command_prints_a_row_for_each_clip(folder, model, capsys):
    assert main(["predict", str(model), str(folder), "--csv", "--top", "1"]) == 3
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["path", "class_1", "probability_1", "error"] and len(rows) == 22


def test_card_and_configuration_say_what_the_model_sees(model):
    card = (model / "README.md").read_text()
    assert "3 frames each, evenly spaced" in card and "video-classification" in card
    assert "create_model" not in card
    assert json.loads((model / "config.json").read_text())["frames"] == "3 even 768"


def test_other_frames_than_in_training_are_refused(run, folder, tmp_path):
    with pytest.raises(ConfigError, match="set frames, frame_rule and frame_side"):
        export_model(run, load_images(folder, frames=5), tmp_path / "model")
