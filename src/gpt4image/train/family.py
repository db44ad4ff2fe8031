"""Families of models: how the model of a task is built, opened and given inputs.

A task names its family (`Task.family`). Training, comparison and export handle models only through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from gpt4image.core.console import say
from gpt4image.core.registry import Registry
from gpt4image.images.table import ImageTable
from gpt4image.tasks import TASKS
from gpt4image.train.backbone import (
    DETECTOR_NAMES,
    SEGMENTER_NAMES,
    body_of,
    build_backbone,
    can_build,
    check_image_size,
    create_model,
    fitting_options,
    kind_of,
)
from gpt4image.train.frozen import InputSource, freeze, frozen_modules, prepare_inputs
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.transforms import preprocessing
from gpt4image.train.weights import load_weights, load_whole

if TYPE_CHECKING:
    from gpt4image.train.annotated_inputs import BoxSource
    from gpt4image.train.detection.detector import Detector
    from gpt4image.train.segmenter import Segmenter


class ModelFamily(ABC):
    """A family of models that are built and used in the same way."""

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


class OnMaps(ModelFamily):
    """Models on the feature maps of timm's backbones.

    Attributes:
        kinds: what a recipe's backbone may begin with.
    """

    kinds: ClassVar[Sequence[str]]

    def kind(self, name: str) -> str:
        """Return which of the kinds a recipe's backbone stands for; see `kind_of`."""
        return kind_of(name, self.kinds)

    @abstractmethod
    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Return the options of `timm.create_model` for the backbone of a recipe's model."""

    @abstractmethod
    def parts(self) -> tuple[type[Detector | Segmenter], type[BoxSource]]:
        """Return the classes of the model and of its inputs. Importing them takes a second."""

    def complete(self, body: nn.Module, name: str, classes: int, size: int) -> nn.Module:
        """Return the model on a timm model, of which only what its maps need is kept; see `restore`."""
        from gpt4image.train.maps import find_levels

        kind = self.kind(name)
        levels = find_levels(body, body_of(name), kind, size)
        body.prune_intermediate_layers([level.number for level in levels], prune_norm=True, prune_head=True)  # type: ignore[operator]
        return self.parts()[0](body, levels, kind, classes, size)

    def build(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build a recipe's model, see `ModelFamily.build`; its backbone alone has weights, unless a file has all."""
        pretrained = recipe.pretrained and recipe.checkpoint is None
        if recipe.checkpoint is not None:
            with torch.random.fork_rng(devices=[]):  # so that newly initialised layers do not depend on the file
                whole = self.create(recipe, classes)

            def of_classes() -> set[str]:
                shapes = {name: tensor.shape for name, tensor in self.create(recipe, classes + 1).state_dict().items()}
                return {name for name, tensor in whole.state_dict().items() if tensor.shape != shapes[name]}

            if load_whole(whole, Path(recipe.checkpoint), recipe.backbone, of_classes):
                return whole
        body = create_model(body_of(recipe.backbone), pretrained=pretrained, **self.options(recipe))
        if recipe.checkpoint is not None:
            load_weights(body, Path(recipe.checkpoint))
        return self.complete(body, recipe.backbone, classes, recipe.image_size)

    def create(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build the same model without its weights."""
        return self.restore(recipe.backbone, classes, recipe.image_size, self.options(recipe))

    def restore(self, name: str, classes: int, size: int, options: Mapping[str, Any]) -> nn.Module:
        """Build a model without its weights.

        Args:
            name: `KIND:BACKBONE`, or a backbone alone.
            classes: number of classes.
            size: side of an input in pixels.
            options: options of `timm.create_model` for the backbone.
        """
        return self.complete(create_model(body_of(name), pretrained=False, **options), name, classes, size)

    def inputs(
        self,
        model: nn.Module,
        images: ImageTable,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        augmentation: int = AUGMENTATION,
    ) -> InputSource:
        """Return the inputs of the model, with boxes or masks."""
        freeze(frozen_modules(model, recipe.freeze))
        config = preprocessing(model, recipe.image_size)
        return self.parts()[1](model, images, recipe, config, None, augmentation)


class Detectors(OnMaps):
    """torchvision's detectors on timm's backbones: an image to boxes."""

    kinds = DETECTOR_NAMES

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Return the options of the backbone."""
        return fitting_options(replace(recipe, backbone=body_of(recipe.backbone)))

    def parts(self) -> tuple[type[Detector], type[BoxSource]]:
        """Return the classes of a detector and of its inputs."""
        from gpt4image.train.annotated_inputs import BoxSource
        from gpt4image.train.detection.detector import Detector

        return Detector, BoxSource


class Segmenters(OnMaps):
    """Segmentation heads on timm's backbones: an image to the class of each pixel."""

    kinds = SEGMENTER_NAMES

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Return the options of the backbone, which is dilated where the head wants that and timm can."""
        from gpt4image.train.segmenter import LARGEST_STRIDES

        body = body_of(recipe.backbone)
        options = fitting_options(replace(recipe, backbone=body))
        stride = LARGEST_STRIDES.get(self.kind(recipe.backbone))
        dilated = options | {"output_stride": stride}
        return dilated if stride is not None and can_build(body, dilated) else options

    def build(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build a recipe's model, see `ModelFamily.build`; warn if its head gets coarser maps than intended."""
        from gpt4image.train.segmenter import LARGEST_STRIDES

        model, kind = super().build(recipe, classes), self.kind(recipe.backbone)
        if model.stride > (most := LARGEST_STRIDES.get(kind, model.stride)):  # type: ignore[operator]
            say_coarse(body_of(recipe.backbone), kind, model.stride, most)
        return model

    def parts(self) -> tuple[type[Segmenter], type[BoxSource]]:
        """Return the classes of a segmentation model and of its inputs."""
        from gpt4image.train.annotated_inputs import MaskSource
        from gpt4image.train.segmenter import Segmenter

        return Segmenter, MaskSource


@cache  # once, not for every run
def say_coarse(body: str, kind: str, stride: int, most: int) -> None:
    """Warn that a backbone's maps are coarser than a segmentation head expects."""
    say(
        f"{body} cannot be dilated, so {kind} gets maps with a stride of {stride} pixels, not {most}, and masks are "
        "coarser. timm can dilate resnet50, efficientnet_b0 and convnext_tiny, among others; segformer:NAME also "
        "uses finer maps.",
        "yellow",
    )


FAMILIES: Registry[ModelFamily] = Registry(
    "family of models",
    {
        "classifier": "gpt4image.train.family:CLASSIFIERS",
        "clips": "gpt4image.train.clips:CLIPS",
        "detector": "gpt4image.train.family:DETECTORS",
        "segmenter": "gpt4image.train.family:SEGMENTERS",
    },
    group="gpt4image.families",
)
"""The families of models."""

CLASSIFIERS, DETECTORS, SEGMENTERS = Classifiers(), Detectors(), Segmenters()


def find_family(task: str) -> ModelFamily:
    """Return the family of models of a task."""
    return FAMILIES.load(TASKS.load(task).family)
