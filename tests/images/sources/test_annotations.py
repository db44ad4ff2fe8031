"""Label Studio and FiftyOne, in and out."""

import json
import shutil
from pathlib import Path

import pytest

from gpt4image import load_images
from gpt4image.core.errors import DataError
from gpt4image.images.corrections import apply_corrections
from support.image_files import class_folders, reasons, split_sizes


def choice(*names, **more):
    """An annotation as Label Studio exports it."""
    result = [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": list(names)}}]
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": result, **more}


def task(image, *annotations, **data):
    return {"id": 1, "data": {"image": image, **data}, "annotations": list(annotations), "predictions": []}


@pytest.fixture
def folder(tmp_path):
    class_folders(tmp_path, {"images": 8})
    return tmp_path


def studio(folder, tasks):
    (folder / "export.json").write_text(json.dumps(tasks))
    return str(folder / "export.json")


def labels(table):
    return {
        path: table.classes[label] if label >= 0 else None
        for path, label in zip(table.rows["path"].to_pylist(), table.labels.tolist(), strict=True)
    }


def test_label_studio_export_is_an_image_source(folder):
    tasks = [
        task("/data/local-files/?d=images/000.png", choice("cat"), description="A cat."),
        task("/data/upload/3/0a1b2c3d-001.png", choice("dog")),
        task(str(folder / "images/002.png"), choice("cat"), choice("dog", was_cancelled=True)),
        task("images/003.png", choice("cat"), choice("dog", ground_truth=True)),
        task("images/004.png"),
        task("images/005.png", choice("cat"), choice("dog")),
        task("images/006.png", choice("cat", "dog")),
    ]
    found = load_images(studio(folder, tasks), validation_share=0, test_share=0)
    assert labels(found) == {
        "images/000.png": "cat",
        "images/001.png": "dog",
        str(folder / "images/002.png"): "cat",
        "images/003.png": "dog",
        "images/004.png": None,
    }
    why = reasons(found)
    assert why["images/005.png"] == "annotators disagree: cat, dog (export.json task 6)"
    assert why["images/006.png"] == "has several labels: cat, dog (export.json task 7)"
    assert found.texts("description")[0] == "A cat."


def test_label_studio_export_says_the_split_in_its_data(folder):
    tasks = [task(f"images/00{n}.png", choice("cat" if n % 2 else "dog"), is_test=n > 5) for n in range(8)]
    assert split_sizes(load_images(studio(folder, tasks), validation_share=0)) == [6, 0, 2]
    tasks = [
        task(f"images/00{n}.png", choice("cat" if n % 2 else "dog"), split="val" if n > 4 else "train")
        for n in range(8)
    ]
    found = load_images(studio(folder, tasks), test_share=0)
    assert split_sizes(found) == [5, 3, 0]


def test_label_studio_in_its_short_form(folder):
    rows = [
        {"image": "images/000.png", "id": 1, "choice": "cat", "annotator": 1, "annotation_id": 5},
        {"image": "images/001.png", "id": 2, "choice": {"choices": ["dog", "cat"]}, "annotator": 1, "annotation_id": 6},
        {"image": "images/002.png", "id": 3, "choice": "dog", "annotator": 1, "annotation_id": 7},
    ]
    found = load_images(studio(folder, rows), validation_share=0, test_share=0)
    assert labels(found) == {"images/000.png": "cat", "images/002.png": "dog"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"id": 1, "data": {"text": "no image"}}], "task 1 names no image"),
        ([task("images/000.png")], "no task has a choice yet"),
    ],
)
def test_unusable_label_studio_export_says_why(folder, tasks, message):
    with pytest.raises(DataError, match=message):
        load_images(studio(folder, tasks))


