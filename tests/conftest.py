"""Small real parts that all tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from page_checks import chromium, dump_dom  # noqa: F401 - fixtures

os.environ["HF_HUB_OFFLINE"] = "1"

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


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 x 12 images, with `<folder>-descriptions.jsonl` beside it."""
    return write_image_set(tmp_path_factory.mktemp("set") / "images")


@pytest.fixture(scope="session")
def descriptions_file(image_set: Path) -> Path:
    return image_set.with_name("images-descriptions.jsonl")


@pytest.fixture(scope="session")
def images(image_set: Path):
    from gpt4image import load_images

    return load_images(image_set, validation_share=0.2, test_share=0.25)


@pytest.fixture(scope="session")
def descriptions(images, descriptions_file: Path):
    from gpt4image import load_descriptions

    return load_descriptions(images, str(descriptions_file))


@pytest.fixture(scope="session")
def minilm():
    from gpt4image import load_encoder

    return load_encoder("minilm", device="cpu")


@pytest.fixture(scope="session")
def store(descriptions, minilm, tmp_path_factory: pytest.TempPathFactory):
    from gpt4image import embed_descriptions

    return embed_descriptions(descriptions, minilm, tmp_path_factory.mktemp("store") / "minilm")


@pytest.fixture
def small_recipe() -> Callable:
    from gpt4image import Recipe

    def make(**changes):
        settings = {
            "backbone": "resnet10t",
            "pretrained": False,
            "image_size": 32,
            "epochs": 2,
            "batch_size": 8,
            "lr": 1e-3,
            "warmup_epochs": 0.5,
        }
        return Recipe(**{**settings, **changes})

    return make
