"""The built scenes: boxes and masks are where the pictures were pasted, and the set is read as one with boxes."""

from __future__ import annotations

import json

import built_scenes
import numpy as np
from PIL import Image

from gpt4image import load_images
from gpt4image.images.masks import decode_mask
from support.drawings import COLOURS, draw


class Drawings:
    """Shapes of three colours on white."""

    classes, labels = tuple(sorted(COLOURS)), np.arange(12) % 3

    def texts(self, column):
        return [f"A {self.classes[label]} disc." for label in self.labels]

    def split(self, name):
        return np.arange(12)

    def read(self, row):
        import io

        pixels = np.asarray(draw(COLOURS[self.classes[self.labels[row]]], "disc", row)).copy()
        pixels[(pixels > 170).all(axis=2)] = 255  # noise becomes paper
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def test_boxes_and_masks_are_where_the_colours_are(tmp_path):
    folder = built_scenes.build(Drawings(), tmp_path / "scenes", 20, 96, 0)
    images = load_images(folder, task="detection")
    assert images.classes == Drawings.classes
    assert not images.rejected and not images.rejected_boxes and not images.clipped_boxes
    texts = {row["path"]: row["text"] for row in map(json.loads, (folder / "descriptions.jsonl").open())}
    seen = 0
    for row, boxes in enumerate(images.boxes()):
        mask = np.asarray(Image.open(folder / "objects" / images.path(row).rpartition("/")[2]))
        pixels = np.asarray(images.image(row)).astype(int)
        assert mask.max() == len(boxes)
        for place, (label, *corners) in enumerate(boxes.tolist(), 1):
            own = mask == place
            assert built_scenes.box_of(own) == tuple(map(round, corners))
            name = images.classes[int(label)]
            middle = np.median(pixels[own], axis=0)
            assert abs(middle - COLOURS[name]).max() < 40
            assert f"A {name} disc." in texts[images.path(row)]
            seen += 1
        assert len(boxes) or texts[images.path(row)] == built_scenes.PLAIN
    assert seen > 20
    assert {len(boxes) == 0 for boxes in images.boxes()} == {True, False}


def test_masks_and_outlines_are_the_same_classes(tmp_path):
    folder = built_scenes.build(Drawings(), tmp_path / "scenes", 20, 96, 0)
    masks = load_images(folder, task="segmentation")
    assert masks.classes == ("background", *Drawings.classes) and not masks.rejected
    names = [path.rpartition("/")[2] for path in masks.rows["path"].to_pylist()]
    painted = load_images(folder / "annotations" / "instances_train.json", task="segmentation")
    assert not painted.rejected_boxes and set(painted.classes) <= set(masks.classes)
    for row, path in enumerate(painted.rows["path"].to_pylist()):
        own, given = (
            np.array(table.classes)[decode_mask(table.masks(np.array([at]))[0])]
            for table, at in ((painted, row), (masks, names.index(path.rpartition("/")[2])))
        )
        assert (own == given).all()
