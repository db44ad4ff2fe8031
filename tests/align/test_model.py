"""Any timm backbone, its features, and targets that are mixed as the images are."""

import copy

import pytest
import timm
import torch
from torch import nn

from gpt4image import AlignedModel, Projector
from gpt4image.align.mixing import mix_labels, mix_text
from gpt4image.align.model import feature_width
from gpt4image.errors import ConfigError

BACKBONES = {
    "resnet10t": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 32},
    "mobilenetv3_small_050": {},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_what_the_classifier_reads(name):
    backbone = timm.create_model(name, num_classes=5, **BACKBONES[name]).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)
    projector = Projector(feature_width(backbone, images), 16, kind="mlp")
    output = AlignedModel(backbone, projector)(images)

    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(backbone.get_classifier()(output.features), expected)
    torch.testing.assert_close(output.projected, projector(output.features))
    assert set(backbone.state_dict()) == set(timm.create_model(name, num_classes=5, **BACKBONES[name]).state_dict())


def test_plain_module_with_its_classifier_named():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    output = AlignedModel(backbone, classifier=backbone[-1])(torch.randn(2, 3, 2, 2))
    assert output.features.shape == (2, 4)
    assert output.projected is None
    with pytest.raises(ConfigError, match=r"classifier=model\.fc"):
        AlignedModel(backbone)


def test_copy_catches_its_own_features():
    model = AlignedModel(timm.create_model("resnet10t", num_classes=5)).eval()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.backbone.get_classifier().weight)
    assert other(torch.randn(2, 3, 32, 32)).features.shape == (2, 512)
    assert model._features is None


def test_projectors_of_the_reference():
    batch_norm = Projector(2048, 1024)
    assert [type(layer) for layer in batch_norm] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert batch_norm[0].weight.shape == (2048, 2048)
    assert batch_norm[0].bias is None
    plain = Projector(768, 1024, kind="mlp")
    assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU, nn.Linear]
    assert plain[0].weight.std().item() == pytest.approx(1024**-0.5, rel=0.02)


def test_targets_are_mixed_with_the_shares_of_the_images():
    mixing = torch.tensor([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0], [0.25, 0.75, 0.0]])
    labels = mix_labels(mixing, torch.tensor([0, 1, 3]), classes=4, smoothing=0.2)
    expected = [[0.2 / 4 + 0.8 * 0.7, 0.05, 0.05, 0.05 + 0.8 * 0.3], [0.05, 0.85, 0.05, 0.05], [0.25, 0.65, 0.05, 0.05]]
    torch.testing.assert_close(labels, torch.tensor(expected))

    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [float("nan"), 5.0]])
    mixed, has_text = mix_text(mixing, text, torch.tensor([True, True, False]))
    assert has_text.tolist() == [False, True, True]
    torch.testing.assert_close(mixed[1:], torch.tensor([[0.0, 1.0], [0.25, 0.75]]))


def test_model_compiles_without_a_break():
    model = AlignedModel(timm.create_model("resnet10t", num_classes=5), Projector(512, 16)).eval()
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images).projected, model(images).projected)
