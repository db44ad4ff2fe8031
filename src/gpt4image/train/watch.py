"""Watches the losses: sums for the history, and an early end when one is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gpt4image.errors import TrainingError

SHOWN_IDS = 8


class LossWatch:
    """Collects losses on the device and looks at them every few steps, so that a GPU is not waited for at every step.

    All processes must look at the same steps.

    Args:
        interval: steps between two looks.
        image_ids: names images by their positions in the table, for the error message.
        gather: joins a tensor [1, ...] over all P processes to [P, ...].
    """

    def __init__(
        self, interval: int, image_ids: Callable[[list[int]], list[str]], gather: Callable[[Tensor], Tensor]
    ) -> None:
        self._interval, self._image_ids, self._gather = interval, image_ids, gather
        self._pending: list[tuple[int, int, Tensor, Tensor]] = []
        self.classification_sum = 0.0
        self.alignment_sum = 0.0

    def record(self, epoch: int, step: int, rows: Tensor, losses: Tensor) -> None:
        """Take note of a step's losses [2], classification and alignment, and of its images' table positions [B]."""
        self._pending.append((epoch, step, rows, losses.detach()))
        if len(self._pending) >= self._interval:
            self.look()

    @property
    def looked(self) -> bool:
        """Whether every recorded loss has been looked at."""
        return not self._pending

    def look(self) -> None:
        """Add up the losses since the last look, as means over processes. TrainingError when one is not finite.

        They are added one by one, so that the sum does not depend on when they are looked at.
        """
        if self.looked:
            return
        own = torch.stack([losses for *_, losses in self._pending])
        means = self._gather(own[None]).mean(dim=0).tolist()
        if not all(math.isfinite(loss) for step in means for loss in step):
            self._fail(own)
        for classification, alignment in means:
            self.classification_sum += classification
            self.alignment_sum += alignment
        self._pending.clear()

    def _fail(self, own: Tensor) -> None:
        bad = (~torch.isfinite(own)).any(dim=1).nonzero()
        advice = (
            "Try a lower --lr, --clip-grad 1.0, --precision no, or a higher --temperature; and look at these images: "
            "gpt4image images DATA."
        )
        if not len(bad):
            raise TrainingError(f"The loss of another process is not a number. {advice}")
        epoch, step, rows, losses = self._pending[int(bad[0])]
        classification, alignment = losses.tolist()
        ids = self._image_ids(rows.tolist())
        shown = ", ".join(ids[:SHOWN_IDS]) + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")
        raise TrainingError(
            f"The loss is not a number at epoch {epoch}, step {step} (classification {classification}, "
            f"alignment {alignment}). "
            f"Images of the batch: {shown}. {advice}"
        )
