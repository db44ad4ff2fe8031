"""A head: projector, text side and loss between a feature of the model and a source of vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt4image.align.distributed import zero_loss
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.pairs import only_known, unit_length
from gpt4image.align.text import TextAdapter, TextTransform
from gpt4image.core.errors import ConfigError

FEWEST_REGIONS = 2  # fewest regions for batch normalisation and contrastive losses


class Targets(NamedTuple):
    """The vectors that a batch is aligned with, from several sources such as text encoders.

    Attributes:
        vectors: vectors of each source [S, D], of any length.
        known: which rows have a vector, for each source bool [S].
        ids: a number for each row's image, int64 [S]; None where unknown.
        labels: class of each row, int64 [S], -1 for none, or several (`AlignmentLoss.forward`); None where unknown.
        totals: divisor of each source's loss (`AlignmentLoss.forward`); None counts the rows with a vector, of all
            sources or of one.
    """

    vectors: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    ids: Tensor | None = None
    labels: Tensor | None = None
    totals: tuple[Tensor | None, ...] | None = None


class AlignmentHead(nn.Module):
    """A projector with the loss that aligns its output.

    Args:
        projector: maps features [B, F] to the space of the vectors [B, D].
        loss: the alignment loss; default `clip`.
        source: number of the source of vectors.
        transform: fixed transformation of the vectors.
        adapter: learned transformation, applied after `transform`.
        tap: name of the backbone's module whose output is aligned; default the classifier's input.
        pool: how that output becomes one vector per image (`FeatureTap`).
        weight: weight among several heads.
        reader: maps texts [S, D] to features [S, F], from which the model's classifier tells their class as well: the
            shared head of Min et al., "Grounding Visual Representations with Texts", ECCV 2022.

    Raises:
        ConfigError: an adapter together with a loss that would make it collapse, or with a queue.
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
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.projector, self.loss = projector, loss or AlignmentLoss()
        self.transform, self.adapter, self.reader = transform, adapter, reader
        self.source, self.tap, self.pool, self.weight = source, tap, pool, weight
        if adapter is not None and self.loss.entry.may_collapse:
            raise ConfigError(
                f"With the loss {self.loss.name!r} a text adapter learns to make all texts one. Use clip, infonce or "
                "sigmoid, or no adapter."
            )
        if adapter is not None and self.loss.queue is not None:
            raise ConfigError(
                "A text adapter would change the texts that are already in the queue: use one of the two."
            )

    def forward(self, features: Tensor) -> Tensor:
        """Project features [B, F] into the space of the vectors [B, D]."""
        projected: Tensor = self.projector(features)
        return projected

    def align(self, projected: Tensor, targets: Targets, mixing: Tensor | None = None) -> Tensor:
        """Return the loss between projected features [B, D] and this head's vectors (`AlignmentLoss.forward`)."""
        text, known = self._texts(targets), targets.known[self.source]  # [S, D], [S]
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

    def read(self, targets: Targets) -> Tensor:
        """Return features [S, F] of the texts; those of unknown texts are meaningless."""
        assert self.reader is not None
        features: Tensor = self.reader(unit_length(only_known(self._texts(targets), targets.known[self.source])))
        return features

    def _texts(self, targets: Targets) -> Tensor:
        """Return the vectors of this head's source [S, D], transformed and adapted."""
        text, known = targets.vectors[self.source], targets.known[self.source]
        with torch.autocast(device_type=text.device.type, enabled=False):
            for change in (self.transform, self.adapter):
                # rows without a text may hold anything, even NaN, and must not affect what is learned
                text = text if change is None else change(unit_length(only_known(text, known)))
        return text


class RegionHead(AlignmentHead):
    """A head that aligns image regions, such as annotated boxes, some of which may be missing or have no vector.

    The features are those of R regions [R, F]; the head's source has a vector for each, and says which are known. With
    fewer than two known regions the loss is 0. It is a mean over the regions of this process's part of a batch.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the features [R, F] as they are: those of no region must not reach the projector's statistics."""
        return features

    def align(self, projected: Tensor, targets: Targets, mixing: Tensor | None = None) -> Tensor:
        """Return the loss between the features [R, F] of the known regions and their vectors; nothing is mixed."""
        known = targets.known[self.source].nonzero()[:, 0]
        if len(known) < FEWEST_REGIONS:
            return zero_loss(self)
        features: Tensor = self.projector(projected[known])
        loss: Tensor = self.loss(features, self._texts(targets)[known])
        return loss
