"""Annotated boxes as images: what they show, and what their ids depend on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpt4image import load_images
from gpt4image.__main__ import main
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.images.crops import crop_images
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
