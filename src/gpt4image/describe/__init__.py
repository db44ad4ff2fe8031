"""Descriptions of images: read, joined by image id, and accounted for."""

from gpt4image.describe.descriptions import Coverage, DescriptionSet
from gpt4image.describe.readers import load_descriptions

__all__ = ["Coverage", "DescriptionSet", "load_descriptions"]
