"""Soft labels from texts: a classifier on the vectors of texts labels training images that it has not seen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DataError, DescriptionError
from gpt4image.core.files import digest, exclusive
from gpt4image.core.format import counted
from gpt4image.descriptions.picks import PickedClasses
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
    open_if_complete,
    replace_labels,
)

if TYPE_CHECKING:
    import torch

SHOWN = 5  # classes that a message lists, at most


def label_by_vectors(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    folder: str | Path,
    *,
    strength: float = STRENGTH,
    folds: int = FOLDS,
    seed: int = 0,
    kind: LabelKind = "text",
    device: torch.device | str | None = None,
) -> SoftLabels:
    """Label the training images by the vectors of their texts, or open the labels that already exist.

    The classifier is a softmax regression on the mean of an image's text vectors. It is cross-fitted: neither the image
    nor any image that shares a text with it is in the training rows of the model that labels it. Validation and test
    images are not used. Training images without a label are labelled by the mean of all models. Images without a text
    get no soft label, nor do images that are the only one of their class. The labels are recomputed if images, given
    labels, texts, encoders or settings have changed.

    Args:
        images: the images.
        stores: vectors of their texts, one store per encoder; the unit vectors of several are concatenated.
        folder: folder of the labels.
        strength: inverse strength of the regularisation, like `C` of scikit-learn's `LogisticRegression`.
        folds: number of folds.
        seed: seed of the folds.
        kind: what the vectors embed, for the manifest.
        device: device of the fits; by default a GPU if there is one.

    Raises:
        ConfigError: no store, fewer than two folds, or a strength that is not above 0.
        DataError: there are fewer than two classes.
        DescriptionError: no labelled training image has a text, or fewer than two classes have several such images.
    """
    folder = Path(folder)
    check_settings(images, stores, strength, folds)
    known = find_training_vectors(images, stores)
    origin = known.origin(kind).model_copy(update={"folds": folds, "strength": strength, "seed": seed})
    layout = LabelLayout(folder)
    with exclusive(layout.lock, f"the soft labels in {folder}", wait=True):
        finish_interrupted(layout)
        there = open_if_complete(folder)
        try:
            if there and (there.manifest.origin, there.classes) == (origin, tuple(images.classes)):
                return there
            return make_labels(known, images, layout, origin, device)
        finally:
            shutil.rmtree(layout.scratch, ignore_errors=True)


def existing_labels(images: ImageTable, stores: Sequence[EmbeddingStore], folder: Path) -> SoftLabels | None:
    """Open the labels in a folder if they were made from these images and vectors, with any settings."""
    there = open_if_complete(folder)
    if there is None:
        return None
    settings = {key: getattr(there.manifest.origin, key) for key in ("folds", "strength", "seed")}
    wanted = find_training_vectors(images, stores).origin("text").model_copy(update=settings)
    return there if (there.manifest.origin, there.classes) == (wanted, tuple(images.classes)) else None


def check_settings(
    images: ImageTable, sources: Sequence[EmbeddingStore] | PickedClasses | None, strength: float | None, folds: int
) -> None:
    """Raise ConfigError or DataError for settings that cannot give labels."""
    if not sources:
        raise ConfigError("Labelling needs the vectors of at least one encoder: gpt4image embed.")
    if folds < 2 or (strength is not None and not (strength > 0 and np.isfinite(strength))):
        raise ConfigError(f"Labelling needs a strength above 0 and at least 2 folds, not {strength} and {folds}.")
    if len(images.classes) < 2:
        raise DataError(f"{images.source} has {counted(len(images.classes), 'class')}; labelling needs at least 2.")


@dataclass(frozen=True)
class TrainingVectors:
    """Training images, and optionally validation images, that have a vector in every store or a pick.

    Attributes:
        ids: image ids in ascending order, S32 [n]; an image in several classes appears once for each.
        labels: int [n], -1 for none.
        stores: the stores.
        positions: positions of the images in each store, int64 [n] each, -1 for none.
        held_out: which are validation images, bool [n].
    """

    ids: np.ndarray
    labels: np.ndarray
    stores: Sequence[EmbeddingStore]
    positions: Sequence[np.ndarray]
    held_out: np.ndarray

    @property
    def described(self) -> np.ndarray:
        """Which images have a vector in every store, bool [n]."""
        return np.asarray(np.all([np.ones(len(self.ids)), *(at >= 0 for at in self.positions)], axis=0))

    def origin(self, kind: LabelKind) -> LabelOrigin:
        """Return the origin of labels made from these vectors, without the settings."""
        sources = []
        for store in self.stores:
            known = store.manifest
            content = digest(known.text_hash, known.long_text)
            sources.append(LabelSource(name=known.encoder, revision=known.revision, content=content))
        held_out = [self.held_out.tobytes()] if self.held_out.any() else []
        fitted_to = digest(self.ids.tobytes(), self.labels.astype(np.int32).tobytes(), *held_out)
        return LabelOrigin(kind=kind, sources=tuple(sources), fitted_to=fitted_to)

    def groups(self) -> np.ndarray:
        """Number the leakage groups, int64 [n]: images with the same id or text, directly or through others."""
        described, others = np.flatnonzero(self.described), np.flatnonzero(~self.described)
        if not self.stores or not len(described):
            return np.asarray(link(self.ids))
        owners, texts = [others], [self.ids[others]]  # an id stands for a text that no other image has
        for store, positions in zip(self.stores, self.positions, strict=True):
            owner, rows = store.all_rows(positions[described])
            owners.append(described[owner])
            texts.append(np.load(store.layout.texts, mmap_mode="r")[rows])
        owner = np.concatenate(owners)  # [K], the image of each text
        _, first = np.unique(owner, return_index=True)  # each image has a text, so this is one text of each image [n]
        return np.asarray(link(self.ids[owner], np.concatenate(texts))[first])

    def write(self, path: Path) -> np.ndarray:
        """Write the vectors of all stores side by side, float16 [n, D], and return the memory map."""
        shape = (len(self.ids), sum(store.width for store in self.stores))
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for rows in blocks(np.arange(len(self.ids))):
            vectors[rows] = self.take(rows)
        return vectors

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of images [B], all stores side by side, float32 [B, D]; zeros for images without any."""
        found = np.zeros((len(rows), sum(store.width for store in self.stores)), np.float32)
        there = self.described[rows]
        parts = [store.take(at[rows[there]]) for store, at in zip(self.stores, self.positions, strict=True)]
        found[there] = np.concatenate([np.empty((there.sum(), 0), np.float32), *parts], axis=1)
        return found


