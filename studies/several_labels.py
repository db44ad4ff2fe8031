"""Build images with several labels each from clipart12: pictures pasted on backgrounds, labels right by construction.

    python studies/several_labels.py OUT [--images 1200] [--unknown 0.0] [--seed 0]
    gpt4image compare OUT/images.jsonl --recipe fine-tune --backbone resnet18 --image-size 128 --targets label

Each image has one to four pictures of its own split, of different classes, at random places and sizes on a gradient of
colours. Its labels are the classes of the pictures, its description the sentences about them, in random order: the
descriptions come along. `--unknown` makes that share of the labels of training images unknown, present and absent ones
alike; labels are then in columns of 0 and 1 (`--label-columns animals buildings ...`).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gpt4image import ImageTable, load_images
from gpt4image.workflows.demo import example_images

SIZE = 160
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
MOST = 4  # pictures in an image
SIDES = (48, 81)  # of a pasted picture, in pixels; a quarter of the image is 80 wide
WHITE = 245  # from which a pixel of clip art is its paper


def build(out: Path, count: int, unknown: float, seed: int) -> Path:
    """Write the images, and `images.jsonl` with paths, splits, labels and texts.

    Args:
        out: a new folder.
        count: number of images.
        unknown: share of the training images' labels that are unknown.
        seed: seed of all draws.
    """
    source = load_images(example_images())
    texts = source.texts("description")
    out.mkdir(parents=True)
    rows = []
    for split, share in SHARES.items():
        generator = np.random.default_rng([seed, list(SHARES).index(split)])
        places = source.split(split)
        for number in range(round(share * count)):
            chosen = choose(source.labels[places], generator)
            picked = [int(places[at]) for at in chosen]
            path = f"{split}-{number:05}.png"
            compose(source, picked, generator).save(out / path)
            labels = sorted({source.classes[source.labels[row]] for row in picked})
            sentences = [texts[row] or "" for row in picked]
            row = {"path": path, "split": split, "description": " ".join(filter(None, sentences))}
            hidden = generator.random(len(source.classes)) < (unknown if split == "train" else 0.0)
            rows.append(row | (dict(flags(source.classes, labels, hidden)) if unknown else {"labels": labels}))
    (out / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out / "images.jsonl"


def choose(labels: np.ndarray, generator: np.random.Generator) -> list[int]:
    """Draw one to four pictures of different classes; `labels` are those of all pictures, int [N]."""
    classes = generator.permutation(np.unique(labels[labels >= 0]))[: generator.integers(1, MOST + 1)]
    return [int(generator.choice(np.flatnonzero(labels == label))) for label in classes]


def flags(classes: tuple[str, ...], labels: list[str], hidden: np.ndarray) -> Iterator[tuple[str, int | None]]:
    """Yield each class with 1 if it is present, 0 if not, and None if that is hidden (bool [C])."""
    for name, unknown in zip(classes, hidden.tolist(), strict=True):
        yield name, None if unknown else int(name in labels)


def compose(source: ImageTable, rows: list[int], generator: np.random.Generator) -> Image.Image:
    """Paste pictures on a background; each lies in a quarter of its own, so that none hides another."""
    image = background(generator)
    cells = generator.permutation(MOST)[: len(rows)]
    for row, cell in zip(rows, cells.tolist(), strict=True):
        side = int(generator.integers(*SIDES))
        picture = Image.open(io.BytesIO(source.read(row))).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        paper = (np.asarray(picture) >= WHITE).all(axis=2)
        mask = Image.fromarray((~paper * 255).astype(np.uint8))
        free = SIZE // 2 - side + 1
        x, y = (SIZE // 2 * at + int(generator.integers(free)) for at in (cell % 2, cell // 2))
        image.paste(picture, (x, y), mask)
    return image


def background(generator: np.random.Generator) -> Image.Image:
    """Draw a gradient between two pale colours, with noise."""
    ends = generator.integers(120, 245, (2, 3))
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    along = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[:, :, None]
    pixels = ends[0] * (1 - along) + ends[1] * along + generator.normal(0, 6, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def main() -> None:
    """Build the set, and say how it is compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--unknown", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(build(chosen.out, chosen.images, chosen.unknown, chosen.seed))


if __name__ == "__main__":
    main()
