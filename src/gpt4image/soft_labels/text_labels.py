"""Text labels: labels from descriptions that replace missing and wrong ones, in training and in validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest, exclusive
from gpt4image.descriptions.class_texts import ClassTexts, Encodes
from gpt4image.descriptions.picks import PickedClasses
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import measure_quality
from gpt4image.probing.folds import FOLDS
from gpt4image.probing.intervals import to_estimate, weighted_share
from gpt4image.soft_labels.labeller import TrainingVectors, check_settings, find_training_vectors
from gpt4image.soft_labels.labelling import Labelling, label_rows
from gpt4image.soft_labels.methods import Examples, name_classes
from gpt4image.soft_labels.store import (
    LabelEstimate,
    LabelKind,
    LabelLayout,
    LabelOrigin,
    SoftLabels,
    finish_interrupted,
    open_if_complete,
    replace_labels,
)

if TYPE_CHECKING:
    import torch

Form = Literal["hard", "sharp", "soft"]
TEMPERATURES: dict[Form, float] = {"hard": 0.01, "sharp": 0.5, "soft": 1.0}


@dataclass(frozen=True)
class NeutralEncoder:
    """Gives texts of classes the mean image vector, which carries no information, in place of an image's.

    Attributes:
        mean: mean of the image vectors, float32 [D].
    """

    mean: np.ndarray

    @classmethod
    def of(cls, store: EmbeddingStore) -> NeutralEncoder:
        """Create one from a store of image vectors."""
        return cls(store.take(np.arange(store.manifest.images)).mean(axis=0))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the mean vector for every text, float32 [N, D]."""
        return np.repeat(self.mean[None], len(texts), axis=0)


def label_by_texts(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    folder: Path,
    *,
    classes: ClassTexts | None = None,
    encoders: Sequence[Encodes] = (),
    form: Form = "hard",
    abstain: float = 0.0,
    adjustment: float = 0.0,
    strength: float | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    kind: LabelKind = "text",
    device: torch.device | str | None = None,
    picks: PickedClasses | None = None,
    partner: EmbeddingStore | None = None,
) -> SoftLabels:
    """Label training and validation images by the vectors of their texts, or open the labels that already exist.

    A classifier fitted to all training labels predicts those of unlabelled training images (`label_rows`). Given labels
    of training and validation images are kept unless enough of them turn out wrong; then the posterior of the true
    class replaces them. Nothing is learned from validation labels.

    Args:
        images: the images.
        stores: vectors of their texts, one store per encoder; the unit vectors of several are concatenated.
        folder: folder of the labels.
        classes: texts of the classes, by default their names; needs `encoders`.
        encoders: the encoders of `stores`, to embed the texts of the classes; without any, these are not used.
        form: hard labels (the likeliest class), calibrated soft ones, or soft ones sharpened to their square.
        abstain: images whose likeliest class is less probable than this get no label.
        adjustment: strength of the logit adjustment of new labels, for skewed given ones.
        strength: inverse strength of the regularisation; by default 10, or another value that fits the labels clearly
            better.
        folds: number of folds.
        seed: seed of folds and resampling.
        kind: what the vectors embed, for the manifest.
        device: device of the fits; by default a GPU if there is one.
        picks: classes that an LLM picked, as further evidence; the only evidence for images without a text, and for all
            images without `stores`.
        partner: features of the images, to co-train with the texts (`co_training`); images without any get no label.

    Raises:
        ConfigError: neither a store nor picks, a class without texts, or an invalid setting.
        DataError: there are fewer than two classes, or the labels have fewer than two and the classes have no texts.
        DescriptionError: no image has a text.
    """
    check_settings(images, stores or picks, strength, folds)
    if not 0 <= abstain < 1:
        raise ConfigError(f"abstain should be a probability below 1, not {abstain}.")
    picked = picks.ids[picks.named] if picks is not None and partner is None else None
    both = [*stores, *([partner] if partner is not None else [])]
    known = find_training_vectors(images, both, validation=True, labelled=not encoders and picks is None, picked=picked)
    texts = (classes or ClassTexts.of_names(images.classes)).in_order(images.classes, images.source)
    # included only if set, so that labels of earlier versions stay valid
    more = (adjustment,) if adjustment else ()
    more = more if picks is None else (*more, picks.digest)
    more = more if partner is None else (*more, "co-training")
    settings = digest(repr((texts.texts if encoders else (), form, abstain, *more)))
    origin = known.origin(kind).model_copy(
        update={"folds": folds, "strength": strength, "seed": seed, "settings": settings}
    )
    layout = LabelLayout(folder)
    with exclusive(layout.lock, f"the text labels in {folder}", wait=True):
        finish_interrupted(layout)
        there = open_if_complete(folder)
        if there and (there.manifest.origin, there.classes) == (origin, tuple(images.classes)):
            return there
        examples = Examples(*texts.embed(encoders)) if encoders else None
        width = sum(store.width for store in stores)
        vectors, features = np.split(known.take(np.arange(len(known.ids))), [width], axis=1)
        shares = None if picks is None else picks.take(known.ids)
        fitted = np.where(known.held_out, -1, known.labels)
        found = label_rows(
            vectors, fitted, known.groups(), len(images.classes), examples,
            strength=strength, folds=folds, seed=seed, device=device, adjustment=adjustment,
            picks=shares, partner=features if partner is not None else None, described=known.described,
        )  # fmt: skip
        return _write(layout, known, images, found, origin, TEMPERATURES[form], abstain, shares)


def _write(
    layout: LabelLayout,
    known: TrainingVectors,
    images: ImageTable,
    found: Labelling,
    origin: LabelOrigin,
    temperature: float,
    abstain: float,
    picked: np.ndarray | None,
) -> SoftLabels:
    """Write the labels of images with at most one given label; images with several keep theirs."""
    logits = found.of_labels(known.labels)
    _, inverse, counts = np.unique(known.ids, return_inverse=True, return_counts=True)
    sure = np.exp(logits.max(axis=1)) >= abstain
    if not found.is_informed:
        sure &= known.labels >= 0
    kept = (counts[inverse] == 1) & sure
    labelled, train = known.labels >= 0, ~known.held_out
    estimate = LabelEstimate(
        method=found.method,
        labelled=int(labelled.sum()),
        unlabelled=int((train & ~labelled).sum()),
        abstained=int((~sure).sum()),
        several=int((counts > 1).sum()),
        accuracy=to_estimate(found.accuracy),
        per_class=tuple(map(to_estimate, found.per_class)),
        wrong=to_estimate(found.wrong),
        transition=None if found.noise is None else tuple(map(tuple, np.exp(found.noise.log_transition).tolist())),
        replaced=found.replaced,
        changed=int((labelled & (logits.argmax(axis=1) != known.labels)).sum()),
        **({} if picked is None else _judge_picks(picked, np.where(train, known.labels, -1))),
    )
    quality = None
    if (train & labelled).any() and found.accuracy is not None:
        quality = measure_quality(found.out_of_fold, np.where(train, known.labels, -1), 1.0)
    return replace_labels(layout, known.ids[kept], logits[kept], images.classes, origin, temperature, quality, estimate)


def _judge_picks(picked: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Count an LLM's picks [N, C], and compute the share that is right among those for labelled rows [N]."""
    named = name_classes(picked)
    judged = named & (labels >= 0)
    right = picked[judged].argmax(axis=1) == labels[judged]
    share = weighted_share(right, np.ones(len(right))) if judged.any() else None
    return {"picked": int(named.sum()), "picks": to_estimate(share)}
