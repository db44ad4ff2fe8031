"""Annotated boxes as images: what they show, and what their ids depend on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gpt4image import load_images
from gpt4image.__main__ import main
from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.core.options import SimulationOptions
from gpt4image.images.crops import crop_images, with_box_classes
from gpt4image.images.open import count_boxes, report_images
from gpt4image.images.simulate import simulate_labels
from gpt4image.tasks.detection import pad_boxes
from gpt4image.train.annotated_inputs import hide_unknown
from gpt4image.train.identity import images_digest
from support.drawings import COLOURS
from support.scenes import draw_scenes, write_coco

SCENES = draw_scenes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("scenes") / "set", SCENES)


def load(folder):
    return load_images(folder, task="detection")


def test_crops_show_their_boxes_with_the_margin(folder):
    images = load(folder)
    tight, wide = crop_images(images, 0.0), crop_images(images, 0.25)
    boxes = [box for scene in SCENES for box in scene.boxes]
    assert len(tight) == len(wide) == len(boxes)
    assert not set(tight.ids.tolist()) & set(wide.ids.tolist())
    for row in range(len(tight)):
        name = tight.label_of(row)
        picture = np.asarray(tight.image(row)).astype(int)
        assert np.abs(picture - COLOURS[name]).max() == 0
        height, width = picture.shape[:2]
        around = np.asarray(wide.image(row)).shape
        assert around[0] >= height and around[1] >= width and around[0] * around[1] > height * width
    splits = dict(zip(images.rows["path"].to_pylist(), images.rows["split"].to_pylist(), strict=True))
    for path, split in zip(tight.rows["path"].to_pylist(), tight.rows["split"].to_pylist(), strict=True):
        assert splits[path.partition(",")[0]] == split


def test_ids_depend_on_image_corners_and_margin_but_not_on_the_class(folder, tmp_path):
    before = crop_images(load(folder), 0.1).ids.tolist()
    other = write_coco(tmp_path / "set", SCENES)
    file = other / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    names = sorted(each["id"] for each in content["categories"])
    content["annotations"][0]["category_id"] = next(n for n in names if n != content["annotations"][0]["category_id"])
    content["annotations"][1]["bbox"][0] += 1
    file.write_text(json.dumps(content))
    after = crop_images(load(other), 0.1).ids.tolist()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_images_without_boxes_have_no_crops(image_set):
    with pytest.raises(ConfigError, match="has none"):
        crop_images(load_images(image_set), 0.1)


def test_commands_take_crops_for_images(folder, tmp_path, capsys):
    words = ["images", str(folder), "--task", "detection", "--crops", "0.1", "--work", str(tmp_path / "work"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    total = sum(len(scene.boxes) for scene in SCENES)
    assert sum(sum(splits.values()) for splits in found["classes"].values()) == total


def test_crop_of_a_file_that_has_changed_is_refused(tmp_path):
    images = load(write_coco(tmp_path / "set", SCENES))
    crops = crop_images(images, 0.1)
    path = crops.path(0).partition(",")[0]
    other = next(row for row in range(len(images)) if images.path(row) != path)
    (tmp_path / "set" / path).write_bytes(images.read(other))
    with pytest.raises(ImageError, match=f"{path}: the file has changed"):
        crops.read(0)


def without_classes(folder, kept):
    """Take the classes of all training boxes but some away; return the numbers of the annotations that keep theirs."""
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    for each in content["annotations"]:
        if each["id"] not in kept:
            each["category_id"] = None
    file.write_text(json.dumps(content))
    return content["annotations"]


def test_boxes_without_a_class_are_kept_counted_and_leave_labels_open(tmp_path, capfd):
    set_ = write_coco(tmp_path / "set", SCENES)
    given = without_classes(set_, kept={0})
    images = load(set_)
    report_images(images)
    assert f"boxes: {len(given) - 1} without a class" in capfd.readouterr().err
    assert sum(count_boxes(images)[name]["train"] for name in images.classes) == 1
    whole = load(write_coco(tmp_path / "whole", SCENES))
    for own, all_known in zip(images.boxes(), whole.boxes(), strict=True):
        np.testing.assert_array_equal(own[:, 1:], all_known[:, 1:])
    train = images.split("train")
    marks, boxes = images.label_matrix[train], images.boxes(train)
    for mark, own in zip(marks, boxes, strict=True):
        present = np.isin(np.arange(3), own[:, 0])
        absent = -1 if (own[:, 0] < 0).any() else 0
        np.testing.assert_array_equal(mark, np.where(present, 1, absent))
    assert images.is_labelled[train].sum() == 1 + sum(not len(own) for own in boxes)
    assert images.label_matrix[images.split("test")].min() == 0


def test_box_without_a_class_outside_of_training_is_refused(tmp_path):
    set_ = write_coco(tmp_path / "set", SCENES)
    file = set_ / "annotations/instances_test.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["category_id"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"in the test split has a box without a class"):
        load(set_)


def test_simulation_takes_away_the_classes_of_a_share_of_the_training_boxes(folder):
    images = load(folder)
    few = simulate_labels(images, SimulationOptions(label_share=0.2), 0)
    before, after = crop_images(images, 0), crop_images(few, 0)
    assert after.ids.tolist() == before.ids.tolist()
    train = np.isin(np.arange(len(before)), before.split("train"))
    for number in range(3):
        own = train & (before.labels == number)
        assert (after.labels[own] >= 0).sum() == max(1, round(0.2 * own.sum()))
    known = after.labels >= 0
    assert (after.labels[known] == before.labels[known]).all() and known[~train].all()
    assert images_digest(few) != images_digest(images)
    back = with_box_classes(few, before.labels)
    assert back.rows.equals(images.rows)
    with pytest.raises(ConfigError, match="long_tail"):
        simulate_labels(images, SimulationOptions(long_tail=2.0), 0)


def test_objects_without_a_class_are_hidden_and_others_are_not():
    picture = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    boxes = np.array([[-1, 0, 0, 4, 4], [2, 2, 2, 6, 6], [-1, -1, -1, -1, -1]], np.float32)
    boxes[:2, 1:] /= 8
    shown = np.asarray(hide_unknown(picture, boxes, (9.0, 9.0, 9.0)))
    expected = np.asarray(picture).copy()
    for y in range(8):
        for x in range(8):
            if x < 4 and y < 4 and not (x >= 2 and y >= 2):
                expected[y, x] = 9
    np.testing.assert_array_equal(shown, expected)
    assert np.isnan(pad_boxes([boxes[:1]], np.array([[8, 8]]))).all()
