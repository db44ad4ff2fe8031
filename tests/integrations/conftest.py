"""A dataset of the shared images as trainers have it, and the text vectors of its samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision import transforms
from torchvision.datasets import ImageFolder

from gpt4image.integrations import text_targets


@pytest.fixture(scope="session")
def folder(image_set: Path) -> ImageFolder:
    """Images of 16 x 16 pixels with their labels."""
    return ImageFolder(str(image_set), transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()]))


@pytest.fixture(scope="session")
def targets(folder, store):
    return text_targets(folder, store.layout.folder)
