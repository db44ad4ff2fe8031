"""Register a timm model with a few thousand weights, which keeps checkpoints small."""

from __future__ import annotations

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

NAME = "tiny_resnet"

default_cfgs = generate_default_cfgs(
    {
        f"{NAME}.none": {
            "num_classes": 1000,
            "input_size": (3, 32, 32),
            "pool_size": (1, 1),
            "crop_pct": 0.95,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def tiny_resnet(pretrained: bool = False, **options) -> nn.Module:
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_width": 4, "stem_type": "deep"}
    return build_model_with_cfg(ResNet, NAME, pretrained, block=BasicBlock, **sizes, **options)
