"""A trained run, and its exported model."""

from __future__ import annotations

import pytest

from gpt4image import Recipe, export_model, train_model


@pytest.fixture(scope="session")
def run(images, store, tmp_path_factory):
    recipe = Recipe(
        backbone="test_resnet", pretrained=False, image_size=32, epochs=6, batch_size=8, lr=3e-3, crop_scale=(0.8, 1.0)
    )
    return train_model(images, store, recipe, tmp_path_factory.mktemp("run") / "described-0")


@pytest.fixture(scope="session")
def exported(run, images, tmp_path_factory):
    """Folder of the run's model, without the ONNX form."""
    folder = tmp_path_factory.mktemp("export") / "model"
    export_model(run, images, folder, onnx=False)
    return folder
