"""Recipes: validation, TOML files, and the named recipes against their sources."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from gpt4image import Recipe, named_recipe
from gpt4image.align.projector import Projector
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import build_backbone
from gpt4image.train.build import build_optimizer
from gpt4image.train.data import EpochBatches
from gpt4image.train.named_recipes import NamedRecipe, find_recipe, recipe_names
from gpt4image.train.schedules import learning_rate
from gpt4image.train.transforms import augmented_view, preprocessing

IMAGENET = 1_281_167  # training images of ImageNet-1K


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1}, "Unknown recipe setting 'learning_rate'"),
        ({"epoch": 1}, "Did you mean 'epochs'"),
        ({"epochs": 2.5}, "epochs should be a valid integer, not 2.5"),
        ({"lr": "high"}, "lr should be a valid number, not 'high'"),
        ({"lr": float("nan")}, "lr should be a finite number, not nan"),
        ({"weight": float("inf")}, "weight should be a finite number, not inf"),
        ({"loss": "clop"}, r"Did you mean 'clip'\? Known: .*clip, cosine, .*infonce, .*relational, .*sigmoid"),
        ({"crop_scale": [0.9, 0.5]}, "two increasing shares"),
        ({"batch_size": 10, "accumulate": 4}, "cannot be split"),
        ({"batch_size": 6, "accumulate": 2, "mixup": 0.2}, "must be even"),
        ({"cached_views": 2}, "name them with freeze"),
        ({"epochs": 0}, "epochs should be greater than or equal to 1, not 0"),
        ({"lr": 0.0}, "lr should be greater than 0, not 0"),
        ({"min_lr": -1.0}, "min_lr should be greater than or equal to 0"),
        ({"mix_probability": 1.5}, "mix_probability should be less than or equal to 1"),
        ({"clip_grad": 0.0}, "clip_grad should be greater than 0"),
        ({"projector_hidden": 0}, "projector_hidden should be greater than or equal to 1"),
        ({"crop_scale": [0.0, 0.5]}, r"crop_scale\[0\] should be greater than 0"),
        ({"batch_size": 3, "accumulate": 3}, "leaves single images"),
        ({"learn_temperature": True, "loss": "cosine"}, "no temperature to learn"),
        ({"queue": 8, "loss": "relational"}, "no negatives to queue"),
        ({"text_adapter": True, "loss": "cosine"}, "map all texts to one point"),
        ({"soft_from": 0.6, "soft_until": 0.5}, "must not exceed"),
        ({"align_at": ["layer3", "layer3"]}, "names a module twice"),
        ({"ema_decay": 1.0}, "ema_decay should be less than 1, not 1.0"),
    ],
)
def test_invalid_setting_is_refused_with_its_name(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(values)


def test_recipe_is_read_from_file_and_survives_a_round_trip(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('backbone = "resnet18"\nlr = 0.01\nfreeze = ["conv1"]\ncrop_scale = [0.5, 1]\n')
    recipe = Recipe.from_file(path)
    assert (recipe.backbone, recipe.lr, recipe.freeze, recipe.crop_scale) == ("resnet18", 0.01, ("conv1",), (0.5, 1))
    assert Recipe.from_dict(recipe.to_dict()) == recipe

    path.write_text("epoch = 3\n")
    with pytest.raises(ConfigError, match=f"{path}: Unknown recipe setting 'epoch'"):
        Recipe.from_file(path)
    path.write_text("epochs = \n")
    with pytest.raises(ConfigError, match=f"{path} is not a readable TOML file"):
        Recipe.from_file(path)


def test_learning_rate_equals_timm_cosine_schedule():
    recipe = Recipe(epochs=10, warmup_epochs=0, lr=0.3, min_lr=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    theirs = CosineLRScheduler(optimizer, t_initial=10, lr_min=0.01)
    for epoch in range(10):
        theirs.step(epoch)
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("name", recipe_names())
def test_named_recipe_is_printed_as_a_config_file(name, tmp_path):
    found = find_recipe(name)
    assert found.recipe == named_recipe(name)
    lines = found.lines()
    comments = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    assert comments == f"{name}: {found.about} Source: {found.source}" and max(map(len, lines)) <= 80
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(lines))
    assert Recipe.from_file(path) == found.recipe


@pytest.mark.parametrize("name", recipe_names())
def test_timm_knows_optimizer_and_transforms_of_every_named_recipe(name):
    recipe = named_recipe(name)
    build_optimizer(nn.Linear(2, 2), recipe)
    config = preprocessing(nn.Identity(), recipe.image_size)
    assert augmented_view(recipe, config) is not None


@pytest.mark.parametrize("name", ["reference-resnet50", "reference-deit-b", "text-teacher"])
def test_backbones_of_named_recipes_can_be_built(name):
    recipe = named_recipe(name)
    assert not recipe.pretrained
    with torch.device("meta"):
        build_backbone(recipe, classes=2)


def test_reference_recipes_hold_the_numbers_of_the_reference_code():
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
    sgd = build_optimizer(nn.Linear(2, 2), resnet)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.9, False)
    assert type(build_optimizer(nn.Linear(2, 2), deit)) is torch.optim.AdamW


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("reference-resnet50", 2048, [(2048, 2048), "BatchNorm1d", "ReLU", (2048, 1024)]),
        ("reference-deit-b", 768, [(768, 2048), "ReLU", (2048, 1024)]),
        ("text-teacher", 384, [(384, 1024)]),
    ],
)
def test_projectors_have_the_widths_of_their_sources(name, width, layers):
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
def test_learning_rate_of_reference_recipes_at_first_and_last_step(name, first, highest):
    recipe = named_recipe(name)
    steps = IMAGENET // recipe.batch_size
    assert steps == 1251
    rates = [learning_rate(recipe, (step + 1) / steps) for step in range(recipe.epochs * steps)]
    assert rates[0] == pytest.approx(first, rel=1e-6)
    assert max(rates) == pytest.approx(highest, rel=1e-6)
    assert rates[-1] == min(rates[steps * 5 :]) == pytest.approx(1e-5)


def test_repeated_augmentation_shows_a_third_of_the_images_per_epoch():
    recipe = named_recipe("reference-deit-b")
    images = 3 * 1024
    batches = EpochBatches(images, recipe.batch_size, seed=0, repeats=recipe.repeats)
    keys = [key for part in batches for key in part.keys]
    assert len(keys) == len(set(keys)) == images
    assert len({position for _, position in keys}) == images // 3


def test_fine_tune_recipes_differ_only_in_soft_labels():
    plain, labels = (named_recipe(name).to_dict() for name in ("fine-tune", "fine-tune-labels"))
    assert {key for key in plain if plain[key] != labels[key]} == {"soft_labels"}
    assert labels["soft_labels"] == 0.5


def test_unknown_recipe_name_lists_known_names():
    with pytest.raises(
        ConfigError, match=r"Unknown recipe 'fine-tunes'\. Did you mean 'fine-tune'\? Known: demo, fine-tune, "
    ):
        named_recipe("fine-tunes")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epoch": 3}, r"own\.toml, \[mine\]: Unknown recipe setting 'epoch'\. Did you mean 'epochs'"),
        ({"epochs": "3"}, r"own\.toml, \[mine\]: epochs should be a valid integer, not '3'"),
        ({"epochs": "none"}, r"own\.toml, \[mine\]: epochs should be a valid integer, not 'none'"),
        ({"source": " "}, r"own\.toml, \[mine\]: source must be a string"),
        ({"about": 3}, r"own\.toml, \[mine\]: about must be a string"),
    ],
)
def test_invalid_table_names_file_table_and_key(table, message):
    with pytest.raises(ConfigError, match=message):
        NamedRecipe.from_table("mine", {"about": "A test.", "source": "none", **table}, "own.toml")


def test_text_none_stands_for_no_value():
    recipe = Recipe.from_dict({"clip_grad": "none", "precision": "no"})
    assert recipe.clip_grad is None
    assert Recipe.from_dict(recipe.to_dict()) == recipe
