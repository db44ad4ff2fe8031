"""The model as it is deployed: written, proven equal, and used."""

from gpt4image.export.deployed import Prediction, predict_images
from gpt4image.export.model import Parity, export_model

__all__ = ["Parity", "Prediction", "export_model", "predict_images"]
