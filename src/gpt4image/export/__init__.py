"""The model as it is deployed: written, proven equal, and used."""

from gpt4image.export.model import Parity, export_model
from gpt4image.export.predict import Prediction, predict

__all__ = ["Parity", "Prediction", "export_model", "predict"]
