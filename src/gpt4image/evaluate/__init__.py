"""How good a trained model is: metrics, and the test images answered once."""

from gpt4image.evaluate.metrics import Metrics, measure
from gpt4image.evaluate.test_set import AnsweredTestSet, answer_test_images, load_backbone

__all__ = ["AnsweredTestSet", "Metrics", "answer_test_images", "load_backbone", "measure"]
