"""Predictions for files and folders: the files that training takes for images, each with an answer or a reason."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from gpt4image import load_images, predict_images
from gpt4image.__main__ import main
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.export import open_detector


@pytest.fixture
def folder(image_set, tmp_path):
    """Two class folders that hold all that a folder of images may hold besides images."""
    place = tmp_path / "photos"
    for name in ("red", "blue"):
        (place / name).mkdir(parents=True)
        shutil.copy(image_set / name / "004.png", place / name / "1.png")
        shutil.copy(image_set / name / "005.png", place / name / "2.png")
    for hidden in ("__MACOSX/red", ".ipynb_checkpoints", "red/.thumbnails", "red/@eaDir"):
        (place / hidden).mkdir(parents=True)
        shutil.copy(image_set / "red" / "006.png", place / hidden / "copy.png")
    (place / "red" / ".hidden.png").write_bytes(b"hidden")
    (place / "red" / "Thumbs.db").write_bytes(b"thumbnails")
    (place / "red" / "notes.md").write_text("neither an image nor named like one")
    (place / "red" / "dead.png").symlink_to("nowhere.png")
    (place / "red" / "broken.png").write_bytes(b"no image")
    (place / "red" / "around").symlink_to(place / "red", target_is_directory=True)
    return place


@pytest.mark.slow
def test_folder_gives_the_images_that_training_takes(exported, folder, capsys):
    table = load_images(folder)
    rejected = {found.path: found.reason for found in table.rejected if not found.path.endswith(".md")}
    capsys.readouterr()
    found = {str(p.path.relative_to(folder)): p for p in predict_images(exported, [folder])}
    said = "".join(capsys.readouterr().err.split())
    assert f"left out: 1 file, such as {folder}/red/notes.md (not an image)".replace(" ", "") in said
    assert set(found) == {table.path(row) for row in range(len(table))} | rejected.keys()
    assert {path: p.error for path, p in found.items() if p.error} == rejected
    assert set(rejected) == {"red/dead.png", "red/broken.png"}


def test_answers_are_the_most_probable_classes(exported, image_set):
    red, blue = predict_images(str(exported), [str(image_set / name / "004.png") for name in ("red", "blue")], top=2)
    assert (red.answers[0][0], blue.answers[0][0]) == ("red", "blue")
    assert len(red.answers) == 2 and red.answers[0][1] > red.answers[1][1]


def test_one_image_named_twice_is_predicted_twice(exported, image_set):
    path = image_set / "red" / "004.png"
    first, second = predict_images(exported, [path, path])
    assert first == second and first.answers


def test_unusable_images_are_named_and_the_rest_is_predicted(exported, image_set, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (60, 50)).save(large)
    os.mkfifo(tmp_path / "pipe.png")
    names = [tmp_path / "nowhere.png", large, tmp_path / "pipe.png", image_set / "red" / "004.png"]
    nowhere, large, pipe, red = predict_images(exported, names, max_pixels=2999)
    assert nowhere.error == "the file does not exist"
    assert large.error.startswith("60 x 50 pixels are more than the 2,999 that max_pixels")
    assert pipe.error == "not a regular file"
    assert red.answers and red.error is None


def test_nothing_to_predict_is_an_error(exported, image_set, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No images in .*empty"):
        list(predict_images(exported, [tmp_path / "empty"]))
    with pytest.raises(ConfigError, match="no exported model"):
        predict_images(tmp_path, [image_set / "red" / "004.png"])


def test_more_classes_than_the_model_has_are_not_promised(exported, folder, capsys):
    good = str(folder / "red" / "1.png")
    assert main(["predict", str(exported), good, "--top", "99", "--csv"]) == 0
    captured = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(captured.out, newline=""))
    names = [name for name in row if name.startswith("class_")]
    assert all(row[name] for name in names) and "class_99" not in names
    assert f"The model has {len(names)} classes: all are named, not 99" in captured.err
    assert main(["predict", str(exported), good, "--csv"]) == 0
    assert "all are named" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--csv", "--json", "--quiet"])
def test_table_without_a_model_has_no_header(image_set, tmp_path, capsys, form):
    assert main(["predict", str(tmp_path), str(image_set), form]) == 1
    captured = capsys.readouterr()
    assert "path,class_1" not in captured.out and "path\tclass_1" not in captured.out
    assert "contains no exported model. Name a folder written by gpt4image export" in " ".join(captured.err.split())


def test_command_prints_a_table_and_fails_for_unreadable_images(exported, folder, capsys):
    broken, good = str(folder / "red" / "broken.png"), str(folder / "red" / "1.png")
    assert main(["predict", str(exported), good, "--top", "2"]) == 0
    head, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert head == ["path", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert row[:2] == [good, "red"] and row[-1] == ""

    assert main(["predict", str(exported), good, broken, "--top", "2"]) == 3
    captured = capsys.readouterr()
    row = captured.out.splitlines()[-1].split("\t")
    assert row[:5] == [broken, "", "", "", ""] and row[5].startswith("not an image")
    assert "1 image could not be read" in captured.err
    assert main(["predict", str(exported), broken]) == 1
    assert main(["predict", str(exported), good, "--top", "0"]) == 1


def test_table_is_aligned_and_short_on_a_terminal(exported, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["predict", str(exported), "red/1.png", "red/broken.png", "--top", "2"]) == 3
    head, good, broken = capsys.readouterr().out.splitlines()
    assert head.split() == ["path", "class_1", "class_2", "error"]
    assert good[head.index("class_1") :].startswith("red ") and len(good) < 80
    assert broken[head.index("error") :].startswith("not an image")


def test_csv_and_json_hold_names_as_they_are(exported, folder, capsys):
    odd = folder / 'a "red"\t, \x1b[31m\n.png'
    shutil.copy(folder / "red" / "1.png", odd)
    assert main(["predict", str(exported), str(odd), "--csv"]) == 0
    printed = capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(printed, newline=""))
    assert (row["path"], row["class_1"], row["error"]) == (str(odd), "red", "")

    assert main(["predict", str(exported), str(odd), str(folder / "no.png"), "--json"]) == 3
    found, missing = map(json.loads, capsys.readouterr().out.splitlines())
    assert found["path"] == str(odd) and found["predictions"][0]["class"] == "red" and found["error"] is None
    assert missing == {
        "path": str(folder / "no.png"),
        "predictions": [],
        "labels": None,
        "error": "the file does not exist",
    }
    assert main(["predict", str(exported), str(odd), "--json", "--csv"]) == 1


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("[]"), "lacks all"),
        (lambda folder: (folder / "config.json").write_text(POINTER), "run git lfs pull"),
        (lambda folder: change_config(folder, label_names=None), "lacks label_names"),
        (lambda folder: change_config(folder, pretrained_cfg=None), "lacks pretrained_cfg"),
        (lambda folder: change_config(folder, label_names=["cat"]), "names 1 of"),
        (lambda folder: (folder / "model.safetensors").write_text(POINTER), "run git lfs pull"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "Copy it again, or export the run",
        ),
    ],
)
def test_damaged_export_is_named_with_the_remedy(exported, image_set, tmp_path, damage, said):
    folder = shutil.copytree(exported, tmp_path / "copy")
    damage(folder)
    with pytest.raises(ConfigError, match=said):
        predict_images(folder, [image_set])
    with pytest.raises(ConfigError, match=said):
        open_detector(folder)


def test_model_without_numbers_is_an_error_of_each_image(exported, image_set, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    save_file({name: w * float("nan") if w.is_floating_point() else w for name, w in weights.items()},
              folder / "model.safetensors")  # fmt: skip
    found = list(predict_images(folder, [image_set]))
    assert found and all("not a number" in each.error and not each.answers for each in found)
