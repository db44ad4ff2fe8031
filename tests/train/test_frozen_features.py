"""Pooled features of a frozen backbone: the input of its classifier, computed once."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from gpt4image.align.aligned_model import AlignedModel
from gpt4image.core.errors import ConfigError
from gpt4image.train import frozen_features as module
from gpt4image.train.frozen_features import FrozenBackbone, frozen_features
from gpt4image.train.transforms import evaluation_transform, preprocessing

NAMES = ("test_resnet", "test_vit", "test_mambaout")


def save_weights(name, folder, seed=0):
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=7, **({"img_size": 32} if "vit" in name else {}))
    file = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    return model.eval(), file


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_input_of_the_classifier(images, tmp_path, name):
    model, file = save_weights(name, tmp_path)
    rows = np.array([3, 0, 7])
    found = frozen_features(images, rows, FrozenBackbone(name, file, 32), tmp_path, device=torch.device("cpu"))
    transform = evaluation_transform(preprocessing(model, 32))
    batch = torch.stack([transform(images.image(int(row))) for row in rows])
    with torch.no_grad():
        wanted = AlignedModel(model)(batch).features
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-2, atol=2e-3)


def test_features_are_recomputed_only_for_other_images_or_weights(images, tmp_path, monkeypatch):
    _, file = save_weights("test_resnet", tmp_path)
    backbone = FrozenBackbone("test_resnet", file, 32)
    first = np.array(frozen_features(images, np.arange(6), backbone, tmp_path))
    computed = []
    original = module.ImageInputs.__getitem__
    monkeypatch.setattr(
        module.ImageInputs, "__getitem__", lambda self, key: computed.append(key) or original(self, key)
    )
    again = frozen_features(images, np.arange(6), backbone, tmp_path)
    np.testing.assert_array_equal(again, first)
    assert len(computed) == 1  # the one that tells the width
    _, changed = save_weights("test_resnet", tmp_path, seed=1)
    others = frozen_features(images, np.arange(6), FrozenBackbone("test_resnet", changed, 32), tmp_path)
    assert not np.allclose(others, first, rtol=0.1)
    moved = frozen_features(images, np.arange(1, 7), FrozenBackbone("test_resnet", changed, 32), tmp_path)
    np.testing.assert_allclose(moved[:5], others[1:], rtol=1e-2, atol=1e-3)


def test_unknown_backbone_and_missing_weights_are_named(images, tmp_path):
    with pytest.raises(ConfigError, match="Unknown timm model"):
        FrozenBackbone("resnet5000").build()
    with pytest.raises(ConfigError, match="does not exist"):
        FrozenBackbone("test_resnet", tmp_path / "none.pth").build()


def test_non_finite_features_are_refused(images, tmp_path):
    model, _ = save_weights("test_resnet", tmp_path)
    state = model.state_dict()
    state["conv1.0.weight"][:] = float("nan")
    file = tmp_path / "broken.safetensors"
    save_file(state, file)
    with pytest.raises(ConfigError, match="not finite"):
        frozen_features(images, np.arange(2), FrozenBackbone("test_resnet", file, 32), tmp_path)
