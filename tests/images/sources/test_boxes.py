"""Boxes from COCO's annotations, YOLO folders and Pascal VOC; broken ones are left out by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gpt4image import load_images
from gpt4image.__main__ import main
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.images.open import report_images
from gpt4image.train.identity import changed_settings, images_digest
from support.scenes import HEIGHT, NAMES, WIDTH, draw_scenes, write_coco, write_voc, write_yolo

SCENES = draw_scenes()
WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def load(source, **options):
    return load_images(source, task="detection", **options)


def boxes_by_name(images):
    """Boxes of each image by the stem of its file, as names and corners."""
    found = {}
    for row, boxes in enumerate(images.boxes()):
        named = [(images.classes[int(label)], *map(round, corners)) for label, *corners in boxes.tolist()]
        found[images.path(row).rpartition("/")[2].removesuffix(".png")] = named
    return found


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_boxes_classes_and_splits(tmp_path, form, capfd):
    images = load(WRITERS[form](tmp_path / "set", SCENES))
    assert (images.task, images.classes) == ("detection", NAMES)
    assert boxes_by_name(images) == {scene.name: scene.boxes for scene in SCENES}
    splits = {images.path(row)[-7:-4]: split for row, split in enumerate(images.rows["split"].to_pylist())}
    assert splits == {scene.name: scene.split for scene in SCENES}
    assert images.sizes(np.arange(2)).tolist() == [[WIDTH, HEIGHT]] * 2
    assert images.is_labelled.all()  # a background is no image without a label
    assert not images.rejected and not images.rejected_boxes and not images.clipped_boxes
    assert ("2 images without a box file are backgrounds" in capfd.readouterr().err) == (form == "yolo")


def change_coco(folder, change, split="train"):
    file = folder / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_broken_boxes_are_left_out_by_name_and_the_rest_of_the_image_stays(tmp_path, capfd):
    folder = write_coco(tmp_path / "set", SCENES)
    broken = {
        "outside the picture": {"bbox": [WIDTH + 5, 3, 10, 10]},
        "has no area": {"bbox": [5, 5, 0, 10]},
        "not finite": {"bbox": [float("nan"), 5, 4, 10]},
        "category_id 99": {"category_id": 99},
        "not left, top, width and height": {"bbox": [1, 2, 3]},
        "bbox [1, 2, 3, 1000": {"bbox": [1, 2, 3, 10**400]},
        "a crowd": {"iscrowd": 1},
        "the same as another box": {},
        "less than a pixel": {"bbox": [5, 5, 0.4, 10]},
    }

    def add(content):
        (first,) = content["annotations"][:1]
        content["annotations"] += [first | change for change in broken.values()]
        content["annotations"].append(first | {"bbox": [-4, -4, 20, 20]})  # a part of it lies outside

    before = boxes_by_name(load(folder))
    change_coco(folder, add)
    images = load(folder)
    assert len(images.rejected_boxes) == len(broken)
    for said, rejected in zip(broken, images.rejected_boxes, strict=True):
        assert said in rejected.reason
        assert rejected.path.startswith("images/") and "instances_train.json, annotation" in rejected.where
    assert images.clipped_boxes == 1
    report_images(images)
    assert "boxes: 1 clipped at the edge of the picture" in capfd.readouterr().err
    after = boxes_by_name(images)
    (changed,) = (name for name in after if after[name] != before[name])
    name, *_ = before[changed][0]
    assert after[changed] == [*before[changed], (name, 0, 0, 16, 16)]


def test_set_without_a_usable_box_is_refused_with_the_first_reason(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    for split in ("train", "validation", "test"):
        change_coco(folder, lambda content: [each.update(bbox=[0, 0, 0, 0]) for each in content["annotations"]], split)
    with pytest.raises(DataError, match=r"no image has a usable box.*annotation 0 \(has no area\)"):
        load(folder)


@pytest.mark.parametrize("turned", [False, True])
def test_boxes_drawn_on_a_picture_of_another_size_are_refused_with_their_image(tmp_path, turned):
    folder = write_coco(tmp_path / "set", SCENES)
    first = sorted((folder / "images").glob("*.png"))[0]
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(first).save(first, exif=exif)
    else:
        Image.open(first).resize((2 * WIDTH, 2 * HEIGHT)).save(first)
    images = load(folder)
    (rejected,) = images.rejected
    assert rejected.path == f"images/{first.name}"
    assert ("EXIF orientation" if turned else f"and the file has {2 * WIDTH} x {2 * HEIGHT}") in rejected.reason


def test_lines_of_yolo_are_boxes_or_polygons_and_broken_ones_are_named(tmp_path):
    folder = write_yolo(tmp_path / "set", SCENES)
    file = folder / "labels/train/000.txt"
    lines = ["0 0.5 0.5 0.25 0.25", "1 0.1 0.1 0.5 0.1 0.5 0.4", "7 0.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1", "red 1 1"]
    file.write_text("\n".join([*lines, "0 0.5 0.5 0.1"]))
    images = load(folder / "data.yaml")
    assert boxes_by_name(images)["000"] == [("blue", 36, 24, 60, 40), ("green", 10, 6, 48, 26)]
    said = [(each.where, each.reason) for each in images.rejected_boxes]
    assert said == [
        ("000.txt line 3", "class 7 is not one of the 3"),
        ("000.txt line 4", "its corners are not finite numbers"),
        ("000.txt line 5", "'red 1 1' is not a class and numbers"),
        ("000.txt line 6", "has 3 numbers after the class, neither a box nor a polygon"),
    ]


def test_folder_of_classes_and_labels_needs_no_yaml(tmp_path):
    folder = write_yolo(tmp_path / "set", SCENES)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("\n".join(NAMES))
    assert boxes_by_name(load(folder)) == {scene.name: scene.boxes for scene in SCENES}
    (folder / "data.yaml").write_text("names: [a]\ntrain: images/missing\n")
    with pytest.raises(DataError, match="images/missing does not exist"):
        load(folder)


def test_xml_that_declares_entities_or_is_broken_is_left_out(tmp_path):
    folder = write_voc(tmp_path / "set", SCENES)
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation><object><name>&b;</name></object></annotation>'
    (folder / "Annotations/000.xml").write_text(bomb)
    (folder / "Annotations/001.xml").write_text("<annotation><object>")
    (folder / "JPEGImages/002.png").unlink()
    images = load(folder)
    said = {each.path: each.reason for each in images.rejected}
    assert "declares a document type" in said["Annotations/000.xml"]
    assert "is not XML" in said["Annotations/001.xml"]
    assert said["Annotations/002.xml"] == "its image '002.png' is missing"
    assert len(images) == len(SCENES) - 3


def test_image_in_two_lists_of_voc_is_refused(tmp_path):
    folder = write_voc(tmp_path / "set", SCENES)
    (folder / "ImageSets/Main/test.txt").write_text("000\n003")
    with pytest.raises(DataError, match="000 is also in the train split"):
        load(folder)


def test_missing_splits_are_made_and_one_class_is_enough(tmp_path):
    folder = write_yolo(tmp_path / "set", SCENES)
    for file in (folder / "labels").rglob("*.txt"):
        file.write_text("".join(f"0{line[1:]}\n" for line in file.read_text().splitlines()))
    (folder / "data.yaml").write_text("train: images\nnames: [thing]\n")
    images = load(folder, work=tmp_path / "work")
    assert images.classes == ("thing",)
    assert all(len(images.split(split)) for split in ("train", "validation", "test"))


def test_other_boxes_make_another_run(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    images = load(folder)
    settings = {"images": images_digest(images)}
    change_coco(folder, lambda content: content["annotations"][0]["bbox"].__setitem__(2, 9))
    other = load(folder)
    assert changed_settings(settings, settings, images) == []
    assert changed_settings(settings, {"images": images_digest(other)}, other) == ["images"]


def test_unlabelled_images_beside_boxes_have_none_that_are_known(tmp_path, image_set):
    images = load(write_coco(tmp_path / "set", SCENES), unlabelled=[image_set])
    unknown = [boxes is None for boxes in images.boxes()]
    assert unknown == (~images.is_labelled).tolist()
    assert sum(unknown) == len(list(image_set.rglob("*.png")))


def test_sources_without_boxes_and_settings_of_tables_are_refused(tmp_path, image_set):
    with pytest.raises(DataError, match=r"contains no readable boxes.*YOLO folder"):
        load(image_set)
    with pytest.raises(ConfigError, match="label_separator"):
        load(image_set, label_separator=",")
    images = load(write_coco(tmp_path / "set", SCENES))
    with pytest.raises(DataError, match="images have boxes"):
        _ = images.labels


def test_images_command_shows_boxes_and_what_was_left_out(tmp_path, capsys):
    folder = write_coco(tmp_path / "set", SCENES)
    change_coco(folder, lambda content: content["annotations"][0].update(bbox=[0, 0, 0, 0]))
    words = ["images", str(folder), "--task", "detection", "--work", str(tmp_path / "work")]
    assert main(words) == 0
    said = capsys.readouterr()
    total = sum(len(scene.boxes) for scene in SCENES) - 1
    assert f"boxes: {total} in 13 images; 2 images without any (background)" in " ".join(said.err.split())
    assert "none of its boxes can be used (instances_train.json, annotation 0 has no area)" in said.out
    assert "left out: 1 box, such as images/000.png, instances_train.json, annotation 0 (has no area)" in " ".join(
        said.err.split()
    )
    assert "box left out\timages/000.png\tinstances_train.json, annotation 0\thas no area" in said.out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(sum(splits.values()) for splits in found["boxes"].values()) == total
    assert len(found["boxes_left_out"]) == 1
