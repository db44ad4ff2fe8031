"""A finished comparison of two seeds."""

from __future__ import annotations

import pytest

from gpt4image import Recipe, compare_arms


@pytest.fixture(scope="session")
def work(images, descriptions, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    recipe = Recipe(backbone="test_resnet", pretrained=False, image_size=32, epochs=2, batch_size=8, lr=2e-3)
    compare_arms(images, descriptions, store, recipe, folder, seeds=(0, 1))
    return folder, recipe
