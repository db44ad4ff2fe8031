"""Descriptions of images: written by a multimodal LLM or read, joined by image id, and accounted for."""

from gpt4image.descriptions.description_set import Coverage, DescriptionSet, described_set
from gpt4image.descriptions.readers import load_descriptions
from gpt4image.descriptions.store import DescriptionStore

__all__ = ["Coverage", "DescriptionSet", "DescriptionStore", "described_set", "load_descriptions"]
