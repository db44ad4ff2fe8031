"""What a comparison found, as plain records: `comparison.json` and `gallery.json`. The report reads nothing else."""

from __future__ import annotations

from typing import Literal

from gpt4image.core.record import Record


class EpochRecord(Record):
    """One epoch of one run. Losses are means over the epoch's steps; accuracy is a share of 1."""

    epoch: int
    learning_rate: float
    classification_loss: float
    alignment_loss: float | None
    validation_accuracy: float
    seconds: float


class RunRecord(Record):
    """One trained model: how it learned and how it did on the test images."""

    arm: str
    seed: int
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float
    balanced_accuracy: float
    negative_log_likelihood: float
    seconds: float
    history: list[EpochRecord]


class ArmRecord(Record):
    """One way of training, over all its seeds; `confusion[i][j]` counts test images of class i answered j."""

    name: str
    title: str
    runs: list[RunRecord]
    confusion: list[list[int]]


class Difference(Record):
    """Paired difference of test accuracy, `arm` minus `reference`, as shares of 1, with a 95% interval.

    `covers` says which luck the interval accounts for: which seeds were drawn and which test images were drawn, or,
    where there is one seed only, the test images alone.
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
    """The image set and how far the descriptions cover it."""

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
    """The text encoder and what it could not read."""

    name: str
    revision: str
    width: int
    max_tokens: int
    pooling: str
    distinct_texts: int
    truncated_texts: int


class Answer(Record):
    """What one arm's model said of an image (first seed): the class and its probability."""

    answer: str
    probability: float
    right: bool


class GalleryItem(Record):
    """A test image with its description and every arm's answer. `thumbnail` is a JPEG as a `data:` address."""

    path: str
    thumbnail: str
    label: str
    description: str | None
    answers: dict[str, Answer]
    group: Literal["mended", "broken", "both right", "both wrong"]


class Gallery(Record):
    """Test images to look at."""

    items: list[GalleryItem]


class Comparison(Record):
    """Everything that a comparison of training with and without text found."""

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
