"""The alignment loss as a module, for anyone's training loop."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gpt4image.align.distributed import most_rows, world
from gpt4image.align.functional import LOSSES, LossFunction, only_known, unit_length
from gpt4image.align.pairs import Pairs
from gpt4image.align.queue import TextQueue
from gpt4image.align.targets import TargetRule, Texts
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import load_part

LossName = Literal["clip", "infonce", "cosine", "sigmoid", "relational"]


WITHOUT_TEMPERATURE = ("cosine",)


QUEUE_LOSSES = ("clip", "infonce", "sigmoid")


LOWEST_TEMPERATURE = 0.01


"""A learned temperature that fell below is brought back to it (arXiv 2103.00020, section 2.5)."""


class AlignmentLoss(nn.Module):
    """Pulls projected image features towards the vectors of their descriptions (arXiv 2306.00693, section 3).

    Args:
        loss: `clip`, `infonce`, `cosine`, `sigmoid` or `relational`, formulas in `gpt4image.align.functional`; or a
            function of `Pairs` and temperature.
        temperature: divides the similarities; `cosine` has none.
        learn_temperature: start there, and learn it as CLIP does.
        targets: which texts fit an image: a name, or a `TargetRule` with its settings.
        bias: where the learned bias of `sigmoid` starts.
        queue: texts of earlier batches, as further negatives of images; `clip`, `infonce` and `sigmoid` can use it.
        slots: most images of a process in a batch. Several processes agree on the largest of their first batches when
            it is not given, and wait for each other once.

    Raises:
        ConfigError: unknown loss or targets, or settings that do not fit together.

    >>> z = torch.eye(4, requires_grad=True)
    >>> AlignmentLoss("cosine")(z, torch.eye(4)).item()
    0.0
    """

    def __init__(
        self,
        loss: str | LossFunction = "clip",
        temperature: float = 0.2,
        *,
        learn_temperature: bool = False,
        targets: str | TargetRule = "same",
        bias: float = -10.0,
        queue: TextQueue | None = None,
        slots: int | None = None,
    ) -> None:
        super().__init__()
        self.name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        check_settings(self.name, temperature, learn_temperature, queue)
        self.rule = TargetRule(targets) if isinstance(targets, str) else targets
        self.queue = queue
        self._loss: LossFunction = load_part(LOSSES, loss, "loss") if isinstance(loss, str) else loss
        self._slots = None if slots is None else (slots, slots)
        self._fixed = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.bias = nn.Parameter(torch.tensor(bias)) if loss == "sigmoid" else None

    @property
    def temperature(self) -> Tensor | float:
        """The temperature; a scalar with gradient where it is learned."""
        if self.log_scale is None:
            return self._fixed
        return (-self.log_scale).exp()

    def forward(
        self,
        projected: Tensor,
        text: Tensor,
        has_text: Tensor | None = None,
        *,
        mixing: Tensor | None = None,
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        total: Tensor | float | None = None,
    ) -> Tensor:
        """Loss of this process's part of the batch, computed in float32 or better.

        Its mean over the processes is the loss of the joined batch, and so for gradients, which
        `DistributedDataParallel` takes the mean of. The module must be inside what it wraps where anything is learned.

        Args:
            projected: image features in the text space [B, D], any length, with gradient.
            text: text vectors of the sources [S, D], any length; of rows without text they are ignored.
            has_text: which sources have a text, bool [S]; all when not given.
            mixing: share of each source in each image [B, S] (`gpt4image.align.mixing`); S = B and no mixing when not
                given.
            ids: a number for each source's image, int64 [S]; copies of an image are then known as such.
            labels: class of each source, int64 [S], -1 where there is none; for targets `label`.
            total: what the sum over all images of the joined batch is divided by; their number, counted by the share of
                them that has a text, when not given. With gradient accumulation: that number over all parts, divided by
                the number of parts.

        Returns:
            A scalar; 0 where there is no text.

        Raises:
            ConfigError: the shapes do not belong together.
        """
        check_shapes(projected, text, has_text, mixing, ids, labels)
        self._bound_temperature()
        with torch.autocast(device_type=projected.device.type, enabled=False):
            pairs = self._pairs(projected, text, has_text, mixing, ids, labels)
            extra = () if self.bias is None else (self.bias,)
            loss: Tensor = self._loss(pairs, self.temperature, *extra)
            count = pairs.all_shares.sum().clamp(min=1e-6) if total is None else total
            if self.queue is not None and self.training:
                self.queue.push(pairs.all_texts)
        return loss * world().size / count

    @torch.no_grad()
    def _bound_temperature(self) -> None:
        """Bring a learned temperature that fell too low back to the lowest, from where it can rise again."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=-math.log(LOWEST_TEMPERATURE))

    def _pairs(
        self,
        projected: Tensor,
        text: Tensor,
        has_text: Tensor | None,
        mixing: Tensor | None,
        ids: Tensor | None,
        labels: Tensor | None,
    ) -> Pairs:
        device = projected.device
        known = torch.ones(len(text), dtype=torch.bool, device=device) if has_text is None else has_text.to(device)
        z, t = unit_length(projected), unit_length(only_known(text.to(device), known))
        z, t = (vectors.to(torch.promote_types(z.dtype, t.dtype)) for vectors in (z, t))
        ids, labels = (None if part is None else part.to(device) for part in (ids, labels))
        texts = Texts(t, known, ids, labels)
        mixing = None if mixing is None else mixing.to(z)
        queued = None if self.queue is None else self.queue.texts(texts)
        return Pairs(z, texts, mixing, self.rule, self._agree_on_slots(len(z), len(t), device), queued)

    def _agree_on_slots(self, images: int, texts: int, device: torch.device) -> tuple[int, int]:
        if world().size == 1:
            return images, texts
        if self._slots is None:
            images, texts = most_rows(images, texts, device=device)
            self._slots = images, texts
        return self._slots

    def extra_repr(self) -> str:
        """Settings shown by `print`."""
        learned = ", learned" if self.log_scale is not None else ""
        return f"{self.name!r}, temperature={self._fixed}{learned}, targets={self.rule.name!r}"


