"""Taps in models that change features in place, share them or are copied; widths and errors."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from gpt4image import AlignedModel, AlignmentHead, AlignmentLoss, FeatureTap, Targets
from gpt4image.align.aligned_model import feature_width
from gpt4image.core.errors import ConfigError


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)])
def test_next_module_may_change_the_feature_in_place(balance, shape):
    """The tap catches the output of the module, not what the next module made of it."""
    first, model = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3), nn.ReLU(inplace=True)
    whole = nn.Sequential(first, model).eval()
    inputs = torch.randn(shape, requires_grad=True)
    expected, caught = whole(inputs).detach().clone(), first(inputs)
    caught = caught if len(shape) == 2 else caught.mean(dim=(2, 3))
    tap = FeatureTap(first, balance=balance)
    answer = whole(inputs)
    torch.testing.assert_close(answer, expected)
    feature = tap.take()
    torch.testing.assert_close(feature, caught)
    (answer.sum() + feature.sum()).backward()
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("balance", [False, True])
def test_classifier_may_start_with_an_in_place_module(balance):
    """As in torchvision's EfficientNet, whose classifier begins with in-place dropout."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(6, 2))
    backbone = nn.Sequential(nn.Linear(5, 6), classifier)
    model = AlignedModel(backbone, nn.Linear(6, 4), classifier=classifier, balance=balance).train()
    targets = Targets((torch.randn(8, 4),), (torch.ones(8, dtype=torch.bool),))
    inputs = torch.randn(8, 5)
    output = model(inputs, targets)
    torch.testing.assert_close(output.features, backbone[0](inputs))
    (output.logits.sum() + output.alignment).backward()
    assert backbone[0].weight.grad.abs().max() > 0


def test_model_with_caught_features_can_be_copied_and_pickled():
    backbone = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model = AlignedModel(backbone, AlignmentHead(nn.Linear(4, 4), tap="0"), classifier=backbone[1])
    model.backbone(torch.randn(2, 3))  # features with gradient are left in the taps
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - made here
        with pytest.raises(ConfigError, match="was not run"):
            other.taps[0].take()
        inputs = torch.randn(2, 3)
        torch.testing.assert_close(other(inputs).projected[0], model(inputs).projected[0])
    assert model.taps[0].share.item() == 1


def test_feature_can_be_taken_once():
    module = nn.Linear(2, 3)
    tap = FeatureTap(module)
    module(torch.zeros(1, 2))
    tap.take()
    with pytest.raises(ConfigError, match="was not run"):
        tap.take()


def test_module_without_tensor_as_first_argument_is_rejected():
    class Named(nn.Module):
        def forward(self, *, x):
            return x

    module = Named()
    FeatureTap(module, before=True)
    with pytest.raises(ConfigError, match="Named does not get a tensor as its first argument"):
        module(x=torch.zeros(1, 2))


def test_tap_catches_the_input_or_the_output():
    module = nn.Linear(2, 3)
    before, after = FeatureTap(module, before=True), FeatureTap(module)
    inputs = torch.randn(4, 2)
    answer = module(inputs)
    assert torch.equal(before.take(), inputs) and torch.equal(after.take(), answer)


@pytest.mark.parametrize(
    ("name", "options", "tap", "pool"),
    [
        ("test_resnet", {}, "layer3", "auto"),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, "blocks.0", "token"),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, "blocks.0", "mean"),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": (1, 1), "num_heads": (2, 2),
                                          "embed_dim": 16}, "layers.0", "channels-last"),
    ],
)  # fmt: skip
def test_heads_at_intermediate_stages_of_timm_models_get_pooled_features(name, options, tap, pool):
    torch.manual_seed(0)
    size = options.get("img_size", 32)
    backbone = timm.create_model(name, num_classes=3, **options).eval()
    images = torch.randn(2, 3, size, size)
    expected, seen = backbone(images), {}
    handle = backbone.get_submodule(tap).register_forward_hook(lambda _, __, output: seen.update(feature=output))
    backbone(images)
    handle.remove()
    feature = seen["feature"]
    by_hand = {
        "auto": lambda: feature.mean(dim=(2, 3)),
        "token": lambda: feature[:, 0],
        "mean": lambda: feature.mean(dim=1),
        "channels-last": lambda: feature.flatten(1, 2).mean(dim=1),
    }[pool]()
    width = feature_width(backbone, images, tap, pool)
    assert width == by_hand.shape[1]
    model = AlignedModel(backbone, AlignmentHead(nn.Linear(width, 4), tap=tap, pool=pool))
    output = model(images)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.projected[0], model.heads[0].projector(by_hand))


def test_feature_width_leaves_the_model_unchanged():
    backbone = timm.create_model("test_resnet", num_classes=3).train()
    backbone.layer1.eval()
    before = (
        [module.training for module in backbone.modules()],
        {k: v.clone() for k, v in backbone.state_dict().items()},
    )
    assert feature_width(backbone, torch.randn(1, 3, 32, 32)) == 96
    with pytest.raises(RuntimeError):
        feature_width(backbone, torch.randn(1, 4, 32, 32))
    assert [module.training for module in backbone.modules()] == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in backbone.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.modules())


def test_backbone_without_heads_has_no_alignment():
    backbone = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model = AlignedModel(backbone, classifier=backbone[1])
    output = model(torch.randn(2, 3), Targets((torch.randn(2, 4),), (torch.ones(2, dtype=torch.bool),)))
    assert output.alignment is None and output.projected == ()


def test_heads_of_one_module_and_pool_share_a_tap():
    torch.manual_seed(0)
    backbone = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    heads = [
        AlignmentHead(nn.Linear(192, 4), tap="blocks.0", pool="token"),
        AlignmentHead(nn.Linear(192, 4), tap="blocks.0", pool="mean"),
        AlignmentHead(nn.Linear(192, 4), tap="blocks.0", pool="mean"),
    ]
    model = AlignedModel(backbone, heads).eval()
    images = torch.randn(2, 3, 32, 32)
    assert len(model.taps) == 2
    tokens = []
    backbone.blocks[0].register_forward_hook(lambda _, __, output: tokens.append(output))
    projected = model(images).projected
    (tokens,) = tokens
    torch.testing.assert_close(projected[0], heads[0].projector(tokens[:, 0]))
    torch.testing.assert_close(projected[1], heads[1].projector(tokens.mean(dim=1)))
    torch.testing.assert_close(projected[2], heads[2].projector(tokens.mean(dim=1)))


def test_balance_covers_all_heads_of_a_place_together():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    heads = [AlignmentHead(nn.Linear(6, 4).double(), AlignmentLoss(name), tap="0") for name in ("clip", "cosine")]
    model = AlignedModel(backbone, heads, classifier=backbone[2], balance=True)
    model.set_share(0.5)
    inputs = torch.randn(8, 5).double()
    targets = Targets((torch.randn(8, 4).double(),), (torch.ones(8, dtype=torch.bool),))
    output = model(inputs, targets)
    (output.logits.square().sum() + output.alignment).backward()

    feature = backbone[0](inputs).detach().requires_grad_()
    of_answer = torch.autograd.grad(backbone[2](backbone[1](feature)).square().sum(), feature)[0]
    alignment = sum(head.align(head(feature), targets) for head in heads)
    of_alignment = torch.autograd.grad(alignment, feature)[0]
    expected = of_answer + 0.5 * of_answer.norm() / of_alignment.norm() * of_alignment
    torch.testing.assert_close(backbone[0].bias.grad, expected.sum(dim=0), atol=1e-10, rtol=1e-10)
