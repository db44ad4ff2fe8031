"""The alignment loss for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.align.head import AlignmentHead
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.projector import Projector
from gpt4image.align.taps import FeatureTap
from gpt4image.core.errors import ConfigError
from gpt4image.integrations.targets import TextTargets


class TextAlignment(nn.Module):
    """Aligns the features of any classifier with the texts of its images (arXiv 2306.00693, section 3).

    A hook captures the input of the classifier layer, so the model and its `state_dict` do not change, even if this
    module is a part of the model. The projector must be trained too: add `parameters()` to the optimiser.

    Args:
        model: maps images to logits; its output may have any form.
        targets: the text vectors of the training set.
        weight: weight lambda of the loss relative to the cross-entropy.
        loss: the alignment loss, or its name.
        projector: kind of projector (`Projector`).
        classifier: the model's last layer; by default that of `get_classifier()` (timm), or the last linear layer.

    Raises:
        ConfigError: the classifier layer cannot be found, or has no width.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> find_last_layer(model)
    Linear(in_features=8, out_features=2, bias=True)
    """

    def __init__(
        self,
        model: nn.Module,
        targets: TextTargets,
        *,
        weight: float = 0.3,
        loss: str | AlignmentLoss = "clip",
        projector: str = "mlp-bn",
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layer = classifier or find_last_layer(model)
        width = getattr(layer, "in_features", None) or getattr(layer, "in_channels", None)
        if not isinstance(width, int):
            raise ConfigError(f"{type(layer).__name__} does not declare its input width: pass a linear layer.")
        made = AlignmentLoss(loss) if isinstance(loss, str) else loss
        self.head = AlignmentHead(Projector(width, targets.width, kind=projector), made)
        self.weight, self.targets = weight, targets
        self._layer = [layer]  # in a list, so that it does not count as a part of this module
        self._tap: list[FeatureTap] = []
        self.register_load_state_dict_pre_hook(_keep_own_values)  # type: ignore[no-untyped-call]
        self.attach()

    def attach(self) -> None:
        """Capture the features of every forward pass from now on."""
        if not self._tap:
            self._tap.append(FeatureTap(self._layer[0], before=True))

    def remove(self) -> None:
        """Stop capturing features, so that the model can be saved as a whole."""
        while self._tap:
            self._tap.pop().remove()

    def forward(self, index: Tensor | Sequence[int], mixing: Tensor | None = None) -> Tensor:
        """Return weight x the alignment loss of the model's last forward pass, a scalar.

        Args:
            index: positions in the dataset of the batch's samples [B] (`TextTargets.indexed`).
            mixing: share of each sample in each image [B, B], if images were mixed (`gpt4image.align.mixing`).

        Raises:
            ConfigError: the model was not run since the last call.
        """
        features = self._tap[0].take()  # [B, F]
        targets = self.targets[index]
        moved = targets._replace(
            vectors=tuple(part.to(features.device) for part in targets.vectors),
            known=tuple(part.to(features.device) for part in targets.known),
        )
        aligned: Tensor = self.head.align(self.head(features), moved, mixing)
        return self.weight * aligned

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:  # noqa: ANN401 - as torch declares it
        """Return the state of the projector and the loss; as a part of another module, return nothing."""
        return super().state_dict(*args, **kwargs) if destination is None else destination


def _keep_own_values(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Keep this module's values when a model that contains it loads a `state_dict` without them."""
    for name, value in nn.Module.state_dict(module).items():
        state.setdefault(prefix + name, value)


def find_last_layer(model: nn.Module) -> nn.Module:
    """Return the layer that computes the logits: that of timm's `get_classifier`, else the last linear layer.

    Raises:
        ConfigError: there is no such layer.
    """
    if hasattr(model, "get_classifier"):
        return find_classifier(model)
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ConfigError(f"{type(model).__name__} has no linear layer: pass its last layer, classifier=model.fc.")
    return linear[-1]
