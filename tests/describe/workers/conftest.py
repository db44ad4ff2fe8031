from __future__ import annotations

from pathlib import Path

import pytest

from gpt4image.descriptions.store import DescriptionStore
from support.drawings import COLOURS, SHAPES, draw

KEY_NAME, KEY = "ENGINE_TEST_KEY", "sk-engine-5f3a91c2d4"


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of a hundred tiny images."""
    folder = tmp_path_factory.mktemp("tiny") / "images"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(100):
            draw(colour, SHAPES[number % 3], number, 16).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def few_images(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty of each class."""
    folder = tmp_path_factory.mktemp("few") / "images"
    for path in tiny_images.glob("*/0[01]*.png"):
        copy = folder / path.relative_to(tiny_images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key that the server expects; it is in the environment only."""
    monkeypatch.setenv(KEY_NAME, KEY)
    return KEY


@pytest.fixture
def store(tmp_path: Path) -> DescriptionStore:
    return DescriptionStore(tmp_path / "descriptions")
