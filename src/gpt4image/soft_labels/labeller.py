"""Training images labelled by their texts: a classifier on text vectors that has not seen them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DataError, DescriptionError, StoreError
from gpt4image.core.files import digest, exclusive
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import blocks
from gpt4image.probing.cross_fit import STRENGTH, cross_fit
from gpt4image.probing.folds import FOLDS, groups_per_class, link
from gpt4image.soft_labels.store import (
    LabelKind,
    LabelLayout,
    LabelOrigin,
    LabelSource,
    SoftLabels,
    finish_interrupted,
    replace_labels,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainingVectors:
    """The training images that have a vector in every store.

    Attributes:
        ids: image ids in rising order, S32 [n]; an image that lies in several classes comes once for each.
        labels: int [n], -1 where there is none.
        stores: where the vectors are.
        positions: positions of the images in each store, int64 [n] each.
    """

    ids: np.ndarray
    labels: np.ndarray
    stores: Sequence[EmbeddingStore]
    positions: Sequence[np.ndarray]

    def groups(self) -> np.ndarray:
        """Numbers of groups of images with the same id or a text in common, directly or in steps, int64 [n]."""
        owners, texts = [], []
        for store, positions in zip(self.stores, self.positions, strict=True):
            owner, rows = store.all_rows(positions)
            owners.append(owner)
            texts.append(np.load(store.layout.texts, mmap_mode="r")[rows])
        owner = np.concatenate(owners)
        _, first = np.unique(owner, return_index=True)
        return np.asarray(link(self.ids[owner], np.concatenate(texts))[first])

    def write(self, path: Path) -> np.ndarray:
        """Write the images' vectors, those of all stores side by side, float16 [n, D]; returns the memory map."""
        shape = (len(self.ids), sum(store.width for store in self.stores))
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for rows in blocks(np.arange(len(self.ids))):
            parts = [store.take(at[rows]) for store, at in zip(self.stores, self.positions, strict=True)]
            vectors[rows] = np.concatenate(parts, axis=1)
        return vectors


def gather(images: ImageTable, stores: Sequence[EmbeddingStore]) -> TrainingVectors:
    """Find the training images that have a vector in every store. DescriptionError when none with a label has."""
    rows = images.split("train")
    ids, labels = images.ids[rows], images.labels[rows]
    order = np.lexsort((labels, ids))
    ids, labels = ids[order], labels[order]
    positions = [store.find(ids) for store in stores]
    chosen = np.all([found >= 0 for found in positions], axis=0)
    chosen[1:] &= (ids[1:] != ids[:-1]) | (labels[1:] != labels[:-1])  # the same file twice counts once
    if not (labels[chosen] >= 0).any():
        raise DescriptionError(
            f"None of the {len(ids):,} training images of {images.source} has a label and a vector in "
            f"{', '.join(str(store.layout.folder) for store in stores)}. Describe and embed training images: "
            "gpt4image describe, gpt4image embed."
        )
    return TrainingVectors(ids[chosen], labels[chosen], stores, [found[chosen] for found in positions])


def source_of(store: EmbeddingStore) -> LabelSource:
    """What a store's vectors come from."""
    known = store.manifest
    return LabelSource(name=known.encoder, revision=known.revision, content=digest(known.text_hash, known.long_text))


SHOWN = 5


"""Classes that an error names, at most."""


def label_by_vectors(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    folder: Path,
    *,
    strength: float = STRENGTH,
    folds: int = FOLDS,
    seed: int = 0,
    kind: LabelKind = "text",
    device: torch.device | str | None = None,
) -> SoftLabels:
    """Label the training images by the vectors of their texts, or open the labels that are there.

    The classifier is a softmax regression on the mean of an image's text vectors, cross-fitted: neither the image nor
    any image that has a text in common with it is among what its labeller has learned from. Validation and test images
    are not touched. Training images without a label are labelled too, by the mean of all models; those without a text
    are not, nor is one that is alone in its class. Labels are made anew when images, given labels, texts, encoders or
    settings have changed.

    Args:
        images: the images.
        stores: vectors of their texts, one store an encoder; unit vectors of several are put side by side.
        folder: where the labels lie.
        strength: inverse strength of the regularisation, as `C` of scikit-learn's `LogisticRegression`.
        folds: number of folds.
        seed: seed of the folds.
        kind: what the vectors are of, for the manifest.
        device: where models are fitted; the fastest available when not given.

    Raises:
        ConfigError: no store, fewer than two folds, or a strength that is not above 0.
        DataError: the images have fewer than two classes.
        DescriptionError: no labelled training image has a text, or fewer than two classes have several.
    """
    check_settings(images, stores, strength, folds)
    known = gather(images, stores)
    origin = origin_of(known, kind).model_copy(update={"folds": folds, "strength": strength, "seed": seed})
    layout = LabelLayout(folder)
    with exclusive(layout.lock, f"the soft labels in {folder}", wait=True):
        finish_interrupted(layout)
        there = open_if_same(layout, origin, images.classes)
        try:
            return there or make_labels(known, images, layout, origin, device)
        finally:
            shutil.rmtree(layout.scratch, ignore_errors=True)


