"""Backbones of all kinds in an aligned model: logits, features, heads and their losses."""

import copy

import pytest
import timm
import torch
from torch import nn

from gpt4image import AlignedModel, AlignmentHead, AlignmentLoss, Projector, Targets, TextAdapter, TextQueue
from gpt4image.align.aligned_model import feature_width
from gpt4image.core.errors import ConfigError

BACKBONES = {
    "test_resnet": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 32},
    "mobilenetv3_small_050": {},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_the_input_of_the_classifier(name):
    backbone = timm.create_model(name, num_classes=5, **BACKBONES[name]).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)
    projector = Projector(feature_width(backbone, images), 16, kind="mlp")
    output = AlignedModel(backbone, projector)(images)

    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(backbone.get_classifier()(output.features), expected)
    torch.testing.assert_close(output.projected[0], projector(output.features))
    assert set(backbone.state_dict()) == set(timm.create_model(name, num_classes=5, **BACKBONES[name]).state_dict())


def test_classifier_of_a_plain_module_can_be_given():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    output = AlignedModel(backbone, classifier=backbone[-1])(torch.randn(2, 3, 2, 2))
    assert output.features.shape == (2, 4)
    assert output.projected == ()
    with pytest.raises(ConfigError, match=r"classifier=model\.fc"):
        AlignedModel(backbone)


def test_copied_model_catches_its_own_features():
    model = AlignedModel(timm.create_model("test_resnet", num_classes=5)).eval()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.backbone.get_classifier().weight)
    assert other(torch.randn(2, 3, 32, 32)).features.shape == (2, 96)
    with pytest.raises(ConfigError, match="was not run"):
        model.input_tap.take()


def aligned(**heads):
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=5)
    return AlignedModel(backbone, [AlignmentHead(Projector(width, 16), **more) for width, more in heads["of"]])


def targets(size=4):
    generator = torch.Generator().manual_seed(2)
    text, teacher = (torch.randn(size, 16, generator=generator) for _ in range(2))
    has = torch.ones(size, dtype=torch.bool)
    return Targets((text, teacher), (has, torch.tensor([True, False] * (size // 2))))


def test_alignment_is_the_weighted_sum_of_the_heads():
    places = [
        (96, {"weight": 0.5}),
        (192, {"tap": "layer3", "source": 1, "loss": AlignmentLoss("cosine")}),
        (192, {"tap": "layer3", "weight": 2.0, "loss": AlignmentLoss("sigmoid")}),
    ]
    model, images, wanted = aligned(of=places).eval(), torch.randn(4, 3, 32, 32), targets()
    output = model(images, wanted)
    stage = model.backbone.forward_intermediates(images, indices=[3], intermediates_only=True)[0].mean(dim=(2, 3))
    torch.testing.assert_close(output.projected[1], model.heads[1].projector(stage))
    losses = [
        0.5 * AlignmentLoss("clip")(output.projected[0], wanted.vectors[0]),
        AlignmentLoss("cosine")(output.projected[1], wanted.vectors[1], wanted.known[1]),
        2 * model.heads[2].loss(output.projected[2], wanted.vectors[0]),
    ]
    torch.testing.assert_close(output.alignment, sum(losses))
    torch.testing.assert_close(output.logits, model.backbone(images))
    assert model(images).alignment is None


def test_heads_that_cannot_work_are_rejected():
    for loss in ("cosine", "relational"):
        with pytest.raises(ConfigError, match="make all texts one"):
            AlignmentHead(nn.Linear(4, 4), AlignmentLoss(loss), adapter=TextAdapter(4))
    with pytest.raises(ConfigError, match="one of the two"):
        AlignmentHead(nn.Linear(4, 4), AlignmentLoss(queue=TextQueue(8, 4)), adapter=TextAdapter(4))
    with pytest.raises(ConfigError, match="Did you mean 'layer3'"):
        aligned(of=[(96, {"tap": "layr3"})])
