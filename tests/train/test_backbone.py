"""Backbones from weights files and from the hub."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from gpt4image import train_model
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import build_backbone


def test_weights_file_may_have_another_classifier(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    first = train_model(images, None, recipe, tmp_path / "first", arm="baseline")
    backbone = build_backbone(replace(recipe, checkpoint=str(first.layout.weights)), classes=7)
    stored = load_file(first.layout.weights)
    assert torch.equal(backbone.state_dict()["conv1.0.weight"], stored["conv1.0.weight"])
    assert backbone.get_classifier().out_features == 7
    with pytest.raises(ConfigError, match="does not hold the weights of this backbone"):
        build_backbone(replace(recipe, backbone="resnet18", checkpoint=str(first.layout.weights)), classes=3)
    (tmp_path / "broken.pth").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="cannot be read as model weights"):
        build_backbone(replace(recipe, checkpoint=str(tmp_path / "broken.pth")), classes=3)
    with pytest.raises(ConfigError, match="Unknown backbone 'resnet10'"):
        build_backbone(replace(recipe, backbone="resnet10"), classes=3)


def test_failed_download_names_the_alternatives(small_recipe, monkeypatch):
    with pytest.raises(ConfigError, match=r"set checkpoint, or .*pretrained off"):
        build_backbone(small_recipe(pretrained=True), classes=3)
