"""Build a `Trainer` from the specification of a run: inputs, model with alignment heads, optimiser, loaders."""

from __future__ import annotations

from inspect import signature

import numpy as np
import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.utils import ModelEmaV3
from torch import nn

from gpt4image.align.aligned_model import AlignedModel, feature_width, find_classifier, probe_feature
from gpt4image.align.distributed import world
from gpt4image.align.head import AlignmentHead, RegionHead
from gpt4image.align.loss import AlignmentLoss
from gpt4image.align.losses import check_targets
from gpt4image.align.projector import Projector
from gpt4image.align.queue import TextQueue
from gpt4image.align.targets import TargetRule
from gpt4image.align.text import Moments, TextAdapter, TextTransform
from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, TrainingError
from gpt4image.core.format import counted
from gpt4image.core.registry import unknown_name
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels import SoftLabels
from gpt4image.tasks import find_task
from gpt4image.train.data import (
    EpochBatches,
    Inputs,
    LabelledInputs,
    fitting_batch_size,
    make_loader,
    training_rows,
)
from gpt4image.train.family import find_family
from gpt4image.train.frozen import Shown, frozen_modules
from gpt4image.train.guidance import ClassAnchors, Guidance, VectorSource, is_text, mean_soft_labels
from gpt4image.train.identity import in_words
from gpt4image.train.libraries import require_libraries
from gpt4image.train.loop import LossWatch, Trainer
from gpt4image.train.low_rank import add_adapters
from gpt4image.train.mixed_batches import MixedBatches
from gpt4image.train.objective import Objective
from gpt4image.train.processes import evaluation_loader, memory_format, order_channels, worthwhile_threads
from gpt4image.train.recipe import Recipe
from gpt4image.train.self_supervised import PartneredModel, make_partner
from gpt4image.train.spec import RunSpec
from gpt4image.train.transforms import seed_everything

HEAD_STREAM = 2  # separates the initial draws of the heads: all arms start from the same backbone
REGIONS = "regions"  # the module of a detector whose output is the features of boxes
STEPS_BETWEEN_READS = 50  # steps between reads of the losses on a GPU; on a CPU reading is free


