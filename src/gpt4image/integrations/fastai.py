"""Descriptions in fastai: callbacks for the alignment and for text labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.labels import TextLabels, soft_cross_entropy
from gpt4image.integrations.targets import TextTargets

try:
    from fastai.callback.core import Callback
except ModuleNotFoundError:
    raise MissingExtraError("fastai", "fastai", "TextAlignmentCallback") from None


class _PositionCallback(Callback):  # type: ignore[misc] # fastai is untyped
    """Adds positions of samples to training batches, removes them before the model, and can replace labels."""

    run_valid = False

    def __init__(self, labels: TextLabels | None) -> None:
        self._labels = labels
        self._index: Any = None
        self._loss: Any = None

    def before_fit(self) -> None:
        """Make the training loader add positions, and the loss accept class probabilities."""
        expected = len(self._labels) if self._labels is not None else len(self.dls.train_ds)
        if len(self.dls.train_ds) != expected:
            raise ConfigError(
                f"The training set has {len(self.dls.train_ds):,} samples, but the labels were made for {expected:,}."
            )
        if self._labels is not None:
            self._loss = self.learn.loss_func
            self.learn.loss_func = partial(either_loss, self._loss)
        self.dls.train.do_item = with_position(self.dls.train)

    def before_batch(self) -> None:
        """Remove the positions [B] from the batch, and replace its labels if there are others."""
        parts = [*self.xb, *self.yb]
        self._index = parts.pop()
        inputs = getattr(self.dls, "n_inp", max(1, len(parts) - 1))
        self.learn.xb, self.learn.yb = tuple(parts[:inputs]), tuple(parts[inputs:])
        if self._labels is not None:
            self.learn.yb = (self._labels[self._index].to(self.dls.device),)

    def after_fit(self) -> None:
        """Leave the learner as it was."""
        if self._labels is not None:
            self.learn.loss_func = self._loss
        del self.dls.train.do_item

    def after_cancel_fit(self) -> None:
        """Leave the learner as it was."""
        self.after_fit()


class TextLabelCallback(_PositionCallback):
    """Trains on text labels in place of the given ones; validation still uses the given ones.

    Args:
        labels: the labels of the training set, `text_labels(text_targets(dls.train_ds), given, dls.vocab)`.
    """

    def __init__(self, labels: TextLabels) -> None:
        super().__init__(labels)


class TextAlignmentCallback(_PositionCallback):
    """Adds the alignment loss to the loss of each training batch.

    Nothing else changes: batches carry the positions of their samples only until the model sees them, and the projector
    is trained with the learner's last group of parameters. After `fit` nothing remains in the model, so `learn.export`
    works as usual.

    Args:
        targets: the text vectors of the training set, `text_targets(dls.train_ds)`.
        labels: text labels to train on in place of the given ones.
        settings: further arguments of `TextAlignment`.
    """

    def __init__(self, targets: TextTargets, labels: TextLabels | None = None, **settings: Any) -> None:  # noqa: ANN401 - passed on
        super().__init__(labels)
        self._targets, self._settings = targets, settings
        self.alignment: TextAlignment | None = None

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
        super().before_fit()

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
        super().after_fit()

    def _train_projector(self, on: bool) -> None:
        """Add the projector to the optimiser's last group, or remove it; its momentum is kept."""
        assert self.alignment is not None
        own = list(self.alignment.parameters())
        known = {id(part) for part in own}
        groups = self.opt.param_lists
        groups[-1] = [part for part in groups[-1] if id(part) not in known] + (own if on else [])


def either_loss(given: Any, prediction: Any, target: Any) -> Any:  # noqa: ANN401 - a learner's loss and its tensors
    """Return the learner's own loss, or the cross-entropy if the targets are class probabilities."""
    return soft_cross_entropy(prediction, target) if target.is_floating_point() else given(prediction, target)


def with_position(loader: Any) -> Callable[[Any], tuple[Any, ...] | None]:  # noqa: ANN401 - a fastai DataLoader
    """Return a function that creates the loader's sample at a position, with the position appended."""
    plain = type(loader).do_item

    def do_item(index: int) -> tuple[Any, ...] | None:
        sample = plain(loader, index)
        return None if sample is None else (*sample, index)

    return do_item
