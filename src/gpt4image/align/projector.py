"""The projector: image features into the text space, during training only."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

ProjectorKind = Literal["mlp-bn", "mlp"]
INITIAL_STD = 1024**-0.5
"""Spread of the initial weights in the reference implementation, whatever the widths."""


class Projector(nn.Sequential):
    """Two linear layers that map image features [B, in_features] to the text space [B, out_features].

    The two kinds of the reference implementation (huawei-noah/Efficient-Computing, GPT4Image): `mlp-bn` with batch
    normalisation after the first layer (its ResNet-50), `mlp` without (its DeiT-B). Weights start from a truncated
    normal distribution with standard deviation 1024 ** -0.5, as there.

    Args:
        in_features: width of the image features.
        out_features: width of the text vectors.
        hidden_features: width between the layers; twice `out_features` when not given.
        kind: `mlp-bn` or `mlp`.

    >>> import torch
    >>> Projector(512, 384)(torch.zeros(8, 512)).shape
    torch.Size([8, 384])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int | None = None,
        kind: ProjectorKind = "mlp-bn",
    ) -> None:
        hidden = hidden_features or 2 * out_features
        normalise = kind == "mlp-bn"
        layers: list[nn.Module] = [nn.Linear(in_features, hidden, bias=not normalise)]
        if normalise:
            layers.append(nn.BatchNorm1d(hidden))
        super().__init__(*layers, nn.ReLU(inplace=True), nn.Linear(hidden, out_features))
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, in_features] to [B, out_features], not normalised."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected
