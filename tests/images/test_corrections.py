"""Corrections relabel and drop images by their id, whatever their files are called now."""

from __future__ import annotations

import csv

import pytest

from gpt4image import load_images
from gpt4image.cli.main import main
from gpt4image.core.errors import DataError
from gpt4image.core.options import DataOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.corrections import apply_corrections
from gpt4image.images.open import open_images
from support.image_files import class_folders


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos", {"cat": 4, "dog": 4})


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "path", "given", "decision", "label"), *rows])
    return path


def labels_of(images):
    return {images.path(row): images.classes[images.labels[row]] for row in range(len(images))}


def id_of(images, path):
    return images.rows["id"].to_pylist()[images.rows["path"].to_pylist().index(path)]


def test_images_are_relabelled_dropped_and_kept(folder, tmp_path, capsys):
    images = load_images(folder)
    decided = [
        ("cat/000.png", "cat", "relabel", "dog"),
        ("cat/001.png", "cat", "drop", ""),
        ("dog/000.png", "dog", "keep", ""),
    ]
    file = write(tmp_path / "corrections.csv", [(id_of(images, path), path, *rest) for path, *rest in decided])
    corrected = apply_corrections(images, file)
    expected = {**labels_of(images), "cat/000.png": "dog"}
    del expected["cat/001.png"]
    assert labels_of(corrected) == expected
    assert [rejected.path for rejected in corrected.rejected] == ["cat/001.png"]
    assert "1 relabelled, 1 dropped, 1 kept" in capsys.readouterr().err


def test_renamed_file_keeps_its_correction_and_a_missing_one_is_counted(folder, tmp_path, capsys):
    images = load_images(folder)
    rows = [
        (id_of(images, "cat/000.png"), "cat/000.png", "cat", "relabel", "dog"),
        ("0" * 32, "gone.png", "cat", "drop", ""),
    ]
    file = write(tmp_path / "corrections.csv", rows)
    (folder / "cat" / "000.png").rename(folder / "cat" / "renamed.png")
    corrected = open_images(DataOptions(str(folder), corrections=file), WorkDir(tmp_path / "work"))
    assert labels_of(corrected)["cat/renamed.png"] == "dog"
    assert "1 image not in this set" in " ".join(capsys.readouterr().err.split())


def test_corrections_of_another_set_are_refused_by_every_command(folder, tmp_path, capsys):
    other = [("0" * 32, "gone.png", "cat", "drop", ""), ("1" * 32, "gone.png", "cat", "keep", "")]
    file = write(tmp_path / "corrections.csv", other)
    for command in (["images"], ["train", "--arm", "baseline"], ["label", "--text", "none"]):
        words = [command[0], str(folder), *command[1:], "--corrections", str(file), "--work", str(tmp_path / "work")]
        assert main(words) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "none of its 2 images is in" in said and "stay valid when files are renamed" in said
    write(file, [])
    assert main(["images", str(folder), "--corrections", str(file), "--work", str(tmp_path / "work")]) == 0


def test_label_that_has_changed_since_the_audit_is_said(folder, tmp_path, capsys):
    images = load_images(folder)
    apply_corrections(
        images, write(tmp_path / "c.csv", [(id_of(images, "cat/000.png"), "x", "bird", "relabel", "dog")])
    )
    assert "1 had another label when they were audited" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("id", "x", "cat", "perhaps", ""),
            r"c.csv, line 2: the decision must be .*drop, not 'perhaps'",
        ),
        (("id", "x", "cat", "relabel", ""), "c.csv, line 2: an image to relabel needs a label"),
        ((None, "x", "cat", "relabel", "bird"), "c.csv, line 2: 'bird' is not a class of .* Classes: 'cat', 'dog'"),
    ],
)
def test_row_that_cannot_be_used_is_named(row, message, folder, tmp_path):
    images = load_images(folder)
    image_id, *rest = row
    file = write(tmp_path / "c.csv", [(image_id or id_of(images, "cat/000.png"), *rest)])
    with pytest.raises(DataError, match=message):
        apply_corrections(images, file)


def test_table_of_another_kind_is_refused(folder, tmp_path):
    (tmp_path / "c.csv").write_text("path,label\na,b\n")
    with pytest.raises(DataError, match="corrections need the columns id, path, given, decision, label"):
        apply_corrections(load_images(folder), tmp_path / "c.csv")
