"""Guidance: vectors to align with and soft labels, joined to images by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gpt4image.align.losses import find_loss
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest, hash_file
from gpt4image.embed.store import EmbeddingStore, TextChoice
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    from gpt4image.soft_labels import SoftLabels

CHUNK = 8192  # images whose vectors are read at a time


@dataclass(frozen=True)
class VectorSource:
    """One vector per image, of a text encoder or a vision teacher, or the concatenation of several text encoders.

    Attributes:
        stores: stores of the vectors; several are concatenated.
    """

    stores: tuple[EmbeddingStore, ...]

    @property
    def width(self) -> int:
        """Length D of a vector."""
        return sum(store.width for store in self.stores)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the positions of image ids [N] in the stores, int64 [N, stores]; -1 if any store lacks the image."""
        places = np.stack([store.find(ids) for store in self.stores], axis=1)
        places[(places < 0).any(axis=1)] = -1
        return places

    def take(self, places: np.ndarray, choose: TextChoice, seed: int, draws: np.ndarray) -> np.ndarray:
        """Return unit vectors of images, float32 [B, D]; zero for missing ones.

        Args:
            places: positions as returned by `find`, int64 [B, stores].
            draws: number of each image's draw [B]; each draw chooses anew.
        """
        vectors = np.zeros((len(places), self.width), dtype=np.float32)
        for draw in np.unique(draws):
            rows = draws == draw
            vectors[rows] = _unit_rows(
                [store.take(places[rows, at], choose, seed, int(draw)) for at, store in enumerate(self.stores)]
            )
        return vectors

    def chunks(self, ids: np.ndarray, choose: TextChoice) -> Iterator[Tensor]:
        """Yield all vectors [n, D] of some images that training may draw: each text's, or each image's mean."""
        places = self.find(np.unique(ids))
        places = places[places[:, 0] >= 0]
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            columns = [
                store.take(part[:, at]) if choose == "mean" else store.all_vectors(part[:, at])
                for at, store in enumerate(self.stores)
            ]
            yield torch.from_numpy(_unit_rows(columns))


