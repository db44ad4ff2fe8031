"""Frozen modules and the cache of their output."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt4image import train_model
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.frozen import stem_identity
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
