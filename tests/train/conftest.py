"""Vectors of a second text encoder, soft labels, and images of which some have no label."""

from __future__ import annotations

import json

import pytest

from gpt4image import embed_descriptions, load_images
from gpt4image.soft_labels import label_by_vectors
from support.training import LetterEncoder


@pytest.fixture(scope="session")
def letters(several_descriptions, tmp_path_factory):
    return embed_descriptions(several_descriptions, LetterEncoder(), tmp_path_factory.mktemp("letters") / "letters")


@pytest.fixture(scope="session")
def soft(images, several_store, tmp_path_factory):
    return label_by_vectors(images, [several_store], tmp_path_factory.mktemp("soft") / "labels")


@pytest.fixture(scope="session")
def half_labelled(image_set, tmp_path_factory):
    """The image set without the labels of every other training image."""
    folder = tmp_path_factory.mktemp("half")
    rows = []
    for number, path in enumerate(sorted(image_set.rglob("*.png"))):
        split = ("train", "train", "validation", "test")[number % 4]
        label = {} if number % 4 == 1 else {"label": path.parent.name}
        rows.append({"path": str(path), "split": split, **label})
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_images(folder / "images.jsonl")
