"""Layers and initial weights of the projectors."""

import pytest
import torch
from torch import nn

from gpt4image import Projector
from gpt4image.core.errors import ConfigError


def test_projectors_have_the_layers_of_the_reference():
    batch_norm = Projector(2048, 1024)
    assert [type(layer) for layer in batch_norm] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert batch_norm[0].weight.shape == (2048, 2048)
    assert batch_norm[0].bias is None
    plain = Projector(768, 1024, kind="mlp")
    assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU, nn.Linear]
    assert plain[0].weight.std().item() == pytest.approx(1024**-0.5, rel=0.02)


def test_projector_kinds_have_their_layers_and_widths():
    kinds = {
        "mlp-bn": [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear],
        "mlp-ln": [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear],
        "mlp": [nn.Linear, nn.ReLU, nn.Linear],
        "bottleneck": [nn.Linear, nn.ReLU, nn.Linear],
        "linear": [nn.Linear],
    }
    for kind, layers in kinds.items():
        projector = Projector(64, 24, kind=kind)
        assert [type(layer) for layer in projector] == layers
        assert projector(torch.zeros(4, 64)).shape == (4, 24)
    assert Projector(64, 24, kind="bottleneck")[0].out_features == 6
    assert Projector(64, 24, 9, kind="bottleneck")[0].out_features == 9
    with pytest.raises(ConfigError, match="Did you mean 'mlp-bn'"):
        Projector(64, 24, kind="mlp-bm")
