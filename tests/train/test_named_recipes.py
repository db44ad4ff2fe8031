"""Recipes with a name say what their sources say, and nothing that cannot be meant."""

import pytest
import torch
from torch import nn

from gpt4image.align.projector import Projector
from gpt4image.core.errors import ConfigError
from gpt4image.train.augment import preprocessing, training_transform
from gpt4image.train.backbone import build_backbone
from gpt4image.train.build import make_optimizer
from gpt4image.train.data import EpochBatches
from gpt4image.train.loop import learning_rate
from gpt4image.train.named import find_recipe, make_recipe, named_recipe, recipe_names
from gpt4image.train.recipe import Recipe

IMAGENET = 1_281_167
"""Training images of ImageNet-1K."""


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_meant_and_is_a_config_file_when_shown(name, tmp_path):
    found = find_recipe(name)
    assert found.recipe == named_recipe(name)
    lines = found.lines()
    assert lines[:2] == [f"# {name}: {found.about}", f"# Source: {found.source}"]
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(lines))
    assert Recipe.from_file(path) == found.recipe


@pytest.mark.parametrize("name", recipe_names())
def test_optimiser_and_transforms_of_every_recipe_are_known(name):
    recipe = named_recipe(name)
    make_optimizer(nn.Linear(2, 2), recipe)
    config = preprocessing(nn.Identity(), recipe.image_size)
    assert training_transform(recipe, config) is not None


@pytest.mark.parametrize("name", ["reference-resnet50", "reference-deit-b", "text-teacher"])
def test_backbones_from_scratch_can_be_built(name):
    recipe = named_recipe(name)
    assert not recipe.pretrained
    with torch.device("meta"):
        build_backbone(recipe, classes=2)


def test_numbers_of_the_reference():
    resnet, deit = named_recipe("reference-resnet50"), named_recipe("reference-deit-b")
    assert (resnet.weight, resnet.temperature, deit.weight, deit.temperature) == (0.3, 0.2, 0.3, 0.05)
    assert (resnet.epochs, resnet.batch_size, resnet.lr) == (120, 256 * 4, 0.1 * 4)
    assert (deit.epochs, deit.batch_size, deit.lr) == (300, 128 * 8, 5e-4 * 128 * 8 / 512)
    assert (resnet.weight_decay, deit.weight_decay) == (1e-4, 0.05)
    assert (resnet.warmup_epochs, deit.warmup_epochs) == (0, 5)
    assert (resnet.label_smoothing, deit.label_smoothing) == (0, 0.1)
    assert (resnet.mixes, resnet.auto_augment, resnet.repeats, resnet.ema_decay) == (False, None, 1, None)
    assert (deit.mixup, deit.cutmix, deit.repeats, deit.ema_decay) == (0.8, 1.0, 3, 0.99996)
    assert (deit.auto_augment, deit.random_erase, deit.drop_path) == ("rand-m9-mstd0.5-inc1", 0.25, 0.1)
    for recipe in (resnet, deit):
        assert (recipe.loss, recipe.targets, recipe.text_space, recipe.balance) == ("clip", "identity", "raw", None)
        assert (recipe.crop_scale, recipe.flip, recipe.clip_grad) == ((0.08, 1.0), 0.5, None)
    sgd = make_optimizer(nn.Linear(2, 2), resnet)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.9, False)
    assert type(make_optimizer(nn.Linear(2, 2), deit)) is torch.optim.AdamW


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("reference-resnet50", 2048, [(2048, 2048), "BatchNorm1d", "ReLU", (2048, 1024)]),
        ("reference-deit-b", 768, [(768, 2048), "ReLU", (2048, 1024)]),
        ("text-teacher", 384, [(384, 1024)]),
    ],
)
def test_projectors_are_as_wide_as_those_of_the_sources(name, width, layers):
    recipe = named_recipe(name)
    projector = Projector(width, 1024, recipe.projector_hidden, recipe.projector)
    found = [
        (part.in_features, part.out_features) if isinstance(part, nn.Linear) else type(part).__name__
        for part in projector.children()
    ]
    assert found == layers


@pytest.mark.parametrize(
    ("name", "first", "highest"),
    [("reference-resnet50", 0.4, 0.4), ("reference-deit-b", 1e-3 / (5 * 1251), 1e-3)],
)
def test_learning_rate_at_the_first_and_last_step(name, first, highest):
    recipe = named_recipe(name)
    steps = IMAGENET // recipe.batch_size
    assert steps == 1251
    rates = [learning_rate(recipe, (step + 1) / steps) for step in range(recipe.epochs * steps)]
    assert rates[0] == pytest.approx(first, rel=1e-6)
    assert max(rates) == pytest.approx(highest, rel=1e-6)
    assert rates[-1] == min(rates[steps * 5 :]) == pytest.approx(1e-5)


def test_repeated_augmentation_meets_a_third_of_the_images_an_epoch():
    recipe = named_recipe("reference-deit-b")
    images = 3 * 1024
    batches = EpochBatches(images, recipe.batch_size, seed=0, repeats=recipe.repeats)
    keys = [key for part in batches for key in part.keys]
    assert len(keys) == len(set(keys)) == images
    assert len({position for _, position in keys}) == images // 3


def test_soft_labels_are_all_that_the_two_small_recipes_differ_in():
    plain, labels = (named_recipe(name).to_dict() for name in ("fine-tune", "fine-tune-labels"))
    assert {key for key in plain if plain[key] != labels[key]} == {"soft_labels"}
    assert labels["soft_labels"] == 0.5


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(
        ConfigError, match=r"Unknown recipe 'fine-tunes'\. Did you mean 'fine-tune'\? Known: fine-tune, "
    ):
        named_recipe("fine-tunes")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epoch": 3}, r"own\.toml, \[mine\]: Unknown recipe setting 'epoch'\. Did you mean 'epochs'"),
        ({"epochs": "3"}, r"own\.toml, \[mine\]: epochs = '3' does not fit"),
        ({"epochs": "none"}, r"own\.toml, \[mine\]: epochs = 'none' does not fit"),
        ({"source": " "}, r"own\.toml, \[mine\]: source must be a text"),
        ({"about": 3}, r"own\.toml, \[mine\]: about must be a text"),
    ],
)
def test_a_table_that_cannot_be_meant_is_named_with_its_key(table, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe("mine", {"about": "A test.", "source": "none", **table}, "own.toml")


def test_none_in_a_file_is_no_value():
    recipe = Recipe.from_dict({"clip_grad": "none", "precision": "no"})
    assert recipe.clip_grad is None
    assert Recipe.from_dict(recipe.to_dict()) == recipe
