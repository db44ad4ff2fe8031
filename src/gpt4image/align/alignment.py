"""The alignment loss as a module, for anyone's training loop."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gpt4image.align.gather import gather_batch
from gpt4image.align.losses import LOSSES, unit_length
from gpt4image.errors import ConfigError
from gpt4image.seams import load_part

LossName = Literal["clip", "infonce", "cosine"]


class AlignmentLoss(nn.Module):
    """Pulls projected image features towards the vectors of their descriptions (arXiv 2306.00693, section 3).

    Args:
        loss: `clip`, `infonce` or `cosine`; formulas in `gpt4image.align.losses`.
        temperature: divides the similarities; `cosine` has none.

    Raises:
        ConfigError: unknown loss, or a temperature that is not above zero.

    >>> z = torch.eye(4, requires_grad=True)
    >>> AlignmentLoss("cosine")(z, torch.eye(4)).item()
    0.0
    """

    def __init__(self, loss: str = "clip", temperature: float = 0.2) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, not {temperature}.")
        self.name, self.temperature = loss, temperature
        self._loss = load_part(LOSSES, loss, "loss")

    def forward(self, projected: Tensor, text: Tensor, has_text: Tensor | None = None) -> Tensor:
        """Loss over the batches of all processes, computed in float32 or better.

        Args:
            projected: image features in the text space [B, D], any length, with gradient.
            text: text vectors [B, D], any length; rows of images without text are ignored.
            has_text: which images have a text, bool [B]; all when not given.

        Returns:
            A scalar: the mean over the images that have text, 0 where there are none.

        Raises:
            ConfigError: the shapes do not belong together.
        """
        check_shapes(projected, text, has_text)
        with torch.autocast(device_type=projected.device.type, enabled=False):
            z = gather_batch(unit_length(projected))
            t = gather_batch(unit_length(text.to(projected.device))).to(z.dtype)
            mask = (
                torch.ones(len(projected), dtype=torch.bool, device=projected.device) if has_text is None else has_text
            )
            loss: Tensor = self._loss(z, t, gather_batch(mask.to(projected.device)), self.temperature)
        return loss

    def extra_repr(self) -> str:
        """Settings shown by `print`."""
        return f"{self.name!r}, temperature={self.temperature}"


def check_shapes(projected: Tensor, text: Tensor, has_text: Tensor | None) -> None:
    """ConfigError when the arguments of an alignment loss do not belong together."""
    if projected.ndim != 2 or projected.shape != text.shape:
        raise ConfigError(
            f"projected features {tuple(projected.shape)} and text vectors {tuple(text.shape)} must both be [B, D]. "
            "Is the projector's out_features the width of the text vectors?"
        )
    if has_text is not None and has_text.shape != projected.shape[:1]:
        raise ConfigError(f"has_text {tuple(has_text.shape)} must be [B] = [{len(projected)}].")
