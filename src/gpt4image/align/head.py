"""One alignment: a feature of the model, a projector, a source of vectors, and the loss between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt4image.align.functional import only_known, unit_length
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.text import TextAdapter, TextTransform
from gpt4image.core.errors import ConfigError

COLLAPSING = ("cosine", "relational")


"""Losses that a text side that learns could bring to nothing by making all texts one."""


class Targets(NamedTuple):
    """What the images of a batch are aligned with: for each source of vectors, such as a text encoder, one a row.

    Attributes:
        vectors: of each source [S, D], any length.
        known: which rows have a vector, for each source bool [S].
        ids: a number for each row's image, int64 [S]; None where it is not known.
        labels: class of each row, int64 [S], -1 where there is none; None where it is not known.
        totals: for each source what its loss is divided by (`AlignmentLoss.forward`); None counts what is there.
    """

    vectors: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    ids: Tensor | None = None
    labels: Tensor | None = None
    totals: tuple[Tensor, ...] | None = None


class AlignmentHead(nn.Module):
    """A projector with what it aligns to.

    Args:
        projector: maps features [B, F] to the space of the vectors [B, D].
        loss: the loss between the two; `clip` when not given.
        source: which source of vectors.
        transform: applied to the vectors first.
        adapter: learned, applied after it.
        tap: name of the backbone's module whose output is aligned; the classifier's input when not given.
        pool: how that output becomes one vector an image (`FeatureTap`).
        weight: weight among several heads.

    Raises:
        ConfigError: an adapter with a loss under which it would make all texts one, or with a queue.
    """

    def __init__(
        self,
        projector: nn.Module,
        loss: AlignmentLoss | None = None,
        *,
        source: int = 0,
        transform: TextTransform | None = None,
        adapter: TextAdapter | None = None,
        tap: str | None = None,
        pool: str = "auto",
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.projector, self.loss = projector, loss or AlignmentLoss()
        self.transform, self.adapter = transform, adapter
        self.source, self.tap, self.pool, self.weight = source, tap, pool, weight
        if adapter is not None and self.loss.name in COLLAPSING:
            raise ConfigError(
                f"A text adapter under the loss {self.loss.name!r} learns to make all texts one. Take clip, infonce or "
                "sigmoid, or no adapter."
            )
        if adapter is not None and self.loss.queue is not None:
            raise ConfigError("A queue keeps texts, and an adapter that learns changes them: take one of the two.")

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] in the space of the vectors [B, D]."""
        projected: Tensor = self.projector(features)
        return projected

    def align(self, projected: Tensor, targets: Targets, mixing: Tensor | None = None) -> Tensor:
        """The loss between projected features [B, D] and this head's vectors (`AlignmentLoss.forward`)."""
        text, known = targets.vectors[self.source], targets.known[self.source]
        with torch.autocast(device_type=projected.device.type, enabled=False):
            for change in (self.transform, self.adapter):
                text = text if change is None else change(unit_length(only_known(text, known)))
        loss: Tensor = self.loss(
            projected,
            text,
            known,
            mixing=mixing,
            ids=targets.ids,
            labels=targets.labels,
            total=None if targets.totals is None else targets.totals[self.source],
        )
        return loss