def labels_there(images: ImageTable, stores: Sequence[EmbeddingStore], folder: Path) -> SoftLabels | None:
    """The labels in a folder if they were made of these images and vectors, whatever the settings; None otherwise."""
    try:
        there = SoftLabels(folder)
    except StoreError:
        return None
    settings = {key: getattr(there.manifest.origin, key) for key in ("folds", "strength", "seed")}
    wanted = origin_of(gather(images, stores), "text").model_copy(update=settings)
    return there if (there.manifest.origin, there.classes) == (wanted, tuple(images.classes)) else None


def origin_of(known: TrainingVectors, kind: LabelKind) -> LabelOrigin:
    """What labels are made of, settings aside."""
    fitted_to = digest(known.ids.tobytes(), known.labels.astype(np.int32).tobytes())
    return LabelOrigin(kind=kind, sources=tuple(map(source_of, known.stores)), fitted_to=fitted_to)


def check_settings(images: ImageTable, stores: Sequence[EmbeddingStore], strength: float, folds: int) -> None:
    """ConfigError or DataError when nothing can be labelled with them."""
    if not stores:
        raise ConfigError("Labelling needs the vectors of at least one encoder: gpt4image embed.")
    if not (strength > 0 and np.isfinite(strength)) or folds < 2:
        raise ConfigError(f"Labelling needs a strength above 0 and at least 2 folds, not {strength} and {folds}.")
    if len(images.classes) < 2:
        raise DataError(
            f"{images.source} has {len(images.classes)} classes; there is nothing to label with fewer than 2."
        )


def open_if_same(layout: LabelLayout, origin: LabelOrigin, classes: Sequence[str]) -> SoftLabels | None:
    """The labels in a folder if they are whole and of this origin."""
    try:
        there = SoftLabels(layout.folder)
    except StoreError:
        return None
    return there if (there.manifest.origin, there.classes) == (origin, tuple(classes)) else None


def make_labels(
    known: TrainingVectors,
    images: ImageTable,
    layout: LabelLayout,
    origin: LabelOrigin,
    device: torch.device | str | None,
) -> SoftLabels:
    """Cross-fit and write the labels, in place of what is there."""
    groups = known.groups()
    alone = find_alone(known.labels, groups, images.classes)
    shutil.rmtree(layout.scratch, ignore_errors=True)
    layout.scratch.mkdir(parents=True)
    shape = (len(known.ids), len(images.classes))
    fitted = cross_fit(
        known.write(layout.scratch / "vectors.npy"),
        known.labels,
        groups,
        len(images.classes),
        folds=origin.folds or FOLDS,
        strength=origin.strength or STRENGTH,
        seed=origin.seed or 0,
        device=device,
        out=np.lib.format.open_memmap(layout.scratch / "logits.npy", mode="w+", dtype=np.float32, shape=shape),
    )
    ids, first = np.unique(known.ids, return_index=True)
    kept = ~alone[first]
    logits = fitted.logits if kept.all() and len(ids) == len(known.ids) else fitted.logits[first[kept]]
    return replace_labels(layout, ids[kept], logits, images.classes, origin, fitted.temperature, fitted.quality)


def find_alone(labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Which rows are of a class whose described images are one, or all share their text, bool [n]; says which classes.

    Such images would be labelled by a model that has seen nothing of their class, never as what they are: they get no
    soft label.

    Raises:
        DescriptionError: fewer than two classes are left.
    """
    described = np.bincount(labels[labels >= 0], minlength=len(classes))
    lonely = (described > 0) & (groups_per_class(labels, groups, len(classes)) < 2)
    if ((described > 0) & ~lonely).sum() < 2:
        raise DescriptionError(
            "Soft labels take two classes or more with several described training images, of texts of their own. "
            "Describe more images."
        )
    if lonely.any():
        at = np.flatnonzero(lonely)
        named = ", ".join(f"{classes[each]!r} ({described[each]:,})" for each in at[:SHOWN].tolist())
        more = f" and {len(at) - SHOWN:,} more" if len(at) > SHOWN else ""
        console.say(
            "no soft labels for classes with a single described training image, or whose images all share one text: "
            f"{named}{more}",
            style="yellow",
        )
    return np.asarray((labels >= 0) & lonely[labels])
