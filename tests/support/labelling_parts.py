"""Synthetic image tables, texts and vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpt4image.descriptions.description_set import join_texts
from gpt4image.embed import EmbeddingStore, embed_descriptions
from gpt4image.images import ImageTable


class WordEncoder:
    """Encodes a text as the unit mean of fixed random vectors of its words."""

    max_tokens = 100

    def __init__(self, name: str = "words", revision: str = "1", width: int = 32) -> None:
        self.name, self.revision, self.width = name, revision, width

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        sums = np.stack([np.sum([self._word(word) for word in text.split()], axis=0) for text in texts])
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b(f"{self.name} {word}".encode(), digest_size=8).digest(), "little")
        return np.random.default_rng(seed).normal(size=self.width)


def image_id(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def make_table(
    labels: Sequence[int], classes: Sequence[str], splits: Sequence[str] | None = None, numbers=None
) -> ImageTable:
    """Make a table without files; images of the same number are copies."""
    count = len(labels)
    numbers = range(count) if numbers is None else numbers
    rows = pa.table(
        {
            "id": [image_id(number) for number in numbers],
            "path": [f"{row}.png" for row in range(count)],
            "label": pa.array(labels, pa.int32()),
            "split": list(splits) if splits else ["train"] * count,
            "row": pa.array(range(count), pa.int64()),
        }
    )
    return ImageTable("made up", tuple(classes), rows, (), None)


def make_store(
    images: ImageTable, texts: Sequence[str | Sequence[str]], folder: Path, encoder: WordEncoder | None = None
) -> EmbeddingStore:
    """Embed the text or texts of each image; an empty list stands for none."""
    ids = images.rows["id"].to_pylist()
    several = [[text] if isinstance(text, str) else text for text in texts]
    pairs = [(name, text) for name, own in zip(ids, several, strict=True) for text in own]
    return embed_descriptions(join_texts(images, pairs, 0, "made up"), encoder or WordEncoder(), folder)


def informative_texts(labels: Sequence[int], classes: Sequence[str], seed: int = 0) -> list[str]:
    """Write a distinct text for each image, with words that depend on its class."""
    generator = np.random.default_rng(seed)
    texts = []
    for row, label in enumerate(labels):
        said = classes[label] if label >= 0 else classes[row % len(classes)]
        noise = " ".join(f"w{number}" for number in generator.integers(0, 40, 3))
        texts.append(f"{said} {said}ish {noise} number{row}")
    return texts
