"""Build scenes with known boxes and masks: cut-outs of clip art pasted on varied backgrounds.

    python studies/built_scenes.py CLIPART OUT [--images 600] [--size 160] [--seed 0]
    gpt4image compare OUT --task detection --text OUT/descriptions.jsonl --backbone ssdlite:resnet18 --image-size 160

CLIPART is an image set with classes and a text column `description`, such as the examples of this package
(`examples/clipart12`); its pictures are drawn on white. Each scene has up to four cut-outs of its own split, whole or
overlapping a little, at random places and sizes; every eighth has none. OUT gets

- `images/SPLIT-00000.png`, and `annotations/instances_SPLIT.json` in COCO's format: boxes around what is pasted, and
  for each object the description of its picture;
- `objects/SPLIT-00000.png`: 0 where there is background, n where the n-th object of the scene is seen; its outline is
  in the annotations as well (run lengths);
- `masks/SPLIT-00000.png`: 0 where there is background, n + 1 where an object of class n is seen, and `classes.txt`, so
  that OUT is read with `--task segmentation` too;
- `descriptions.jsonl`: for each scene the descriptions of its objects, from left to right; `objects.jsonl` for each
  object its own (`--crops 0.1 --crop-text OUT/objects.jsonl`).

Nothing is shown on these scenes but that the method works, and what texts add where labels are few or wrong.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from gpt4image import ImageTable, load_images

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
MOST = 4  # objects in a scene
EMPTY = 8  # every n-th scene is a background
SIDES = (0.22, 0.55)  # of an object's longer side, in shares of the scene's
WHITE = 240  # from which a pixel of clip art may be its paper
MOST_COVERED = 0.15  # share of an object that another may cover
TRIES = 30
LEAST_SIDE = 4  # pixels of a cut-out
PLAIN = "There is nothing but a patterned background."


class Object(NamedTuple):
    """A pasted picture: its row in the source, and left, top, right and bottom of what is seen of it."""

    row: int
    box: tuple[int, int, int, int]


def build(source: ImageTable, out: Path, count: int, size: int, seed: int) -> Path:
    """Write the scenes.

    Args:
        source: images with classes and descriptions.
        out: a new folder.
        count: number of scenes.
        size: their height and width in pixels.
        seed: seed of all draws.
    """
    texts = source.texts("description")
    for part in ("images", "masks", "objects", "annotations"):
        (out / part).mkdir(parents=True)
    lines, told_of = [], []
    for at, (split, share) in enumerate(SHARES.items()):
        generator = np.random.default_rng([seed, at])
        rows = source.split(split)
        rows = rows[source.labels[rows] >= 0]
        categories = [{"id": number, "name": name} for number, name in enumerate(source.classes)]
        content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": categories}
        for number in range(round(share * count)):
            objects = 0 if number % EMPTY == EMPTY - 1 else int(generator.integers(1, MOST + 1))
            chosen = choose(source.labels[rows], objects, generator)
            scene, mask, found = compose(source, rows[chosen].tolist(), size, generator)
            name = f"{split}-{number:05}.png"
            scene.save(out / "images" / name)
            Image.fromarray(mask).save(out / "objects" / name)
            classes = [0, *(1 + int(source.labels[each.row]) for each in found)]
            Image.fromarray(np.array(classes, np.uint8)[mask]).save(out / "masks" / name)
            content["images"].append({"id": number, "file_name": name, "width": size, "height": size})
            for place, each in enumerate(found, 1):
                content["annotations"].append(
                    annotation(len(content["annotations"]), number, source, each, mask, place)
                )
                content["annotations"][-1]["description"] = texts[each.row]
                told_of.append({"path": f"images/{name}, box {place}", "text": texts[each.row]})
            told = [texts[each.row] or "" for each in sorted(found, key=lambda each: each.box[0])]
            lines.append({"path": f"images/{name}", "text": " ".join(filter(None, told)) or PLAIN})
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (out / "classes.txt").write_text("\n".join(["background", *source.classes]))
    for name, rows in (("descriptions", lines), ("objects", filter(lambda row: row["text"], told_of))):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def choose(labels: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
    """Draw the positions of some pictures, each of a class drawn first; `labels` are those of all pictures, int [N]."""
    classes = np.unique(labels)
    found = [int(generator.choice(np.flatnonzero(labels == generator.choice(classes)))) for _ in range(count)]
    return list(dict.fromkeys(found))


def annotation(
    number: int, image: int, source: ImageTable, each: Object, mask: np.ndarray, place: int
) -> dict[str, Any]:
    """Return an object in COCO's format."""
    left, top, right, bottom = each.box
    return {
        "id": number,
        "image_id": image,
        "category_id": int(source.labels[each.row]),
        "bbox": [left, top, right - left, bottom - top],
        "area": int((mask == place).sum()),
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask == place)},
        "iscrowd": 0,
    }


