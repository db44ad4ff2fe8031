"""Better image classifiers of ordinary size: LLM-written descriptions at training time, nothing extra at inference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt4image.align.head import AlignmentHead, Targets
    from gpt4image.align.loss import AlignmentLoss
    from gpt4image.align.model import AlignedModel
    from gpt4image.align.projector import Projector
    from gpt4image.align.queue import TextQueue
    from gpt4image.align.taps import FeatureTap
    from gpt4image.align.targets import TargetRule
    from gpt4image.align.text import Moments, TextAdapter, TextTransform
    from gpt4image.compare.arms import compare_arms
    from gpt4image.core.errors import Gpt4ImageError
    from gpt4image.descriptions import DescriptionSet, DescriptionStore, described_set, load_descriptions
    from gpt4image.embed import EmbeddingStore, embed_descriptions, load_encoder
    from gpt4image.export import export_model, predict_images
    from gpt4image.images import ImageTable, load_images
    from gpt4image.report import write_report
    from gpt4image.soft_labels import SoftLabels, label_by_vectors
    from gpt4image.teachers import embed_images, label_images, load_teacher
    from gpt4image.train.recipe import Recipe, named_recipe
    from gpt4image.train.run import TrainedRun, open_run, train_model
    from gpt4image.workflows.describe import describe_images


_HOMES = {
    "AlignedModel": "gpt4image.align.model",
    "AlignmentHead": "gpt4image.align.head",
    "AlignmentLoss": "gpt4image.align.loss",
    "DescriptionSet": "gpt4image.descriptions",
    "DescriptionStore": "gpt4image.descriptions",
    "EmbeddingStore": "gpt4image.embed",
    "FeatureTap": "gpt4image.align.taps",
    "Gpt4ImageError": "gpt4image.core.errors",
    "ImageTable": "gpt4image.images",
    "Moments": "gpt4image.align.text",
    "Projector": "gpt4image.align.projector",
    "Recipe": "gpt4image.train.recipe",
    "SoftLabels": "gpt4image.soft_labels",
    "TargetRule": "gpt4image.align.targets",
    "Targets": "gpt4image.align.head",
    "TextAdapter": "gpt4image.align.text",
    "TextQueue": "gpt4image.align.queue",
    "TextTransform": "gpt4image.align.text",
    "TrainedRun": "gpt4image.train.run",
    "compare_arms": "gpt4image.compare.arms",
    "describe_images": "gpt4image.workflows.describe",
    "described_set": "gpt4image.descriptions",
    "embed_descriptions": "gpt4image.embed",
    "embed_images": "gpt4image.teachers",
    "export_model": "gpt4image.export",
    "label_by_vectors": "gpt4image.soft_labels",
    "label_images": "gpt4image.teachers",
    "load_descriptions": "gpt4image.descriptions",
    "load_encoder": "gpt4image.embed",
    "load_images": "gpt4image.images",
    "load_teacher": "gpt4image.teachers",
    "named_recipe": "gpt4image.train.recipe",
    "open_run": "gpt4image.train.run",
    "predict_images": "gpt4image.export",
    "train_model": "gpt4image.train.run",
    "write_report": "gpt4image.report",
}


__all__ = [
    "AlignedModel",
    "AlignmentHead",
    "AlignmentLoss",
    "DescriptionSet",
    "DescriptionStore",
    "EmbeddingStore",
    "FeatureTap",
    "Gpt4ImageError",
    "ImageTable",
    "Moments",
    "Projector",
    "Recipe",
    "SoftLabels",
    "TargetRule",
    "Targets",
    "TextAdapter",
    "TextQueue",
    "TextTransform",
    "TrainedRun",
    "compare_arms",
    "describe_images",
    "described_set",
    "embed_descriptions",
    "embed_images",
    "export_model",
    "label_by_vectors",
    "label_images",
    "load_descriptions",
    "load_encoder",
    "load_images",
    "load_teacher",
    "named_recipe",
    "open_run",
    "predict_images",
    "train_model",
    "write_report",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt4image' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
