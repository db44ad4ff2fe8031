"""What soft labels are and how good: `manifest.json`."""

from __future__ import annotations

from typing import Literal

from gpt4image.records import Record

LabelKind = Literal["text", "images", "classifier"]
"""What the labels were made from: vectors of texts, vectors of images, or the logits of a stronger classifier."""


class LabelSource(Record):
    """One thing that the labels were made from.

    Attributes:
        name: encoder or classifier, as the user names it.
        revision: hash of its weights.
        content: hash of what it was given, such as image ids and texts.
    """

    name: str
    revision: str
    content: str = ""


class LabelOrigin(Record):
    """All that decides the labels; the same origin gives the same labels.

    Attributes:
        kind: what they were made from.
        sources: encoders or classifiers, in the order in which their vectors were joined.
        fitted_to: hash of the image ids and labels that were learned from, empty where nothing was.
        folds: number of folds, None where labels are not cross-fitted.
        strength: inverse strength of the regularisation, likewise.
        seed: seed of the folds, likewise.
    """

    kind: LabelKind
    sources: tuple[LabelSource, ...]
    fitted_to: str = ""
    folds: int | None = None
    strength: float | None = None
    seed: int | None = None


class LabelQuality(Record):
    """How good the labels are, judged by the given labels of images that the labeller had not seen.

    Attributes:
        images: images with a given label.
        accuracy: share of them for which the likeliest class is the given one.
        balanced_accuracy: mean of that share over the classes that occur.
        negative_log_likelihood: mean of -log probability of the given class, in nats, at the fitted temperature.
        calibration_error: mean distance of the likeliest class's probability from its share right, over 15 bins of
            equal width, at the fitted temperature.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    negative_log_likelihood: float
    calibration_error: float


class LabelManifest(Record):
    """What a folder of soft labels holds.

    Attributes:
        origin: what decides the labels.
        classes: class names, in the order of the columns.
        images: number N of images.
        temperature: divides the logits before the softmax where no other is asked for.
        quality: how good the labels are, None where that was not measured.
    """

    origin: LabelOrigin
    classes: tuple[str, ...]
    images: int
    temperature: float
    quality: LabelQuality | None
