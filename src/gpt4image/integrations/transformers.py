"""Descriptions in `transformers`: a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.targets import INDEX, MapDataset, TextTargets

PROJECTOR_FILE = "text_alignment.safetensors"


class TextAlignedTrainer(Trainer):
    """A Trainer whose training loss is the model's own plus the alignment loss.

    Use it like `Trainer`, with any image classifier of transformers and a map-style training set with the images of
    `text_targets` in the same order. The saved model does not contain the projector; checkpoints do.

    Args:
        text_targets: the text vectors of the training set.
        text_settings: further arguments of `TextAlignment`.
        args: arguments of `Trainer`.
        kwargs: arguments of `Trainer`.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - passed on
        text_targets: TextTargets,
        text_settings: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - passed on
    ) -> None:
        super().__init__(*args, **kwargs)
        self._targets = text_targets
        model = cast(nn.Module, self.model)
        self.text_alignment = TextAlignment(model, text_targets, **(text_settings or {})).to(self.args.device)
        model.add_module("text_alignment", self.text_alignment)  # so that the Trainer wraps and optimises it

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - a loss, or a loss and outputs
        """Return the model's loss; in training, the alignment loss is added."""
        index = inputs.pop(INDEX, None)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if index is not None:
            aligned = self.text_alignment(index)
            loss = loss + aligned / self._parts(num_items_in_batch is not None)
        return (loss, outputs) if return_outputs else loss

    def _parts(self, counted: bool) -> int:
        """Return the divisor for a mean over this batch with which accumulated gradients average it."""
        scaled = (self.model_accepts_loss_kwargs and counted) or self.compute_loss_func is not None
        return int(getattr(self, "current_gradient_accumulation_steps", 1)) if scaled else 1  # or the Trainer divides

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the training loader, whose batches hold the samples' positions."""
        dataset, collate = cast(MapDataset, self.train_dataset), self.data_collator
        self.train_dataset, self.data_collator = self._targets.indexed(dataset), with_positions(collate)
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collate
        return loader

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast(list[str], self._signature_columns)
        if INDEX not in columns:  # otherwise the Trainer drops the positions as unused
            columns.append(INDEX)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as Trainer
        super()._save_checkpoint(*args, **kwargs)
        folder = Path(self._get_output_dir(trial=None)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            save_file(self.text_alignment.state_dict(), folder / PROJECTOR_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ANN401 - as Trainer
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if (file := Path(resume_from_checkpoint) / PROJECTOR_FILE).exists():
            self.text_alignment.load_state_dict(load_file(file))


def with_positions(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a collate function that applies another one to the samples without positions, and adds the positions."""

    def joined(samples: list[dict[str, Any]]) -> dict[str, Any]:
        index = torch.tensor([sample[INDEX] for sample in samples])
        rest = [{name: value for name, value in sample.items() if name != INDEX} for sample in samples]
        return {**collate(rest), INDEX: index}

    return joined
