"""Image sets that tests draw for themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
SHAPES = ("disc", "square", "bar")


def draw(colour: tuple[int, int, int], shape: str, number: int, size: int = 48) -> Image.Image:
    """A shape of a colour on noise; every number gives another picture."""
    noise = np.random.default_rng([number, *colour]).integers(180, 255, (size, size, 3))
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = {
        "disc": x**2 + y**2 < 0.12,
        "square": np.maximum(abs(x), abs(y)) < 0.3,
        "bar": abs(y) < 0.12,
    }[shape]
    noise[inside] = colour
    return Image.fromarray(noise.astype(np.uint8))


def write_image_set(folder: Path, per_class: int = 12) -> Path:
    """A folder of three class folders, and `descriptions.jsonl` beside the classes, keyed by path."""
    rows = []
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            shape = SHAPES[number % len(SHAPES)]
            draw(colour, shape, number).save(folder / name / f"{number:03}.png")
            text = f"A {name} {shape} on a pale, noisy ground, drawing number {number}."
            rows.append({"path": f"{name}/{number:03}.png", "text": text})
    text_file = folder.with_name(folder.name + "-descriptions.jsonl")
    text_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
