"""Images with coloured rectangles on noise, whose boxes are known, as COCO, YOLO and Pascal VOC have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from support.drawings import COLOURS

NAMES = tuple(sorted(COLOURS))
WIDTH, HEIGHT, CELL = 96, 64, 32
SPLITS = ("train", "train", "validation", "test")


@dataclass(frozen=True)
class Scene:
    """A picture; `boxes` are class, left, top, right and bottom in pixels."""

    name: str
    split: str
    picture: Image.Image
    boxes: list[tuple[str, int, int, int, int]]

    @property
    def text(self) -> str:
        return " ".join(f"A {name} patch." for name, *_ in self.boxes) or "Nothing but noise."


def mask_of(scene: Scene) -> np.ndarray:
    """The class of each pixel, uint8 [H, W]: 0 for the background, and the number of the name plus 1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, left, top, right, bottom in scene.boxes:
        mask[top:bottom, left:right] = 1 + NAMES.index(name)
    return mask


def draw_scenes(count: int = 16, seed: int = 0) -> list[Scene]:
    """Draw scenes of up to three patches, each in a cell of its own; every eighth is a background."""
    generator, scenes = np.random.default_rng(seed), []
    for number in range(count):
        pixels = generator.integers(120, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        boxes = []
        for cell in generator.permutation(6)[: 0 if number % 8 == 7 else 1 + number % 3].tolist():
            name = NAMES[int(generator.integers(3))]
            width, height = generator.integers(12, CELL + 1, 2).tolist()
            left = CELL * (cell % 3) + int(generator.integers(CELL - width + 1))
            top = CELL * (cell // 3) + int(generator.integers(CELL - height + 1))
            pixels[top : top + height, left : left + width] = COLOURS[name]
            boxes.append((name, left, top, left + width, top + height))
        scenes.append(Scene(f"{number:03}", SPLITS[number % 4], Image.fromarray(pixels), boxes))
    return scenes


def write_coco(folder: Path, scenes: list[Scene]) -> Path:
    """Write `images/`, `annotations/instances_SPLIT.json`, whose numbers differ by split, and `descriptions.jsonl`.

    `objects.jsonl` has a text for each box.
    """
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for at, split in enumerate(("train", "validation", "test")):
        numbers = {name: 10 * at + number for number, name in enumerate(NAMES if at % 2 else NAMES[::-1])}
        content = {"images": [], "annotations": [], "categories": [{"id": n, "name": k} for k, n in numbers.items()]}
        for scene in (scene for scene in scenes if scene.split == split):
            file = f"{scene.name}.png"
            scene.picture.save(folder / "images" / file)
            image = {"id": int(scene.name), "file_name": file, "width": WIDTH, "height": HEIGHT}
            content["images"].append(image)
            for name, left, top, right, bottom in scene.boxes:
                box = [left, top, right - left, bottom - top]
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": int(scene.name),
                        "category_id": numbers[name],
                        "bbox": box,
                        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    }
                )
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    rows = [{"path": f"images/{scene.name}.png", "text": scene.text} for scene in scenes]
    (folder / "descriptions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objects = [
        {"path": f"images/{scene.name}.png, box {number}", "text": f"A {name} patch."}
        for scene in scenes
        for number, (name, *_) in enumerate(scene.boxes, 1)
    ]
    (folder / "objects.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    return folder


def write_masks(folder: Path, scenes: list[Scene]) -> Path:
    """Write `images/SPLIT`, `masks/SPLIT` of indices, `classes.txt`, and `descriptions.jsonl`."""
    for scene in scenes:
        for part, picture in (("images", scene.picture), ("masks", Image.fromarray(mask_of(scene)))):
            (folder / part / scene.split).mkdir(parents=True, exist_ok=True)
            picture.save(folder / part / scene.split / f"{scene.name}.png")
    (folder / "classes.txt").write_text("\n".join(["background", *NAMES]))
    rows = [{"path": f"images/{scene.split}/{scene.name}.png", "text": scene.text} for scene in scenes]
    (folder / "descriptions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_yolo(folder: Path, scenes: list[Scene]) -> Path:
    """Write `images/SPLIT`, `labels/SPLIT` and `data.yaml`; a background has no file."""
    for scene in scenes:
        for part in ("images", "labels"):
            (folder / part / scene.split).mkdir(parents=True, exist_ok=True)
        scene.picture.save(folder / "images" / scene.split / f"{scene.name}.png")
        lines = [
            f"{NAMES.index(name)} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} "
            f"{(right - left) / WIDTH} {(bottom - top) / HEIGHT}\n"
            for name, left, top, right, bottom in scene.boxes
        ]
        if lines:
            (folder / "labels" / scene.split / f"{scene.name}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    places = "train: images/train\nval: images/validation\ntest: images/test\n"
    (folder / "data.yaml").write_text(f"path: ../nowhere\n{places}names:\n{names}")
    return folder


def write_voc(folder: Path, scenes: list[Scene]) -> Path:
    """Write `Annotations`, `JPEGImages` and the lists of `ImageSets/Main`."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for scene in scenes:
        scene.picture.save(folder / "JPEGImages" / f"{scene.name}.png")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
            f"<ymax>{bottom}</ymax></bndbox></object>"
            for name, left, top, right, bottom in scene.boxes
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        text = f"<annotation><filename>{scene.name}.png</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{scene.name}.xml").write_text(text)
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        stems = [scene.name for scene in scenes if scene.split == split]
        (folder / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(stems))
    return folder
