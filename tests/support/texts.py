"""Description sets for tests."""

from gpt4image.descriptions.description_set import DescriptionSet, join_texts
from gpt4image.images.table import ImageTable


def described(images: ImageTable, texts: list[str]) -> DescriptionSet:
    """Give the first images one text each."""
    return join_texts(images, zip(images.rows["id"].to_pylist(), texts, strict=False), 0, "test")
