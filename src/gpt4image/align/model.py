"""A classifier that also shows the features its classifier reads, projected into the text space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt4image.errors import ConfigError


class AlignedOutput(NamedTuple):
    """What an `AlignedModel` answers.

    Attributes:
        logits: [B, C].
        features: the classifier's input [B, F].
        projected: the features in the text space [B, D]; None without a projector.
    """

    logits: Tensor
    features: Tensor
    projected: Tensor | None


class AlignedModel(nn.Module):
    """A backbone with its classifier, unchanged, and a projector beside it that training throws away.

    The features are whatever the classifier layer receives (pooled feature of a CNN, class token of a ViT, dropout
    included), caught on the way in, so any model whose last layer is a module works and `backbone` stays as it was.

    Args:
        backbone: the model that will be deployed; maps images to logits.
        projector: maps features [B, F] to the text space [B, D]; None trains the backbone alone.
        classifier: the backbone's last layer; `backbone.get_classifier()` (timm) when not given.

    Raises:
        ConfigError: the backbone does not say which layer is its classifier.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module | None = None, classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        find_classifier(backbone, classifier).register_forward_pre_hook(self._catch_features)
        self._features: Tensor | None = None

    def _catch_features(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    def forward(self, images: Tensor) -> AlignedOutput:
        """Logits, features and projected features of images [B, 3, H, W]."""
        logits = self.backbone(images)
        features, self._features = self._features, None
        if features is not None and features.shape[2:] == (1, 1):  # classifiers that are 1 x 1 convolutions
            features = features.flatten(1)
        if features is None or features.ndim != 2:
            shape = None if features is None else tuple(features.shape)
            raise ConfigError(f"The classifier must be called once with features [B, F]; it received {shape}.")
        projected = None if self.projector is None else self.projector(features)
        return AlignedOutput(logits, features, projected)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimisers do not decay: those the backbone names, such as its position embedding."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in named}


def find_classifier(backbone: nn.Module, classifier: nn.Module | None = None) -> nn.Module:
    """The layer that makes logits of features. ConfigError when the backbone has none that can be found."""
    if classifier is None and hasattr(backbone, "get_classifier"):
        found = backbone.get_classifier()  # type: ignore[operator]
        classifier = found[0] if isinstance(found, tuple) else found
    if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.Identity):
        raise ConfigError(
            f"{type(backbone).__name__} does not say which layer is its classifier. "
            "Pass it: AlignedModel(..., classifier=model.fc)."
        )
    return classifier


def feature_width(backbone: nn.Module, images: Tensor) -> int:
    """Width F of the features that a backbone's classifier receives for images [B, 3, H, W]; B may be 1."""
    widths: list[int] = []
    handle = find_classifier(backbone).register_forward_pre_hook(
        lambda _, inputs: widths.append(inputs[0].flatten(1).shape[1])
    )
    was_training = backbone.training
    with torch.no_grad():
        backbone.eval()(images)
    backbone.train(was_training)
    handle.remove()
    return widths[0]
