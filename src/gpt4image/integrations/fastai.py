"""Descriptions in a fastai training: a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.targets import TextTargets

try:
    from fastai.callback.core import Callback
except ModuleNotFoundError:
    raise MissingExtraError("fastai", "fastai", "TextAlignmentCallback") from None


class TextAlignmentCallback(Callback):  # type: ignore[misc] # fastai is untyped
    """Adds the alignment loss to the loss of each training batch.

    Nothing else changes: the batches get the positions of their samples on the way, and the projector is trained with
    the learner's last group of parameters. After `fit` the model holds nothing of it, so `learn.export` works as ever.

    Args:
        targets: the text vectors of the training set, `text_targets(dls.train_ds)`.
        settings: further arguments of `TextAlignment`.
    """

    run_valid = False

    def __init__(self, targets: TextTargets, **settings: Any) -> None:  # noqa: ANN401 - passed on
        self._targets, self._settings = targets, settings
        self.alignment: TextAlignment | None = None
        self._index: Any = None

    def before_fit(self) -> None:
        """Attach the alignment, and add the projector to the optimiser."""
        if len(self.dls.train_ds) != len(self._targets):
            raise ConfigError(
                f"The training set has {len(self.dls.train_ds):,} samples, the targets were made for "
                f"{len(self._targets):,}: make them of it, text_targets(dls.train_ds)."
            )
        if self.alignment is None:
            self.alignment = TextAlignment(self.model, self._targets, **self._settings)
        self.alignment.attach()
        self.alignment.to(self.dls.device)
        self._train_projector(True)
        self.dls.train.do_item = with_position(self.dls.train)

    def before_batch(self) -> None:
        """Take the positions [B] out of the batch."""
        parts = [*self.xb, *self.yb]
        self._index = parts.pop()
        inputs = getattr(self.dls, "n_inp", max(1, len(parts) - 1))
        self.learn.xb, self.learn.yb = tuple(parts[:inputs]), tuple(parts[inputs:])

    def after_loss(self) -> None:
        """Add the alignment loss."""
        assert self.alignment is not None
        self.learn.loss_grad = self.learn.loss_grad + self.alignment(self._index)
        self.learn.loss = self.learn.loss_grad.clone()

    def after_fit(self) -> None:
        """Leave the learner as it was."""
        assert self.alignment is not None
        self.alignment.remove()
        self._train_projector(False)
        del self.dls.train.do_item

    def after_cancel_fit(self) -> None:
        """Leave the learner as it was."""
        self.after_fit()

    def _train_projector(self, on: bool) -> None:
        """Add the projector to the optimiser's last group, or take it out, which keeps its momentum."""
        assert self.alignment is not None
        own = list(self.alignment.parameters())
        known = {id(part) for part in own}
        groups = self.opt.param_lists
        groups[-1] = [part for part in groups[-1] if id(part) not in known] + (own if on else [])


def with_position(loader: Any) -> Callable[[Any], tuple[Any, ...] | None]:  # noqa: ANN401 - a fastai DataLoader
    """Return a function that makes the loader's sample at a position, and ends it with the position."""
    plain = type(loader).do_item

    def do_item(index: int) -> tuple[Any, ...] | None:
        sample = plain(loader, index)
        return None if sample is None else (*sample, index)

    return do_item
