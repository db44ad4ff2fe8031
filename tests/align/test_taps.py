"""Taps catch features of any module of any model and balance the gradients that meet there."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from gpt4image import AlignedModel, AlignmentHead, AlignmentLoss, FeatureTap, Projector, Targets
from gpt4image.core.errors import ConfigError


def test_each_pool_makes_a_vector_per_image():
    maps, tokens = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 5)
    expected = {
        ("auto", maps): maps.mean(dim=(2, 3)),
        ("mean", tokens): tokens.mean(dim=1),
        ("token", tokens): tokens[:, 0],
        ("channels-last", maps.permute(0, 2, 3, 1)): maps.mean(dim=(2, 3)),
        ("auto", tokens[:, 0]): tokens[:, 0],
    }
    for (pool, feature), vector in expected.items():
        module = nn.Identity()
        tap = FeatureTap(module, pool=pool)
        module(feature)
        torch.testing.assert_close(tap.take(), vector)
    tap = FeatureTap(module, pool="token")
    with pytest.raises(ConfigError, match=r"is \[2, 5, 3, 4\], pool 'token' takes \[B, T, F\]"):
        module(maps)
    with pytest.raises(ConfigError, match="was not run"):
        tap.take()
    with pytest.raises(ConfigError, match="Did you mean 'token'"):
        FeatureTap(module, pool="tokn")


def test_tap_works_in_a_detector_and_a_custom_loop():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).train()
    name, stage = next(iter(model.backbone.features.named_children()))
    tap = FeatureTap(stage)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    boxes = [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in images]
    losses = model(images, boxes)
    feature = tap.take()
    assert feature.shape[0] == 2, name
    alignment = AlignmentLoss()(Projector(feature.shape[1], 8)(feature), torch.randn(2, 8))
    (sum(losses.values()) + 0.3 * alignment).backward()
    assert next(stage.parameters()).grad.abs().max() > 0


def test_transformers_model_is_aligned_at_its_classifier_and_inside():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = ViTForImageClassification(config).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images, output_hidden_states=True)
    last = [name for name, _ in backbone.named_modules() if name.endswith(".layernorm")][-1]
    head = AlignmentHead(nn.Linear(16, 4), tap=last, pool="token")
    model = AlignedModel(backbone, [head, nn.Linear(16, 4)], classifier=backbone.classifier)
    text = torch.ones(2, dtype=torch.bool)
    output = model(images, Targets((torch.randn(2, 4),), (text,)))
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.projected[0], head.projector(output.features))  # the classifier reads that token
    output.alignment.backward()


def test_module_that_returns_no_tensor_is_rejected():
    class Pair(nn.Module):
        def forward(self, x):
            return {"out": x}

    module = Pair()
    FeatureTap(module)
    with pytest.raises(ConfigError, match="Pair returns dict, not a tensor: choose a module inside it"):
        module(torch.zeros(1, 2))


def test_first_of_several_outputs_is_caught_and_all_are_passed_on():
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, "other"

    module = Pair()
    tap = FeatureTap(module)
    answer = module(torch.ones(1, 2))
    assert answer[1] == "other" and torch.equal(answer[0], tap.take())


def test_tap_of_a_copied_model_hooks_the_copy():
    model = AlignedModel(
        timm.create_model("test_resnet", num_classes=2), AlignmentHead(nn.Linear(192, 4), tap="layer3")
    )
    other = copy.deepcopy(model.eval())
    other.backbone(torch.randn(1, 3, 32, 32))
    assert other.taps[0]._caught is not None and model.taps[0]._caught is None
    other.taps[0].remove()
    other.taps[0].take()
    other.backbone(torch.randn(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="was not run"):
        other.taps[0].take()


class Shared(nn.Module):
    """One layer, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = nn.Linear(5, 6, dtype=torch.float64), nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return self.fc(self.stem(x))


def losses(balance, share=0.25, text=True):
    generator = torch.Generator().manual_seed(1)
    inputs, vectors = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    head = AlignmentHead(nn.Linear(6, 5, dtype=torch.float64), AlignmentLoss("clip"))
    torch.manual_seed(2)
    nn.init.normal_(head.projector.weight)
    nn.init.zeros_(head.projector.bias)
    backbone = Shared()
    model = AlignedModel(backbone, head, classifier=backbone.fc, balance=balance)
    model.set_share(share)
    output = model(inputs, Targets((vectors,), (torch.full((8,), text),)))
    classification = nn.functional.cross_entropy(output.logits, torch.arange(8) % 3)
    return model, inputs, classification, output.alignment


def test_balanced_gradient_is_a_share_of_the_classifiers():
    model, inputs, classification, alignment = losses(balance=False)
    parameters = [model.backbone.stem.bias, *model.heads.parameters()]
    apart = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for loss in (classification, alignment)
    ]
    weights = model.backbone.stem, model.heads[0].projector
    features = weights[0](inputs).detach().requires_grad_()
    by_feature = []
    for name in ("classification", "alignment"):
        if name == "classification":
            loss = nn.functional.cross_entropy(model.backbone.fc(features), torch.arange(8) % 3)
        else:
            generator = torch.Generator().manual_seed(1)
            _, vectors = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
            loss = AlignmentLoss("clip")(weights[1](features), vectors)
        by_feature.append(torch.autograd.grad(loss, features)[0])
    scale = 0.25 * by_feature[0].norm() / by_feature[1].norm()

    model, _, classification, alignment = losses(balance=True)
    (classification + 7.0 * alignment).backward()  # the factor is balanced away at the feature, not at the projector
    expected = (by_feature[0] + scale * by_feature[1]).sum(dim=0)
    torch.testing.assert_close(model.backbone.stem.bias.grad, expected)
    for parameter, gradient in zip(model.heads.parameters(), apart[1][1:], strict=True):
        torch.testing.assert_close(parameter.grad, 7.0 * gradient)


@pytest.mark.parametrize(("share", "text"), [(0.0, True), (0.25, False)])
def test_no_share_or_no_text_leaves_the_classifiers_gradient(share, text):
    model, _, classification, alignment = losses(True, share, text)
    (classification + alignment).backward()
    alone, _, classification, _ = losses(False)
    classification.backward()
    torch.testing.assert_close(model.backbone.stem.weight.grad, alone.backbone.stem.weight.grad)


def test_balance_does_not_change_the_losses():
    plain, balanced = losses(False), losses(True)
    assert plain[2].item() == balanced[2].item() and plain[3].item() == balanced[3].item()