def run_lengths(shape: np.ndarray) -> list[int]:
    """Return what is true, bool [h, w], as COCO's run lengths: columns one after the other, beginning with false."""
    flat = shape.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    return [*([0] if flat[0] else []), *np.diff([0, *edges.tolist(), flat.size]).tolist()]


def compose(
    source: ImageTable, rows: list[int], size: int, generator: np.random.Generator
) -> tuple[Image.Image, np.ndarray, list[Object]]:
    """Return a scene, its mask uint8 [size, size], and its objects; a picture that finds no room is left out."""
    scene, mask = background(size, generator), np.zeros((size, size), np.uint8)
    pasted: list[int] = []
    for row in rows:
        picture, shape = cut_out(source.read(row), round(size * generator.uniform(*SIDES)))
        if generator.random() < 0.5:
            picture, shape = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), shape[:, ::-1]
        height, width = shape.shape
        for _ in range(TRIES):
            left, top = int(generator.integers(size - width + 1)), int(generator.integers(size - height + 1))
            under = mask[top : top + height, left : left + width]
            hidden = np.bincount(under[shape], minlength=len(pasted) + 1)[1:]
            whole = np.bincount(mask.ravel(), minlength=len(pasted) + 1)[1:]
            if (hidden <= MOST_COVERED * whole).all():
                scene.paste(picture, (left, top), Image.fromarray(shape.astype(np.uint8) * 255))
                pasted.append(row)
                under[shape] = len(pasted)
                break
    return scene, mask, [Object(row, box_of(mask == place)) for place, row in enumerate(pasted, 1)]


def box_of(shape: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is true, bool [h, w]."""
    y, x = np.nonzero(shape)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def cut_out(data: bytes, longer: int) -> tuple[Image.Image, np.ndarray]:
    """Return a picture without its paper, resized to a longer side in pixels, and where it is not paper, bool [h, w].

    Paper is what is white and reaches the edge, so white inside a drawing stays.
    """
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    white = np.pad((np.asarray(picture) >= WHITE).all(axis=2), 1, constant_values=True)
    parts, _ = ndimage.label(white)
    drawn = (parts != parts[0, 0])[1:-1, 1:-1]
    if not drawn.any():
        drawn[:] = True
    left, top, right, bottom = box_of(drawn)
    scale = longer / max(right - left, bottom - top)
    shape = tuple(max(LEAST_SIDE, round(scale * side)) for side in (right - left, bottom - top))
    picture = picture.crop((left, top, right, bottom)).resize(shape, Image.Resampling.LANCZOS)
    covered = Image.fromarray(drawn[top:bottom, left:right].astype(np.uint8) * 255).resize(shape)
    return picture, np.asarray(covered) >= 128


def background(size: int, generator: np.random.Generator) -> Image.Image:
    """Draw a gradient between two colours with a pattern over it, and noise."""
    ends = generator.integers(70, 250, (2, 3))
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    along = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[:, :, None]
    scene = Image.fromarray((ends[0] * (1 - along) + ends[1] * along).astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    for _ in range(int(generator.integers(0, 12))):
        colour = tuple(generator.integers(70, 250, 3).tolist())
        ends_of_shape = generator.integers(0, size, 4).tolist()
        left, right, top, bottom = *sorted(ends_of_shape[:2]), *sorted(ends_of_shape[2:])
        kind = generator.integers(3)
        if kind == 0:
            pen.line((left, top, right, bottom), fill=colour, width=int(generator.integers(1, size // 12)))
        elif kind == 1:
            pen.ellipse((left, top, right, bottom), outline=colour, width=int(generator.integers(1, size // 20)))
        else:
            pen.rectangle((left, top, right, bottom), fill=colour)
    pixels = np.asarray(scene, dtype=np.float64) + generator.normal(0, 6, (size, size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def main() -> None:
    """Build the scenes, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clipart", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(build(load_images(chosen.clipart), chosen.out, chosen.images, chosen.size, chosen.seed))


if __name__ == "__main__":
    main()
