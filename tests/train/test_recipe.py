"""Recipes refuse what cannot be meant, and say where it stands."""

import pytest

from gpt4image import Recipe
from gpt4image.core.errors import ConfigError
from gpt4image.train.loop import learning_rate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1}, "Unknown recipe setting 'learning_rate'"),
        ({"epoch": 1}, "Did you mean 'epochs'"),
        ({"epochs": 2.5}, "epochs = 2.5 does not fit"),
        ({"lr": "high"}, "lr = 'high' does not fit"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"loss": "byol"}, "'infonce', 'cosine', 'sigmoid' or 'relational'"),
        ({"crop_scale": [0.9, 0.5]}, "two rising shares"),
        ({"batch_size": 10, "accumulate": 4}, "cannot be split"),
        ({"batch_size": 6, "accumulate": 2, "mixup": 0.2}, "must be even"),
        ({"cached_views": 2}, "name them with freeze"),
        ({"ema_decay": 1.0}, "ema_decay must lie between"),
    ],
)
def test_what_cannot_be_meant(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(values)


def test_file_and_round_trip(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('backbone = "resnet18"\nlr = 0.01\nfreeze = ["conv1"]\ncrop_scale = [0.5, 1]\n')
    recipe = Recipe.from_file(path)
    assert (recipe.backbone, recipe.lr, recipe.freeze, recipe.crop_scale) == ("resnet18", 0.01, ("conv1",), (0.5, 1))
    assert Recipe.from_dict(recipe.to_dict()) == recipe

    path.write_text("epoch = 3\n")
    with pytest.raises(ConfigError, match=f"{path}: Unknown recipe setting 'epoch'"):
        Recipe.from_file(path)
    path.write_text("epochs = \n")
    with pytest.raises(ConfigError, match=f"{path} cannot be read as TOML"):
        Recipe.from_file(path)


def test_schedule_equals_timm():
    import torch
    from timm.scheduler import CosineLRScheduler

    recipe = Recipe(epochs=10, warmup_epochs=0, lr=0.3, min_lr=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    theirs = CosineLRScheduler(optimizer, t_initial=10, lr_min=0.01)
    for epoch in range(10):
        theirs.step(epoch)
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
