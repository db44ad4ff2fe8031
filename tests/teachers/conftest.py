"""Tiny real teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny timm model with a classifier for 10 classes."""
    import timm

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def resnet(resnet_weights: Path):
    """The same model as a teacher of small images."""
    from gpt4image import load_teacher

    return load_teacher("timm:test_resnet", "cpu", checkpoint=resnet_weights, image_size=32)


@pytest.fixture(scope="session")
def run(images, tmp_path_factory: pytest.TempPathFactory):
    """A finished run on the images."""
    from gpt4image import Recipe, train_model

    recipe = Recipe(backbone="test_resnet", pretrained=False, image_size=32, epochs=2, batch_size=8, lr=1e-2)
    return train_model(images, None, recipe, tmp_path_factory.mktemp("runs") / "baseline-0", arm="baseline")


@pytest.fixture(scope="session")
def run_teacher(run):
    """That run as a teacher."""
    from gpt4image import load_teacher

    return load_teacher(f"run:{run.layout.folder}", "cpu")
