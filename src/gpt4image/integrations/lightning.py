"""Descriptions in Lightning: a callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.targets import INDEX, TextTargets

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:
    raise MissingExtraError("lightning", "lightning", "TextAlignmentCallback") from None


class TextAlignmentCallback(Callback):  # type: ignore[misc] # partly typed
    """Adds the alignment loss to the loss that `training_step` returns, and logs it as `alignment`.

    The training set must be `targets.indexed(dataset)`; `training_step` gets its batches without the positions. The
    module's first optimiser trains the projector, and checkpoints store it as this callback's state, so that the
    module's own `state_dict` does not change.

    Args:
        targets: the text vectors of the training set.
        model: name of the module's attribute that is the classifier; by default the module itself.
        settings: further arguments of `TextAlignment`.
    """

    def __init__(self, targets: TextTargets, model: str = "", **settings: Any) -> None:  # noqa: ANN401 - passed on
        self._targets, self._model, self._settings = targets, model, settings
        self._state: dict[str, Any] | None = None
        self._alignment: TextAlignment | None = None
        self._training_step: Callable[..., Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the alignment before the optimisers are created."""
        if stage != "fit" or self._alignment is not None:
            return
        model = pl_module.get_submodule(self._model)
        self._alignment = pl_module.text_alignment = TextAlignment(model, self._targets, **self._settings)
        if self._state is not None:
            self._alignment.load_state_dict(self._state)
        self._training_step = pl_module.training_step
        pl_module.training_step = self._aligned_step(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the projector to the first optimiser, unless the module has already added it to one."""
        assert self._alignment is not None
        trained = {id(p) for made in trainer.optimizers for group in made.param_groups for p in group["params"]}
        if new := [p for p in self._alignment.parameters() if id(p) not in trained]:
            trainer.optimizers[0].param_groups[0]["params"].extend(new)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the module."""
        if stage != "fit" or self._alignment is None:
            return
        self._state = self._alignment.state_dict()
        self._alignment.remove()
        del pl_module.text_alignment, pl_module.training_step
        self._alignment = None

    def state_dict(self) -> dict[str, Any]:
        """Return the projector's state for a checkpoint."""
        return (self._state or {}) if self._alignment is None else self._alignment.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the projector from a checkpoint."""
        self._state = state_dict
        if self._alignment is not None:
            self._alignment.load_state_dict(state_dict)

    def _aligned_step(self, module: LightningModule) -> Callable[..., Any]:
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the module's own
            assert self._alignment is not None and self._training_step is not None
            batch, index = split_batch(batch)
            output = self._training_step(batch, *args, **kwargs)
            aligned = self._alignment(index)
            module.log("alignment", aligned.detach())
            if isinstance(output, dict):
                return {**output, "loss": output["loss"] + aligned}
            return output + aligned

        return training_step


def split_batch(batch: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any batch
    """Split a batch of an `IndexedDataset` into the batch without positions and the positions [B].

    Raises:
        ConfigError: the batch has no positions.
    """
    if isinstance(batch, dict) and INDEX in batch:
        return {name: value for name, value in batch.items() if name != INDEX}, batch[INDEX]
    if isinstance(batch, tuple | list) and len(batch) > 1 and is_positions(batch[-1]):
        return type(batch)(batch[:-1]), batch[-1]
    raise ConfigError("The batch has no positions: train on targets.indexed(dataset).")


def is_positions(values: Any) -> bool:  # noqa: ANN401 - any value
    """Whether values can be positions in a dataset."""
    return getattr(values, "ndim", 0) == 1 and not values.is_floating_point()
