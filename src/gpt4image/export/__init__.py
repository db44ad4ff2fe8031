"""Models for deployment: export, verification against the trained model, and prediction."""

from gpt4image.export.deployed import (
    Prediction,
    count_classes,
    detect_objects,
    label_names,
    open_detector,
    open_segmenter,
    predict_images,
    segment_images,
)
from gpt4image.export.measure import Parity
from gpt4image.export.model import ExportSummary, export_model

__all__ = [
    "ExportSummary",
    "Parity",
    "Prediction",
    "count_classes",
    "detect_objects",
    "export_model",
    "label_names",
    "open_detector",
    "open_segmenter",
    "predict_images",
    "segment_images",
]