def build_trainer(spec: RunSpec, backbone: nn.Module, accelerator: Accelerator) -> Trainer:
    """Build everything up to the first step.

    Args:
        backbone: whole backbone, on the CPU; its frozen modules get frozen.
    """
    images, guidance, recipe, seed = spec.images, spec.guidance, spec.recipe, spec.seed
    used = used_rows(spec)
    check_label_settings(images, used, guidance, recipe, backbone)
    rows = images.split("train") if mixes_unlabelled(images, recipe) else used  # one cache of features for all arms
    validation_rows = judged_rows(images, guidance)
    family = find_family(images.task)
    source = family.inputs(backbone, images, recipe, spec.features, accelerator.device, spec.augmentation)
    with accelerator.main_process_first():  # the first process fills the cache of frozen features
        inputs, validation = source.training(rows, seed), source.evaluation(validation_rows, "validation")
        strong = source.strong(rows, seed) if recipe.consistency else None
        crops = source.shown_to(guidance.anchors.teacher, rows) if guidance.anchors else None
        second = source.second(inputs, rows, seed) if recipe.self_supervised != "none" else None
    batches = order_batches(recipe, images, rows, used, seed, accelerator)
    prior = class_prior(batches, images, rows, guidance, recipe) if needs_prior(recipe) else None
    if recipe.lora:
        if not (recipe.pretrained or recipe.checkpoint):
            say("lora: the adapted weights are random and are not trained. Use pretrained weights.", "yellow")
        add_adapters(source.trained, recipe.lora, seed, inputs[(0, 0)][None].float())
    if recipe.grad_checkpointing:
        checkpoint_activations(source.trained)
    threads = None
    if accelerator.device.type == "cpu":
        sample = inputs[(0, 0)][None].float()
        threads = worthwhile_threads(source.trained, sample, batches.batch_size // accelerator.num_processes)
    model = build_model(source.trained, inputs, images.ids[used], guidance, recipe, seed)
    order_channels(model, memory_format(recipe, accelerator.device))
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    if recipe.compile:
        model.compile()

    def name_images(rows: list[int]) -> list[str]:
        return [f"{images.rows['id'][row].as_py()} ({images.path(row)})" for row in rows]

    return Trainer(
        recipe=recipe,
        seed=seed,
        model=model,
        optimizer=optimizer,
        ema=ModelEmaV3(accelerator.unwrap_model(model), decay=recipe.ema_decay) if recipe.ema_decay else None,
        frozen=[] if recipe.cached_views else frozen_modules(source.trained, recipe.freeze),
        objective=Objective(recipe, find_task(images), len(images.classes), accelerator, prior=prior),
        loader=make_loader(
            LabelledInputs(
                inputs, images, rows, guidance, strong, crops, second, recipe.pretraining_epochs * recipe.repeats
            ),
            batches,
            spec.workers,
            pin_memory=accelerator.device.type == "cuda",
        ),
        batches=batches,
        validation=evaluation_loader(LabelledInputs(validation, images, validation_rows), accelerator, spec.workers),
        validation_targets=validation_targets(images, validation_rows, guidance),
        accelerator=accelerator,
        watch=LossWatch(
            1 if accelerator.device.type == "cpu" else STEPS_BETWEEN_READS, name_images, accelerator.gather
        ),
        normalize=source.normalize,
        threads=threads,
        teacher=Shown(guidance.anchors.teacher, source.normalize) if guidance.anchors and crops is None else None,
    )


def used_rows(spec: RunSpec) -> np.ndarray:
    """Return the table positions of the training images that a run uses, int64."""
    recipe, aligns = spec.recipe, spec.recipe.unlabelled == "align"
    of_images = spec.guidance.anchors is not None or recipe.self_supervised != "none"
    everything = recipe.consistency > 0 or (aligns and of_images)
    return training_rows(spec.images, spec.guidance, aligns, everything=everything)


def count_steps(spec: RunSpec, accelerator: Accelerator) -> int:
    """Return the optimiser steps of an epoch, without building anything."""
    images, recipe = spec.images, spec.recipe
    used = used_rows(spec)
    rows = images.split("train") if mixes_unlabelled(images, recipe) else used
    return len(order_batches(recipe, images, rows, used, spec.seed, accelerator)) // recipe.accumulate


def build_model(
    trained: nn.Module, inputs: Inputs, ids: np.ndarray, guidance: Guidance, recipe: Recipe, seed: int
) -> AlignedModel:
    """Build the backbone with one alignment head per source of vectors, class anchors being the last, and place.

    Args:
        trained: the part of the backbone that is trained.
        ids: ids of the training images, whose vectors define the centred or whitened space.

    Raises:
        ConfigError: the backbone lacks a module to align, its output cannot be aligned, nothing before it is
            trained, or the loss ignores the targets.
    """
    if guidance.sources:
        check_targets(recipe.loss, recipe.targets)
    seed_everything(seed, HEAD_STREAM)
    sample = inputs[(0, 0)].unsqueeze(0).float()  # [1, 3, H, W] or [1, ...] of cached features; only for its shape
    heads, places = [], recipe.align_at or ("features",)
    anchors = [] if guidance.anchors is None else [guidance.anchors]
    sources: list[VectorSource | ClassAnchors] = [*guidance.sources, *anchors]
    for number, source in enumerate(sources):
        transform = None
        if recipe.text_space != "raw" and isinstance(source, VectorSource):
            transform = TextTransform(recipe.text_space, Moments.of(source.chunks(ids, recipe.texts)))
        reads = recipe.shared_head > 0 and isinstance(source, VectorSource) and is_text(source.stores[0])
        reader = build_reader(trained, source.width) if reads else None
        for place in places:
            tap = None if place == "features" else place
            pool = "auto" if tap is None else recipe.align_pool
            feature = probe_feature(trained, sample, tap, pool)  # [1, F]
            if not feature.requires_grad:
                raise ConfigError(
                    f"No trained module comes before {place!r}, so aligning it has no effect: freeze less, or align a "
                    "later module."
                )
            loss = AlignmentLoss(
                recipe.loss,
                recipe.temperature,
                learn_temperature=recipe.learn_temperature,
                targets=TargetRule(recipe.targets, recipe.target_temperature, recipe.target_share),
                queue=TextQueue(recipe.queue, source.width) if recipe.queue else None,
                anchors=torch.from_numpy(source.vectors) if isinstance(source, ClassAnchors) else None,
            )
            heads.append(
                AlignmentHead(
                    Projector(feature.shape[1], source.width, recipe.projector_hidden, recipe.projector),
                    loss,
                    source=number,
                    transform=transform,
                    adapter=TextAdapter(source.width) if recipe.text_adapter else None,
                    tap=tap,
                    pool=pool,
                    reader=reader if place == places[0] else None,
                    weight=1 / (len(sources) * max(1, len(recipe.align_at))),
                )
            )
    heads += region_heads(trained, sample, guidance, recipe)
    if recipe.self_supervised != "none":
        width = feature_width(trained, sample)
        return PartneredModel(make_partner(recipe.self_supervised, trained, width), trained, heads)
    return AlignedModel(trained, heads, balance=recipe.balance is not None)


def region_heads(trained: nn.Module, sample: torch.Tensor, guidance: Guidance, recipe: Recipe) -> list[AlignmentHead]:
    """Return the heads that align boxes with the descriptions of their crops, beside those of whole images.

    Args:
        trained: a detector.
        sample: an input of it [1, 3, S, S].
        guidance: vectors of the descriptions of boxes.
        recipe: loss and projector.

    Raises:
        ConfigError: settings that do not work with boxes.
    """
    if not guidance.regions:
        return []
    for name, idle in (("text_space", "raw"), ("queue", 0), ("text_adapter", False)):
        if getattr(recipe, name) != idle:
            raise ConfigError(f"{name} does not work with descriptions of boxes (--crops): set it to {in_words(idle)}.")
    if world().size > 1:
        raise ConfigError("Descriptions of boxes (--crops) train in one process: start a single one.")
    assert isinstance(trained.regions, nn.Module)
    trained.regions.wanted = True  # type: ignore[assignment] # of `train.detection.detector.Regions`
    width = probe_feature(trained, sample, REGIONS).shape[1]
    heads: list[AlignmentHead] = []
    for number, source in enumerate(guidance.regions, len(guidance.sources)):
        heads.append(
            RegionHead(
                Projector(width, source.width, recipe.projector_hidden, recipe.projector),
                AlignmentLoss(
                    recipe.loss,
                    recipe.temperature,
                    learn_temperature=recipe.learn_temperature,
                    targets=TargetRule(recipe.targets, recipe.target_temperature, recipe.target_share),
                ),
                source=number,
                tap=REGIONS,
                weight=1 / len(guidance.regions),
            )
        )
    return heads


def build_reader(model: nn.Module, width: int) -> Projector:
    """Return a module from texts [S, width] to the classifier's features. ConfigError if it is not linear."""
    classifier = find_classifier(model)
    if not isinstance(classifier, nn.Linear):
        raise ConfigError(
            "shared_head (--shared-head) classifies texts by the model's own linear layer, and this backbone's "
            f"classifier is a {type(classifier).__name__}: set shared_head (--shared-head) to 0."
        )
    return Projector(width, classifier.in_features, kind="linear")


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimiser, fused where torch can.

    Raises:
        ConfigError: timm has none of that name.
        MissingExtraError: it is one of bitsandbytes, which is not installed.
    """
    require_libraries(recipe)
    if recipe.optimizer not in list_optimizers():
        raise ConfigError(unknown_name("optimizer", recipe.optimizer, list_optimizers()))
    takes = signature(get_optimizer_class(recipe.optimizer, bind_defaults=False)).parameters
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        **({"fused": True} if "fused" in takes else {}),
    )
    return optimizer


def checkpoint_activations(model: nn.Module) -> None:
    """Have a timm model recompute its activations in the backward pass. ConfigError if it cannot."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # timm's models raise these if they do not support it
        raise ConfigError(
            f"{type(model).__name__} cannot recompute activations: set grad_checkpointing to false "
            "(--no-grad-checkpointing), and split batches with accumulate (--accumulate) to save memory."
        ) from None


def mixes_unlabelled(images: ImageTable, recipe: Recipe) -> bool:
    """Return whether there are training images without a label that any arm may use."""
    return recipe.unlabelled == "align" and bool((~images.is_labelled[images.split("train")]).any())


def order_batches(
    recipe: Recipe, images: ImageTable, rows: np.ndarray, used: np.ndarray, seed: int, accelerator: Accelerator
) -> EpochBatches:
    """Return the order of the training batches; a batch larger than the image set shrinks to fit.

    Args:
        rows: table positions of the dataset's images, int64 [N].
        used: those that the arm uses.
    """
    parts = recipe.accumulate * accelerator.num_processes
    batch_size = fitting_batch_size(recipe.batch_size, parts, len(rows))
    order = {
        "batch_size": batch_size,
        "seed": seed,
        "process": accelerator.process_index,
        "processes": accelerator.num_processes,
        "parts": recipe.accumulate,
        "repeats": recipe.repeats,
    }
    if not mixes_unlabelled(images, recipe) and recipe.class_sampling == "natural":
        return EpochBatches(len(rows), **order)
    is_used, is_labelled = np.isin(rows, used), images.is_labelled[rows]
    labelled, unlabelled = np.flatnonzero(is_used & is_labelled), np.flatnonzero(is_used & ~is_labelled)
    classes = images.labels[rows[labelled]] if recipe.class_sampling == "balanced" else None
    return MixedBatches(labelled, unlabelled, len(rows), recipe.labelled_share, classes=classes, **order)


def needs_prior(recipe: Recipe) -> bool:
    """Return whether a setting needs the shares of the classes."""
    return recipe.logit_adjustment != "none" or recipe.class_weights != "none"


def class_prior(
    batches: EpochBatches, images: ImageTable, rows: np.ndarray, guidance: Guidance, recipe: Recipe
) -> torch.Tensor:
    """Return the share of each class in the labels of the training batches, soft ones included, float32 [C].

    A class without any counts as half an image.

    Args:
        batches: the order of the batches, which may show classes more often than they are.
        images: the images.
        rows: table positions of the dataset's images, int64 [N].
        guidance: soft labels.
        recipe: the recipe.
    """
    labels, classes = images.labels[rows], len(images.classes)
    targets = np.eye(classes)[labels] * (labels >= 0)[:, None]  # [N, C]
    if recipe.soft_labels and guidance.soft_labels:
        places = np.stack([store.find(images.ids[rows]) for store in guidance.soft_labels], axis=1)
        soft = mean_soft_labels(guidance.soft_labels, places, guidance.soft_temperature)
        known = soft.sum(axis=1, keepdims=True) > 0
        targets = (1 - recipe.soft_labels * known) * targets + recipe.soft_labels * soft
    shares = batches.frequencies(len(rows)) @ targets
    shares = np.maximum(shares / shares.sum(), 0.5 / len(rows))
    return torch.from_numpy((shares / shares.sum()).astype(np.float32))


def check_label_settings(
    images: ImageTable, used: np.ndarray, guidance: Guidance, recipe: Recipe, backbone: nn.Module
) -> None:
    """Raise ConfigError for settings of few or skewed labels that do not suit the images or the model."""
    if recipe.consistency and images.is_labelled[used].all():
        raise ConfigError(
            "consistency (the arm fixmatch) learns from unlabelled training images, and there are none: add some "
            "(--unlabelled SOURCE), or simulate few labels (--labels-per-class)."
        )
    if recipe.consistency and guidance.aligns:
        raise ConfigError("consistency and alignment exclude each other: set weight or consistency to 0.")
    if recipe.logit_adjustment == "post-hoc" and getattr(find_classifier(backbone), "bias", None) is None:
        raise ConfigError(
            "logit_adjustment (--logit-adjustment) post-hoc changes the classifier's bias, and this backbone has none: "
            "use loss instead."
        )


def judged_rows(images: ImageTable, guidance: Guidance) -> np.ndarray:
    """Return the positions of validation images with a label or text label, int64. TrainingError if there is none."""
    rows = images.split("validation")
    told = [labels.find(images.ids[rows]) >= 0 for labels in text_labels_in(guidance)]
    rows = rows[np.logical_or.reduce([images.is_labelled[rows], *told])]
    if not len(rows):
        raise TrainingError(f"{images.source} has no labelled validation images.")
    if unlabelled := int((~images.is_labelled[rows]).sum()):
        say(f"{counted(unlabelled, 'validation image')} without a label: judged by text labels.", "yellow")
    return rows


def text_labels_in(guidance: Guidance) -> list[SoftLabels]:
    """Return the text labels among the soft labels."""
    return [labels for labels in guidance.soft_labels if labels.manifest.estimate is not None]


def validation_targets(images: ImageTable, rows: np.ndarray, guidance: Guidance) -> np.ndarray:
    """Return the truth of validation images as `Task.truth` does; text labels replace given ones, as in training."""
    task, stand_ins = find_task(images), text_labels_in(guidance)
    targets = task.truth(task.labels(images, rows), len(images.classes))
    if stand_ins:
        places = np.stack([labels.find(images.ids[rows]) for labels in stand_ins], axis=1)
        found = mean_soft_labels(stand_ins, places, guidance.soft_temperature)
        known = (places >= 0).any(axis=1)
        targets[known] = found[known]
    return targets