def _unit_rows(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate S unit vectors per row to one of length 1: float32 [n, D1]...[n, DS] to [n, D]."""
    joined: np.ndarray = np.concatenate(columns, axis=1) / np.sqrt(np.float32(len(columns)))
    return joined


class CropTeacher(Protocol):
    """A frozen vision-language teacher that sees the same crops as the student.

    Attributes:
        name: its name, as the user writes it; also that of its text side.
        revision: hash of its weights and preparation.
        width: length D of a vector.
    """

    name: str
    revision: str
    width: int

    def embed_crops(self, crops: Tensor) -> Tensor:
        """Return unit vectors [B, D] of crops with colours from 0 to 1, float32 [B, 3, H, W], on their device."""
        ...


@dataclass(frozen=True)
class ClassAnchors:
    """A vector for each class, with which a vision-language teacher compares images.

    Attributes:
        teacher: the image side.
        vectors: unit vectors of the classes in its space, float32 [C, D].
        reader: revision of the text side that made them.
        text_hash: hash of the texts that they were made from.
    """

    teacher: CropTeacher
    vectors: np.ndarray
    reader: str
    text_hash: str

    @property
    def width(self) -> int:
        """Length D of a vector."""
        return self.teacher.width

    def identity(self) -> dict[str, str]:
        """Return plain values that identify teacher and anchors, under the names of those of a vector store."""
        revision = digest(self.teacher.revision, self.reader)
        return {
            "encoder": self.teacher.name,
            "revision": revision,
            "long_text": "truncate",
            "text_hash": self.text_hash,
        }


@dataclass(frozen=True)
class Guidance:
    """Everything that training uses besides images and labels.

    Attributes:
        sources: vectors to align with.
        soft_labels: soft labels of classifiers on the descriptions, or of teachers; several are averaged.
        texts: which of an image's texts to use.
        soft_temperature: temperature of the soft labels; None uses that of each store.
        seed: seed of the choice of texts.
        anchors: a vision-language teacher of crops with its anchors of the classes, as a further source of vectors.
        regions: vectors of the descriptions of boxes, by the ids of their crops.
        margin: margin of these crops, see `images.crops`.
    """

    sources: tuple[VectorSource, ...] = ()
    soft_labels: tuple[SoftLabels, ...] = ()
    texts: TextChoice = "random"
    soft_temperature: float | None = None
    seed: int = 0
    anchors: ClassAnchors | None = None
    regions: tuple[VectorSource, ...] = ()
    margin: float = 0.0

    @property
    def aligns(self) -> bool:
        """Whether there is anything to align with."""
        return bool(self.sources or self.regions) or self.anchors is not None

    def identity(self) -> dict[str, Any]:
        """Return plain values that identify the guidance, for the settings of a run."""
        keys = ("encoder", "revision", "long_text", "text_hash")
        manifests = [store.manifest for source in self.sources for store in source.stores]
        anchors = [] if self.anchors is None else [self.anchors.identity()]
        crops = [store.manifest for source in self.regions for store in source.stores]
        regions = {"regions": [{key: getattr(manifest, key) for key in keys} for manifest in crops]}
        return {
            "text": [*({key: getattr(manifest, key) for key in keys} for manifest in manifests), *anchors],
            "soft_labels": [
                [hash_file(labels.layout.logits), self.soft_temperature or labels.manifest.temperature]
                for labels in self.soft_labels
            ],
            **(regions | {"margin": self.margin} if crops else {}),
        }


def choose_guidance(
    stores: Sequence[EmbeddingStore],
    soft_labels: Sequence[SoftLabels],
    recipe: Recipe,
    classes: Sequence[str],
    seed: int,
    anchors: ClassAnchors | None = None,
    regions: Sequence[EmbeddingStore] = (),
    margin: float = 0.0,
) -> Guidance:
    """Select the vectors, class anchors and soft labels that a recipe uses.

    Raises:
        ConfigError: the recipe needs soft labels and there are none, or does not use the given ones.
        StoreError: the soft labels have other classes.
    """
    if recipe.soft_labels and not soft_labels:
        raise ConfigError(
            f"soft_labels (--soft-labels) {recipe.soft_labels} needs soft labels: create them from the descriptions "
            "with gpt4image label, or set it to 0."
        )
    if soft_labels and not recipe.soft_labels:
        raise ConfigError("soft_labels (--soft-labels) 0 ignores the given soft labels: set a share above 0.")
    if find_loss(recipe.loss)[1].has_anchors != (anchors is not None) or (anchors is not None and stores):
        raise ConfigError(
            "The loss anchored needs class anchors: choose the arm class-anchored with a vision-language teacher, or "
            "another loss (--loss)."
        )
    teachers = [store.manifest.encoder for store in stores if not is_text(store)]
    teachers += [] if anchors is None else [anchors.teacher.name]
    if teachers and not recipe.weight:
        raise ConfigError(f"weight = 0 disables the alignment with teacher {teachers[0]}: set a weight above 0.")
    used = tuple(soft_labels) if recipe.soft_labels else ()
    for labels in used:
        labels.check(classes)
    return Guidance(
        sources=vector_sources(stores, recipe.several_encoders == "concatenated") if recipe.weight else (),
        soft_labels=used,
        texts=recipe.texts,
        soft_temperature=recipe.soft_temperature,
        seed=seed,
        anchors=anchors,
        regions=vector_sources(regions, recipe.several_encoders == "concatenated") if recipe.weight else (),
        margin=margin,
    )


def vector_sources(stores: Sequence[EmbeddingStore], concatenate: bool) -> tuple[VectorSource, ...]:
    """Return one source per store, or a single source for all text encoders and one per teacher."""
    texts = tuple(store for store in stores if is_text(store))
    if not concatenate or len(texts) < 2:
        return tuple(VectorSource((store,)) for store in stores)
    teachers = (VectorSource((store,)) for store in stores if not is_text(store))
    return (VectorSource(texts), *teachers)


def is_text(store: EmbeddingStore) -> bool:
    """Return whether the vectors are those of texts rather than images."""
    return store.manifest.kind == "text"


def mean_soft_labels(stores: Sequence[SoftLabels], places: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return the mean of the soft labels in several stores, float32 [B, C]; zero for images that no store has.

    Args:
        places: positions of the images in each store, int64 [B, stores], -1 if it lacks the image.
        temperature: divides the logits; None uses that of each store.
    """
    if not stores:
        return np.zeros((len(places), 0), dtype=np.float32)
    total = np.sum([store.take(places[:, at], temperature) for at, store in enumerate(stores)], axis=0)
    sums = total.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(total, sums, out=np.zeros_like(total), where=sums > 0), dtype=np.float32)
