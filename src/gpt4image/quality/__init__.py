"""Descriptions, their vectors and the images' features to a quality report: what `gpt4image describe check` runs."""

from gpt4image.quality.check import CHECK_FILE, check_descriptions
from gpt4image.quality.settings import CheckSettings

__all__ = ["CHECK_FILE", "CheckSettings", "check_descriptions"]
