"""Puts the parts of a run together: backbone, projector, inputs, optimiser, and the state of an earlier checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils import ModelEmaV3
from torch import nn

from gpt4image.align.aligned_model import AlignedModel, probe_feature
from gpt4image.align.head import AlignmentHead
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.projector import Projector
from gpt4image.align.queue import TextQueue
from gpt4image.align.targets import TargetRule
from gpt4image.align.text import Moments, TextAdapter, TextTransform
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import seed_everything
from gpt4image.train.checkpoint import Progress
from gpt4image.train.data import (
    EpochBatches,
    Inputs,
    LabelledInputs,
    Loading,
    fitting_batch_size,
    labelled_rows,
    make_loader,
    training_rows,
)
from gpt4image.train.frozen import frozen_modules
from gpt4image.train.guidance import Guidance
from gpt4image.train.inference import evaluation_loader
from gpt4image.train.inputs import prepare_inputs
from gpt4image.train.loop import LossWatch, Trainer
from gpt4image.train.objective import Objective
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import Job

if TYPE_CHECKING:
    from accelerate import Accelerator


PROJECTOR_STREAM = 2


"""Keeps the projector's initial draws apart: all arms start from the same backbone."""


STEPS_BETWEEN_LOOKS = 50


"""Steps between two looks at the losses on a GPU; on a CPU looking costs nothing."""


def build_trainer(job: Job, backbone: nn.Module, accelerator: Accelerator) -> Trainer:
    """Make everything ready for the first step.

    Args:
        job: the run.
        backbone: whole backbone, on the CPU; its frozen modules are frozen.
        accelerator: device, processes, precision.
    """
    images, guidance, recipe, seed = job.images, job.guidance, job.recipe, job.seed
    rows = {
        "train": training_rows(images, guidance, recipe.unlabelled == "align"),
        "validation": labelled_rows(images, "validation"),
    }
    source = prepare_inputs(backbone, images, recipe, job.features, accelerator.device)
    with accelerator.main_process_first():
        inputs = source.training(rows["train"], seed), source.evaluation(rows["validation"], "validation")
    train_set = LabelledInputs(inputs[0], images, rows["train"], guidance)
    validation_set = LabelledInputs(inputs[1], images, rows["validation"])
    batches = order_batches(recipe, len(train_set), seed, accelerator)
    loading = Loading(job.workers, pin_memory=accelerator.device.type == "cuda")
    model = make_model(source.trained, inputs[0], images.ids[rows["train"]], guidance, recipe, seed)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    if recipe.compile:
        model.compile()
    return Trainer(
        recipe=recipe,
        seed=seed,
        model=model,
        optimizer=optimizer,
        ema=ModelEmaV3(accelerator.unwrap_model(model), decay=recipe.ema_decay) if recipe.ema_decay else None,
        frozen=[] if recipe.cached_views else frozen_modules(source.trained, recipe.freeze),
        objective=Objective(recipe, len(images.classes), accelerator),
        loader=make_loader(train_set, batches, loading),
        batches=batches,
        validation=evaluation_loader(validation_set, accelerator, loading),
        validation_labels=torch.from_numpy(images.labels[rows["validation"]].astype("int64")),
        accelerator=accelerator,
        watch=make_watch(images, accelerator),
        progress=Progress(),
    )


def make_model(
    trained: nn.Module, inputs: Inputs, ids: np.ndarray, guidance: Guidance, recipe: Recipe, seed: int
) -> AlignedModel:
    """The backbone with a head beside it for each source of vectors, at each place.

    Args:
        trained: the part of the backbone that is trained.
        inputs: what it is fed.
        ids: ids of the training images, whose vectors are centred.
        guidance: what to align with.
        recipe: how.
        seed: seed of the projectors.

    Raises:
        ConfigError: the backbone has no module of a name, or one whose answer cannot be aligned.
    """
    seed_everything(seed, PROJECTOR_STREAM)
    sample = inputs[(0, 0)].unsqueeze(0)
    heads = []
    for number, source in enumerate(guidance.sources):
        transform = None
        if recipe.text_space != "raw":
            transform = TextTransform(recipe.text_space, Moments.of(source.chunks(ids, recipe.texts)))
        for place in recipe.align_at or ("features",):
            tap = None if place == "features" else place
            pool = "auto" if tap is None else recipe.align_pool
            feature = probe_feature(trained, sample, tap, pool)
            if not feature.requires_grad:
                raise ConfigError(
                    f"Nothing that is trained lies before {place!r}, so aligning there changes nothing: freeze less, "
                    "or align at a later module."
                )
            heads.append(
                AlignmentHead(
                    Projector(feature.shape[1], source.width, recipe.projector_hidden, recipe.projector),
                    make_loss(recipe, source.width),
                    source=number,
                    transform=transform,
                    adapter=TextAdapter(source.width) if recipe.text_adapter else None,
                    tap=tap,
                    pool=pool,
                    weight=1 / (len(guidance.sources) * max(1, len(recipe.align_at))),
                )
            )
    return AlignedModel(trained, heads, balance=recipe.balance is not None)


def make_loss(recipe: Recipe, width: int) -> AlignmentLoss:
    """The recipe's alignment loss for vectors of a width."""
    return AlignmentLoss(
        recipe.loss,
        recipe.temperature,
        learn_temperature=recipe.learn_temperature,
        targets=TargetRule(recipe.targets, recipe.target_temperature, recipe.target_share),
        queue=TextQueue(recipe.queue, width) if recipe.queue else None,
    )


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser. ConfigError: timm has no such optimiser."""
    if recipe.optimizer not in list_optimizers():
        raise ConfigError(unknown_name("optimizer", recipe.optimizer, list_optimizers()))
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
    return optimizer


def order_batches(recipe: Recipe, images: int, seed: int, accelerator: Accelerator) -> EpochBatches:
    """Order of the training batches; a batch larger than the image set is cut down to it."""
    parts = recipe.accumulate * accelerator.num_processes
    return EpochBatches(
        images,
        fitting_batch_size(recipe.batch_size, parts, images),
        seed,
        accelerator.process_index,
        accelerator.num_processes,
        recipe.accumulate,
        recipe.repeats,
    )


def make_watch(images: ImageTable, accelerator: Accelerator) -> LossWatch:
    """Watches the losses, at every step on a CPU."""
    interval = 1 if accelerator.device.type == "cpu" else STEPS_BETWEEN_LOOKS
    return LossWatch(interval, lambda rows: [name_image(images, row) for row in rows], accelerator.gather)


def name_image(images: ImageTable, row: int) -> str:
    """Id and path of an image, for messages."""
    return f"{images.rows['id'][row].as_py()} ({images.path(row)})"


def capture_state(trainer: Trainer) -> dict[str, Any]:
    """State dicts of everything that changes during training."""
    scaler = trainer.accelerator.scaler
    return {
        "model": trainer.plain_model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "ema": trainer.ema.module.state_dict() if trainer.ema else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }


def restore_state(trainer: Trainer, progress: Progress, states: dict[str, Any]) -> None:
    """Go on from a checkpoint."""
    trainer.progress = progress
    trainer.plain_model.load_state_dict(states["model"])
    trainer.optimizer.load_state_dict(states["optimizer"])
    if trainer.ema:
        trainer.ema.module.load_state_dict(states["ema"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(states["scaler"])
    trainer.watch.classification_sum = progress.classification_sum
    trainer.watch.alignment_sum = progress.alignment_sum
