"""Descriptions to vectors: text encoders, and the memory-mapped store that every training process reads."""

from gpt4image.embed.encoders import TextEncoder, load_encoder
from gpt4image.embed.runner import embed_descriptions
from gpt4image.embed.store import EmbeddingStore

__all__ = ["EmbeddingStore", "TextEncoder", "embed_descriptions", "load_encoder"]
