"""Descriptions of images: written by a multimodal LLM or read, joined by image id, and accounted for."""

from gpt4image.describe.chosen import described_set
from gpt4image.describe.descriptions import Coverage, DescriptionSet
from gpt4image.describe.readers import load_descriptions
from gpt4image.describe.store import DescriptionStore

__all__ = ["Coverage", "DescriptionSet", "DescriptionStore", "described_set", "load_descriptions"]
