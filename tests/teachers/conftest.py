"""Tiny real teachers."""

from __future__ import annotations

import json
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
def clip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a tiny open_clip model with weights in a file."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-teacher.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-teacher.json")
    torch.manual_seed(2)
    torch.save(open_clip.create_model("tiny-teacher").state_dict(), folder / "weights.pt")
    return f"open-clip:tiny-teacher/{folder / 'weights.pt'}"


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
