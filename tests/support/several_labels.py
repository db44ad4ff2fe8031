"""A set of images with several labels each, right by construction: patches of colours, and a text that names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from support.drawings import COLOURS

NAMES = tuple(sorted(COLOURS))
SIZE, PATCH = 32, 10


def write_several_labels(folder: Path, images: int = 48, unknown: float = 0.0, seed: int = 0) -> Path:
    """Write images with up to three patches on noise, and `images.jsonl` with their labels, splits and descriptions.

    Args:
        folder: a new folder.
        images: number of images.
        unknown: share of the training images whose labels are null.
        seed: seed of the draws.
    """
    folder.mkdir(parents=True)
    generator, rows = np.random.default_rng(seed), []
    for number in range(images):
        pixels = generator.integers(90, 200, (SIZE, SIZE, 3)).astype(np.uint8)
        present = [name for name in NAMES if generator.random() < 0.5]
        for at, name in enumerate(generator.permutation(present).tolist()):
            y, x = generator.integers(0, SIZE - PATCH), at * (PATCH + 1)
            pixels[y : y + PATCH, x : x + PATCH] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        split = ("train", "train", "validation", "test")[number % 4]
        known = split != "train" or generator.random() >= unknown
        text = f"Patches of {' and '.join(present)} on noise." if present else "Nothing but noise."
        rows.append(
            {"path": f"{number:03}.png", "split": split, "labels": present if known else None, "description": text}
        )
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "images.jsonl"