def check_settings(name: str, temperature: float, learn_temperature: bool, queue: TextQueue | None) -> None:
    """ConfigError when the settings of an alignment loss do not fit together."""
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, not {temperature}.")
    if learn_temperature and name in WITHOUT_TEMPERATURE:
        raise ConfigError(f"The loss {name!r} has no temperature to learn.")
    if queue is not None and name in LOSSES and name not in QUEUE_LOSSES:
        raise ConfigError(f"The loss {name!r} compares no image with other texts: a queue of them is of no use to it.")


def check_shapes(
    projected: Tensor,
    text: Tensor,
    has_text: Tensor | None = None,
    mixing: Tensor | None = None,
    ids: Tensor | None = None,
    labels: Tensor | None = None,
) -> None:
    """ConfigError when the arguments of an alignment loss do not belong together."""
    if projected.ndim != 2 or text.ndim != 2 or projected.shape[1] != text.shape[1]:
        raise ConfigError(
            f"projected features {tuple(projected.shape)} and text vectors {tuple(text.shape)} must be [B, D] and "
            "[S, D]. Is the projector's out_features the width of the text vectors?"
        )
    if mixing is None and len(projected) != len(text):
        raise ConfigError(
            f"{len(projected)} projected features and {len(text)} text vectors: without mixing each image has its own."
        )
    if mixing is not None and mixing.shape != (len(projected), len(text)):
        raise ConfigError(f"mixing {tuple(mixing.shape)} must be [B, S] = [{len(projected)}, {len(text)}].")
    for name, part in (("has_text", has_text), ("ids", ids), ("labels", labels)):
        if part is not None and part.shape != text.shape[:1]:
            raise ConfigError(f"{name} {tuple(part.shape)} must be [S] = [{len(text)}].")