def find_training_vectors(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    *,
    validation: bool = False,
    labelled: bool = True,
    picked: np.ndarray | None = None,
) -> TrainingVectors:
    """Find the training images with a vector in every store, and those for which an LLM picked a class.

    Args:
        images: the images.
        stores: the stores.
        validation: include validation images.
        labelled: require that at least one training image has a label.
        picked: ids of images with a pick, which need no vector, S32.

    Raises:
        DescriptionError: no training image has a vector, or a label as well if required; without stores, a pick.
    """
    rows = np.concatenate([images.split("train"), images.split("validation")[: None if validation else 0]])
    ids, labels = images.ids[rows], images.labels[rows]
    held_out = np.arange(len(rows)) >= len(images.split("train"))
    order = np.lexsort((held_out, labels, ids))
    ids, labels, held_out = ids[order], labels[order], held_out[order]
    positions = [store.find(ids) for store in stores]
    distinct = np.ones(len(ids), dtype=bool)
    distinct[1:] = (ids[1:] != ids[:-1]) | (labels[1:] != labels[:-1])  # a repeated file counts once
    described = distinct & np.all([np.full(len(ids), bool(stores)), *(found >= 0 for found in positions)], axis=0)
    chosen = described if picked is None else described | (distinct & np.isin(ids, picked))
    if not ((described if stores else chosen) & ~held_out & (labels >= 0 if labelled else True)).any():
        raise DescriptionError(
            f"None of the {(~held_out).sum():,} training images of {images.source} has {'a label and ' * labelled}a "
            f"vector in {', '.join(str(store.layout.folder) for store in stores)}. Describe and embed training images: "
            "gpt4image describe, gpt4image embed."
        )
    return TrainingVectors(
        ids[chosen], labels[chosen], stores, [found[chosen] for found in positions], held_out[chosen]
    )


def make_labels(
    known: TrainingVectors,
    images: ImageTable,
    layout: LabelLayout,
    origin: LabelOrigin,
    device: torch.device | str | None,
) -> SoftLabels:
    """Cross-fit and write the labels, replacing earlier ones."""
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
    # the rows of an image in several classes have one vector and one group, so one fold and equal logits
    ids, first = np.unique(known.ids, return_index=True)
    kept = ~alone[first]
    logits = fitted.logits if kept.all() and len(ids) == len(known.ids) else fitted.logits[first[kept]]
    return replace_labels(layout, ids[kept], logits, images.classes, origin, fitted.temperature, fitted.quality)


def find_alone(labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Find rows whose class lies in a single group, bool [n], and warn about these classes.

    The model that would label such a row has seen no other example of its class and could never predict it, so the
    image gets no soft label.

    Raises:
        DescriptionError: fewer than two classes are left.
    """
    described = np.bincount(labels[labels >= 0], minlength=len(classes))
    lonely = (described > 0) & (groups_per_class(labels, groups, len(classes)) < 2)
    if ((described > 0) & ~lonely).sum() < 2:
        raise DescriptionError(
            "Soft labels take two classes or more, each with several training images whose texts differ. Describe more "
            "images."
        )
    if lonely.any():
        at = np.flatnonzero(lonely)
        named = ", ".join(f"{classes[each]!r} ({described[each]:,})" for each in at[:SHOWN].tolist())
        more = f" and {len(at) - SHOWN:,} more" if len(at) > SHOWN else ""
        console.say(
            "no soft labels for classes with a single described training image, or whose images all have the same "
            f"text: {named}{more}",
            style="yellow",
        )
    return np.asarray((labels >= 0) & lonely[labels])
