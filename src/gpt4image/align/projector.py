"""The projector from image features into the text space; it is used only in training."""

from __future__ import annotations

from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

KINDS = ("mlp-bn", "mlp-ln", "mlp", "bottleneck", "linear")
INITIAL_STD = 1024**-0.5  # standard deviation in the reference implementation, for layers of any width


class Projector(nn.Sequential):
    """Maps image features [B, in_features] to the text space [B, out_features].

    - `mlp-bn`:     two layers with batch normalisation after the first, as the reference has for ResNet-50
                    (huawei-noah/Efficient-Computing, GPT4Image)
    - `mlp`:        two layers without normalisation, as the reference has for DeiT-B
    - `mlp-ln`:     two layers with layer normalisation after the first
    - `bottleneck`: `mlp` with a narrow middle, by default a quarter of the smaller side
    - `linear`:     one layer

    Weights start from a truncated normal distribution with standard deviation 1024 ** -0.5, as in the reference.

    Args:
        in_features: width of the image features.
        out_features: width of the text vectors.
        hidden_features: width between the layers; default 2 * out_features.
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
        if kind not in KINDS:
            raise ConfigError(unknown_name("projector", kind, KINDS))
        super().__init__(*_make_layers(in_features, out_features, hidden_features, kind))
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)

    def forward(self, features: Tensor) -> Tensor:
        """Project features [B, in_features] to [B, out_features], of any length."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return projected


def _make_layers(in_features: int, out_features: int, hidden_features: int | None, kind: str) -> list[nn.Module]:
    if kind == "linear":
        return [nn.Linear(in_features, out_features)]
    narrow = kind == "bottleneck"
    hidden = hidden_features or (max(1, min(in_features, out_features) // 4) if narrow else 2 * out_features)
    layers: list[nn.Module] = [nn.Linear(in_features, hidden, bias=kind != "mlp-bn")]  # its norm has a bias already
    if kind == "mlp-bn":
        layers.append(nn.BatchNorm1d(hidden))
    if kind == "mlp-ln":
        layers.append(nn.LayerNorm(hidden))
    return [*layers, nn.ReLU(inplace=True), nn.Linear(hidden, out_features)]
