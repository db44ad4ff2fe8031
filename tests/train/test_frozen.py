"""Frozen modules and the cache of their output."""

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from gpt4image import train_model
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.frozen import stem_identity
from gpt4image.train.processes import fold_batch_norms
from gpt4image.train.run import load_backbone
from gpt4image.train.transforms import evaluation_transform, preprocessing, seed_everything


def test_frozen_normalisation_keeps_its_running_statistics(images, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1, freeze=("conv1", "bn1"))
    run = train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    weights = load_file(run.layout.weights)
    assert weights["bn1.running_mean"].abs().max() == 0
    assert weights["layer1.0.bn1.running_mean"].abs().max() > 0


def test_cached_features_are_identified_by_their_weights(small_recipe):
    recipe = small_recipe(freeze=("conv1", "bn1"), cached_views=1)
    backbones = [build_backbone(recipe, 3) for _ in range(2)]
    config = preprocessing(backbones[0], 32)
    assert stem_identity(backbones[0], recipe, config) != stem_identity(backbones[1], recipe, config)
    backbones[1].load_state_dict(backbones[0].state_dict())
    assert stem_identity(backbones[0], recipe, config) == stem_identity(backbones[1], recipe, config)


def test_cached_features_train_the_same_rest_of_the_network(images, store, small_recipe, tmp_path):
    frozen = ("conv1", "bn1", "maxpool", "layer1", "layer2")
    recipe = small_recipe(epochs=2, freeze=frozen, cached_views=2)
    run = train_model(images, store, recipe, tmp_path / "run")
    seed_everything(0)
    start, weights = build_backbone(recipe, 3).state_dict(), load_file(run.layout.weights)
    for key, value in start.items():
        same = torch.equal(value, weights[key])
        assert same == key.startswith(frozen) or "num_batches" in key or key.endswith("bias"), key
    features = np.load(next(tmp_path.glob("run/*/train-*.npy")), mmap_mode="r")
    assert features.dtype == np.float16
    assert len(features) == 2 * len(images.split("train"))

    answers = predict_test_images(run, images)
    transform = evaluation_transform(run.preprocessing)
    batch = torch.stack([transform(images.image(int(row))) for row in answers.rows])
    with torch.no_grad():
        whole = load_backbone(run)(batch)
    np.testing.assert_allclose(answers.logits, whole.numpy(), atol=0.02)


def test_modules_that_do_not_run_first_cannot_be_cached(images, small_recipe, tmp_path):
    recipe = small_recipe(freeze=("conv1", "bn1", "layer1"), cached_views=1)
    with pytest.raises(ConfigError, match=r"Freeze these as well: .*maxpool"):
        train_model(images, None, recipe, tmp_path / "run", arm="baseline")
    with pytest.raises(ConfigError, match="Did you mean 'layer1'"):
        train_model(images, None, small_recipe(freeze=("layr1",)), tmp_path / "other", arm="baseline")
    recipe = small_recipe(backbone="vit_tiny_patch16_224", freeze=("patch_embed", "blocks.0"), cached_views=1)
    with pytest.raises(ConfigError, match="cached_views"):
        train_model(images, None, recipe, tmp_path / "vit", arm="baseline")


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "resnetv2_18", "convnext_atto"])
def test_folded_batch_norms_change_no_output(name):
    seed_everything(0)
    model = timm.create_model(name, num_classes=3).eval()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            for statistic in (norm.weight, norm.running_var):
                statistic.uniform_(0.5, 2)
            for statistic in (norm.bias, norm.running_mean):
                statistic.normal_()
    images, state = torch.rand(2, 3, 64, 64), copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model, torch.zeros(2, 3, 64, 64))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-3)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert left == {"resnetv2_18": 9}.get(name, 0)
    assert (folded is model) == (name == "convnext_atto")


def test_batch_norms_that_follow_no_convolution_directly_are_kept():
    class Between(nn.Module):
        def __init__(self, between):
            super().__init__()
            self.conv, self.norm, self.between = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between

        def forward(self, images):
            return self.norm(self.between(self.conv(images)))

    class Branch(Between):
        def forward(self, images):
            output = self.conv(images)
            return self.norm(output) + output

    inputs = torch.randn(2, 3, 8, 8)
    for model in (Between(nn.ReLU(inplace=True)), Between(nn.Hardtanh()), Branch(nn.Identity())):
        model.norm.running_mean.normal_()
        folded = fold_batch_norms(model.eval(), inputs)
        assert isinstance(folded.norm, nn.BatchNorm2d)
        torch.testing.assert_close(folded(inputs), model(inputs))