def test_fiftyone_set_is_an_image_source(tmp_path, monkeypatch):
    for split, names in {"train": "abcd", "validation": "ef"}.items():
        class_folders(tmp_path / split, {"data": 0})
        class_folders(tmp_path / split, {"made": len(names)})
        (tmp_path / split / "data").mkdir(exist_ok=True)
        for number, name in enumerate(names):
            shutil.move(tmp_path / split / "made" / f"00{number}.png", tmp_path / split / "data" / f"{name}.png")
        (tmp_path / split / "made").rmdir()
        given = {"a": 0, "b": 1, "c": "dog", "d": {"label": "cat", "confidence": 0.9}, "e": 0, "f": 1}
        own = {name: given[name] for name in names}
        (tmp_path / split / "labels.json").write_text(json.dumps({"classes": ["cat", "dog"], "labels": own}))
    found = load_images(tmp_path, test_share=0)
    assert split_sizes(found) == [4, 2, 0]
    by_name = {path[-5]: label for path, label in labels(found).items()}
    assert by_name == {"a": "cat", "b": "dog", "c": "dog", "d": "cat", "e": "cat", "f": "dog"}
    monkeypatch.chdir(tmp_path.parent)
    assert labels(load_images(tmp_path.name, test_share=0)) == labels(found)


def test_fiftyone_set_may_name_files_elsewhere(folder):
    where = folder / "set"
    where.mkdir()
    names = {f"s{n}": str(folder / "images" / f"00{n}.png") for n in range(4)}
    (where / "data.json").write_text(json.dumps({**names, "gone": "/nowhere.png"}))
    given = {**{name: n % 2 for n, name in enumerate(names)}, "gone": 0, "two": ["cat", "dog"]}
    (where / "labels.json").write_text(json.dumps({"classes": ["cat", "dog"], "labels": given}))
    found = load_images(where, validation_share=0, test_share=0)
    assert len(found) == 4 and reasons(found)["/nowhere.png"].startswith("the file does not exist")
    (where / "labels.json").write_text(json.dumps({"classes": ["cat"], "labels": {"s0": 1}}))
    with pytest.raises(DataError, match="label 1 is not one of the 1 classes"):
        load_images(where)


def test_decisions_made_in_label_studio_and_fiftyone_correct_labels(tmp_path):
    class_folders(tmp_path / "photos", {"cat": 3, "dog": 3})
    images = load_images(tmp_path / "photos", validation_share=0, test_share=0)
    ids = dict(zip(images.rows["path"].to_pylist(), images.rows["id"].to_pylist(), strict=True))
    tasks = [
        task("x.png", choice("dog"), id=ids["cat/000.png"], given="cat"),
        task("y.png", choice("cat"), id=ids["cat/001.png"], given="cat"),
        task("z.png", id=ids["cat/002.png"], given="cat"),
    ]
    changed = {"cat/000.png": "dog", "cat/001.png": "cat", "cat/002.png": "cat"}
    found = apply_corrections(images, Path(studio(tmp_path, tasks)))
    assert {path: label for path, label in labels(found).items() if path in changed} == changed
    # FiftyOne names an image after its file, with a number if several are called so, and writes no classes
    names = {
        Path(path).stem + "-2": {
            "label": label,
            "confidence": None,
            "attributes": {"kind": "label", "given": "cat", "image_id": ids[path]},
        }
        for path, label in changed.items()
    }
    (tmp_path / "labels.json").write_text(json.dumps({"classes": None, "labels": names}))
    found = apply_corrections(images, tmp_path / "labels.json")
    assert {path: label for path, label in labels(found).items() if path in changed} == changed
    (tmp_path / "export.json").write_text(json.dumps([task("x.png", choice("dog"))]))
    with pytest.raises(DataError, match="task 1 has no image id"):
        apply_corrections(images, tmp_path / "export.json")
    (tmp_path / "labels.json").write_text(json.dumps({"classes": None, "labels": {"000": {"label": "dog"}}}))
    with pytest.raises(DataError, match="image 1 has no image id"):
        apply_corrections(images, tmp_path / "labels.json")
