"""Models for deployment: exported, verified against the trained model, and used for prediction."""

from gpt4image.export.deployed import Prediction, predict_images
from gpt4image.export.model import ExportSummary, export_model
from gpt4image.export.parity import Parity

__all__ = ["ExportSummary", "Parity", "Prediction", "export_model", "predict_images"]
