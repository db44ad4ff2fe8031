"""What training adds to labels: vectors to align with, and soft labels, joined to images by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpt4image.core.files import hash_file
from gpt4image.embed.store import EmbeddingStore, TextChoice

if TYPE_CHECKING:
    from gpt4image.soft_labels import SoftLabels


CHUNK = 8192


@dataclass(frozen=True)
class VectorSource:
    """One vector an image: of a text encoder, of several side by side, or of a vision teacher.

    Attributes:
        stores: where they lie; more than one are put side by side.
    """

    stores: tuple[EmbeddingStore, ...]

    @property
    def width(self) -> int:
        """Length D of a vector."""
        return sum(store.width for store in self.stores)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Positions of image ids in the stores, int64 [N, stores]; -1 where one of them has no vector of an image."""
        places = np.stack([store.find(ids) for store in self.stores], axis=1)
        places[(places < 0).any(axis=1)] = -1
        return places

    def take(self, places: np.ndarray, choose: TextChoice, seed: int, draws: np.ndarray) -> np.ndarray:
        """Unit vectors of images, float32 [B, D]; zero where there is none.

        Args:
            places: what `find` found [B, stores].
            choose: which of an image's vectors.
            seed: seed of that choice.
            draws: number of each image's draw [B]; another number draws anew.
        """
        vectors = np.zeros((len(places), self.width), dtype=np.float32)
        for draw in np.unique(draws):
            rows = draws == draw
            parts = [store.take(places[rows, at], choose, seed, int(draw)) for at, store in enumerate(self.stores)]
            vectors[rows] = np.concatenate(parts, axis=1) / np.sqrt(np.float32(len(parts)))
        return vectors

    def chunks(self, ids: np.ndarray, choose: TextChoice) -> Iterator[Tensor]:
        """All vectors of some images that training may meet [n, D], chunk by chunk: each text, or each image's mean."""
        places = self.find(np.unique(ids))
        places = places[places[:, 0] >= 0]
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            columns = [
                store.take(part[:, at]) if choose == "mean" else store.all_vectors(part[:, at])
                for at, store in enumerate(self.stores)
            ]
            yield torch.from_numpy(np.concatenate(columns, axis=1) / np.sqrt(np.float32(len(columns))))


@dataclass(frozen=True)
class Guidance:
    """All that training knows of images beside their labels.

    Attributes:
        sources: vectors to align with.
        soft_labels: labels that classifiers on the descriptions, or teachers, give; of several the mean.
        texts: which of several texts of an image.
        soft_temperature: temperature of the soft labels; each store's own when not given.
        seed: seed of the choice among texts.
    """

    sources: tuple[VectorSource, ...] = ()
    soft_labels: tuple[SoftLabels, ...] = ()
    texts: TextChoice = "random"
    soft_temperature: float | None = None
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What decides the guidance, as plain values, for the settings of a run."""
        keys = ("encoder", "revision", "long_text", "text_hash")
        manifests = [store.manifest for source in self.sources for store in source.stores]
        return {
            "text": [{key: getattr(manifest, key) for key in keys} for manifest in manifests],
            "soft_labels": [
                [hash_file(labels.layout.logits), self.soft_temperature or labels.manifest.temperature]
                for labels in self.soft_labels
            ],
        }


def vector_sources(stores: Sequence[EmbeddingStore], side_by_side: bool) -> tuple[VectorSource, ...]:
    """Stores as sources: each by itself, or those of texts side by side and teachers by themselves."""
    texts = tuple(store for store in stores if is_text(store))
    if not side_by_side or len(texts) < 2:
        return tuple(VectorSource((store,)) for store in stores)
    teachers = (VectorSource((store,)) for store in stores if not is_text(store))
    return (VectorSource(texts), *teachers)


def is_text(store: EmbeddingStore) -> bool:
    """Whether the vectors are those of texts, not of images."""
    return store.manifest.kind == "text"


def mean_soft_labels(stores: Sequence[SoftLabels], places: np.ndarray, temperature: float | None) -> np.ndarray:
    """Mean of the probabilities that some stores give images, float32 [B, C]; zero where none has an image.

    Args:
        stores: at least one.
        places: positions of the images in each store, int64 [B, stores], -1 where it has none.
        temperature: divides the logits; each store's own when not given.
    """
    parts = [store.take(places[:, at], temperature) for at, store in enumerate(stores)]
    total = np.sum(parts, axis=0)
    sums = total.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(total, sums, out=np.zeros_like(total), where=sums > 0), dtype=np.float32)
