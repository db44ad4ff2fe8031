"""Losses from outside the library: a function, a registered name, and an installed package's entry point."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gpt4image import AlignmentHead, AlignmentLoss, Recipe, TargetRule, TextAdapter, TextQueue
from gpt4image.align.losses import LOSSES, Loss
from gpt4image.core.errors import ConfigError


def hinge_loss(pairs, temperature):
    """Pull only images that are further from their text than the temperature."""
    return (pairs.shares * (1 - temperature - pairs.own).clamp(min=0) ** 2).sum()


def shifted_loss(pairs, temperature, bias):
    return hinge_loss(pairs, temperature) + (pairs.shares * bias).sum()


@pytest.fixture
def registered(monkeypatch):
    """A registry that forgets after the test what the test adds."""
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    LOSSES.register("hinge", Loss(hinge_loss, may_collapse=True))
    LOSSES.register("shifted", Loss(shifted_loss, has_temperature=False, uses_queue=True, has_bias=True))
    return LOSSES


def example():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)


def test_function_is_a_loss():
    z, text = example()
    cosines = nn.functional.cosine_similarity(z, text)
    expected = (0.7 - cosines).clamp(min=0).square().mean()
    torch.testing.assert_close(AlignmentLoss(hinge_loss, 0.3)(z, text), expected)
    assert AlignmentLoss(hinge_loss, learn_temperature=True, queue=TextQueue(8, 4)).name == "hinge_loss"


def test_registered_loss_is_known_by_name(registered):
    z, text = example()
    torch.testing.assert_close(AlignmentLoss("hinge", 0.3)(z, text), AlignmentLoss(hinge_loss, 0.3)(z, text))
    assert registered.names()[-2:] == ("hinge", "shifted")
    with pytest.raises(ConfigError, match="Did you mean 'hinge'"):
        AlignmentLoss("hing")


@pytest.mark.parametrize("loss", ["cosine", "dot", "relational", Loss(hinge_loss, uses_targets=False)])
def test_targets_that_a_loss_would_ignore_are_refused(loss):
    for targets in ("label", TargetRule("similarity", 0.5)):
        with pytest.raises(ConfigError, match=r"no targets, so '(label|similarity)' would have no effect"):
            AlignmentLoss(loss, targets=targets)
    assert AlignmentLoss(loss, targets="same").name == AlignmentLoss(loss, targets="identity").name


def test_loss_with_bias_learns_it(registered):
    loss = AlignmentLoss("shifted", bias=2.0)
    value = loss(*example())
    value.backward()
    assert loss.bias.item() == 2
    assert loss.bias.grad.item() == pytest.approx(1)


def test_settings_are_checked_against_the_entry(registered):
    with pytest.raises(ConfigError, match="of no use"):
        AlignmentLoss("hinge", queue=TextQueue(8, 4))
    with pytest.raises(ConfigError, match="no temperature to learn"):
        AlignmentLoss("shifted", learn_temperature=True)
    with pytest.raises(ConfigError, match="make all texts one"):
        AlignmentHead(nn.Identity(), AlignmentLoss("hinge"), adapter=TextAdapter(4))
    assert AlignmentHead(nn.Identity(), AlignmentLoss("shifted"), adapter=TextAdapter(4)).loss.name == "shifted"


def test_recipe_takes_a_registered_loss_and_checks_its_settings(registered):
    assert Recipe(loss="hinge", learn_temperature=True).loss == "hinge"
    with pytest.raises(ConfigError, match="no negatives to queue"):
        Recipe(loss="hinge", queue=64)
    with pytest.raises(ConfigError, match="map all texts to one point"):
        Recipe(loss="hinge", text_adapter=True)
    with pytest.raises(ConfigError, match="no temperature to learn"):
        Recipe(loss="shifted", learn_temperature=True)


def test_command_line_takes_a_registered_loss(registered):
    from gpt4image.cli.main import parse

    command = parse(["train", "data", "--loss", "hinge", "--temperature", "0.3"])
    assert (command.recipe.loss, command.recipe.temperature) == ("hinge", 0.3)


@pytest.mark.parametrize("part", [Loss(hinge_loss), hinge_loss])
def test_entry_point_of_an_installed_package_is_a_loss(monkeypatch, part):
    monkeypatch.setitem(sys.modules, "hinge_package", SimpleNamespace(hinge=part))
    entry = EntryPoint("hinge", "hinge_package:hinge", "gpt4image.losses")
    monkeypatch.setattr(LOSSES, "_installed", {"hinge": entry})
    z, text = example()
    torch.testing.assert_close(AlignmentLoss("hinge", 0.3)(z, text), AlignmentLoss(hinge_loss, 0.3)(z, text))
    assert Recipe(loss="hinge").loss == "hinge"
