"""The projector: image features into the text space, during training only."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

ProjectorKind = Literal["mlp-bn", "mlp-ln", "mlp", "bottleneck", "linear"]


INITIAL_STD = 1024**-0.5


"""Spread of the initial weights in the reference implementation, whatever the widths."""


class Projector(nn.Sequential):
    """Maps image features [B, in_features] to the text space [B, out_features].

    - `mlp-bn`:     two layers with batch normalisation after the first: the reference's for ResNet-50
                    (huawei-noah/Efficient-Computing, GPT4Image)
    - `mlp`:        two layers without normalisation: the reference's for DeiT-B
    - `mlp-ln`:     two layers with layer normalisation after the first
    - `bottleneck`: `mlp` with a narrow middle, a quarter of the smaller side when not given
    - `linear`:     one layer

    Weights start from a truncated normal distribution with standard deviation 1024 ** -0.5, as in the reference.

    Args:
        in_features: width of the image features.
        out_features: width of the text vectors.
        hidden_features: width between the layers; twice `out_features` when not given.
        kind: one of the above.

    Raises:
        ConfigError: unknown kind.

    >>> import torch
    >>> Projector(512, 384)(torch.zeros(8, 512)).shape
    torch.Size([8, 384])
    """

    def __init__(
        self, in_features: int, out_features: int, hidden_features: int | None = None, kind: str = "mlp-bn"
    ) -> None:
        if kind not in get_args(ProjectorKind):
            raise ConfigError(unknown_name("projector", kind, list(get_args(ProjectorKind))))
        super().__init__(*make_layers(in_features, out_features, hidden_features, kind))
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, in_features] to [B, out_features], not normalised."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected


def make_layers(in_features: int, out_features: int, hidden_features: int | None, kind: str) -> list[nn.Module]:
    """Layers of a projector."""
    if kind == "linear":
        return [nn.Linear(in_features, out_features)]
    narrow = kind == "bottleneck"
    hidden = hidden_features or (max(1, min(in_features, out_features) // 4) if narrow else 2 * out_features)
    layers: list[nn.Module] = [nn.Linear(in_features, hidden, bias=kind != "mlp-bn")]
    if kind == "mlp-bn":
        layers.append(nn.BatchNorm1d(hidden))
    if kind == "mlp-ln":
        layers.append(nn.LayerNorm(hidden))
    return [*layers, nn.ReLU(inplace=True), nn.Linear(hidden, out_features)]
