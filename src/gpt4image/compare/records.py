"""Records of a comparison, kept as `comparison.json` and `gallery.json`. The report reads nothing else."""

from __future__ import annotations

from typing import Literal

from gpt4image.core.record import Record


class EpochRecord(Record):
    """One epoch of one run. Losses are means over its steps; accuracies here and below lie between 0 and 1."""

    epoch: int
    learning_rate: float
    classification_loss: float
    alignment_loss: float | None
    validation_accuracy: float
    seconds: float


class RunRecord(Record):
    """One trained model."""

    arm: str
    seed: int
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float
    balanced_accuracy: float  # mean recall of the classes that occur in the test split
    negative_log_likelihood: float  # mean over the test images, in nats
    seconds: float
    history: list[EpochRecord]


class ArmRecord(Record):
    """One way of training, over all seeds. `confusion[i][j]` counts test images of class i predicted as class j."""

    name: str
    title: str
    runs: list[RunRecord]
    confusion: list[list[int]]


class Difference(Record):
    """Paired difference of test accuracy, `arm` minus `reference`, with its 95% confidence interval.

    `covers` says what the interval covers: seeds and test images, or with a single seed the test images only. See
    `probing.intervals`.
    """

    arm: str
    reference: str
    seeds: list[int]
    per_seed: list[float]
    mean: float
    low: float
    high: float
    covers: Literal["seeds and images", "images only"]


class ClassRecord(Record):
    """One class: its images, each arm's accuracy on its test images (mean over seeds), and the paired difference."""

    name: str
    train_images: int
    test_images: int
    accuracy: dict[str, float | None]
    difference: float | None
    low: float | None
    high: float | None


class DataRecord(Record):
    """The images, and how many of them have a description."""

    source: str
    images: dict[str, int]
    rejected: list[tuple[str, str]]
    rejected_total: int
    duplicates: int
    leaked: int
    descriptions_source: str
    with_text: dict[str, int]
    without_text: dict[str, int]
    orphan_texts: int
    repeated_texts: int


class EncoderRecord(Record):
    """A text encoder, and how many texts it truncated."""

    name: str
    revision: str
    width: int
    max_tokens: int
    pooling: str
    distinct_texts: int
    truncated_texts: int


class Answer(Record):
    """One arm's prediction for an image with the first seed: the class and its probability."""

    answer: str
    probability: float
    right: bool


Group = Literal["mended", "broken", "both right", "both wrong"]


class GalleryItem(Record):
    """A test image with its description and every arm's prediction. `thumbnail` is a JPEG as a `data:` address."""

    path: str
    thumbnail: str
    label: str
    description: str | None
    answers: dict[str, Answer]
    group: Group


class Gallery(Record):
    """Test images to look at."""

    items: list[GalleryItem]


class Comparison(Record):
    """All results of a comparison of training with and without text."""

    version: str
    created: str
    classes: list[str]
    data: DataRecord
    encoders: list[EncoderRecord]
    recipe: dict[str, str | int | float | bool | list[str | float] | None]
    arms: list[ArmRecord]
    difference: Difference
    per_class: list[ClassRecord]
    seconds: float
    device: str
    notes: list[str]
