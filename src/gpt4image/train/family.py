"""Families of models: how the model of a task is built and opened, and how it is fed.

A task names its family (`Task.family`). Training, comparison and export know models by it alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gpt4image.core.registry import Registry
from gpt4image.images.table import ImageTable
from gpt4image.tasks import TASKS
from gpt4image.train.backbone import (
    body_of,
    build_backbone,
    check_image_size,
    create_model,
    detector_of,
    fitting_options,
)
from gpt4image.train.frozen import InputSource, freeze, frozen_modules, prepare_inputs
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.transforms import preprocessing
from gpt4image.train.weights import load_weights

if TYPE_CHECKING:
    from gpt4image.train.detection.detector import Detector


class ModelFamily(ABC):
    """A family of models that are built and fed alike."""

    @abstractmethod
    def build(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build a recipe's model with its initial weights and a new last part, on the CPU.

        Args:
            recipe: the recipe.
            classes: number of classes.

        Raises:
            ConfigError: unknown model, an image size that it does not take, or weights that do not fit.
            WeightsError: pretrained weights cannot be downloaded.
        """

    @abstractmethod
    def create(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build the same model without its weights."""

    @abstractmethod
    def inputs(
        self,
        model: nn.Module,
        images: ImageTable,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        augmentation: int = AUGMENTATION,
    ) -> InputSource:
        """Freeze modules as the recipe says, and return the model with its inputs; see `prepare_inputs`."""


class Classifiers(ModelFamily):
    """timm's models with a classifier: an image to logits."""

    def build(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build a recipe's backbone, see `ModelFamily.build`."""
        backbone = build_backbone(recipe, classes)
        check_image_size(backbone, recipe.backbone, recipe.image_size)
        return backbone

    def create(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build the same backbone without its weights."""
        return create_model(recipe.backbone, pretrained=False, num_classes=classes, **fitting_options(recipe))

    def inputs(
        self,
        model: nn.Module,
        images: ImageTable,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        augmentation: int = AUGMENTATION,
    ) -> InputSource:
        """Return the inputs of the backbone, or of its trained part."""
        return prepare_inputs(model, images, recipe, folder, device, augmentation)


class Detectors(ModelFamily):
    """torchvision's detectors on timm's backbones: an image to boxes."""

    def build(self, recipe: Recipe, classes: int) -> Detector:
        """Build a recipe's detector, see `ModelFamily.build`; its backbone alone has initial weights."""
        pretrained = recipe.pretrained and recipe.checkpoint is None
        body = create_model(body_of(recipe.backbone), pretrained=pretrained, **detector_options(recipe))
        if recipe.checkpoint is not None:
            load_weights(body, Path(recipe.checkpoint))
        return complete_detector(body, recipe.backbone, classes, recipe.image_size)

    def create(self, recipe: Recipe, classes: int) -> Detector:
        """Build the same detector without its weights."""
        return create_detector(recipe.backbone, classes, recipe.image_size, detector_options(recipe))

    def inputs(
        self,
        model: nn.Module,
        images: ImageTable,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        augmentation: int = AUGMENTATION,
    ) -> InputSource:
        """Return the inputs of the detector, with boxes."""
        from gpt4image.train.detection.views import BoxSource

        freeze(frozen_modules(model, recipe.freeze))
        return BoxSource(model, images, recipe, preprocessing(model, recipe.image_size), None, augmentation)


FAMILIES: Registry[ModelFamily] = Registry(
    "family of models",
    {
        "classifier": "gpt4image.train.family:CLASSIFIERS",
        "clips": "gpt4image.train.clips:CLIPS",
        "detector": "gpt4image.train.family:DETECTORS",
    },
    group="gpt4image.families",
)
"""The families of models."""

CLASSIFIERS, DETECTORS = Classifiers(), Detectors()


def find_family(task: str) -> ModelFamily:
    """Return the family of models of a task."""
    return FAMILIES.load(TASKS.load(task).family)


def detector_options(recipe: Recipe) -> dict[str, Any]:
    """Return the options of `timm.create_model` for the backbone of a recipe's detector."""
    return fitting_options(replace(recipe, backbone=body_of(recipe.backbone)))


def create_detector(name: str, classes: int, size: int, options: Mapping[str, Any]) -> Detector:
    """Build a detector without its weights.

    Args:
        name: `DETECTOR:BACKBONE`, or a backbone alone.
        classes: number of classes.
        size: side of an input in pixels.
        options: options of `timm.create_model` for the backbone.
    """
    return complete_detector(create_model(body_of(name), pretrained=False, **options), name, classes, size)


def complete_detector(body: nn.Module, name: str, classes: int, size: int) -> Detector:
    """Return a detector on a timm model, of which only what its maps need is kept; see `create_detector`."""
    from gpt4image.train.detection.detector import Detector, find_levels

    kind = detector_of(name)
    levels = find_levels(body, body_of(name), kind, size)
    body.prune_intermediate_layers([level.number for level in levels], prune_norm=True, prune_head=True)  # type: ignore[operator]
    return Detector(body, levels, kind, classes, size)
