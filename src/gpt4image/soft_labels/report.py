"""Soft labels held against the given ones: which classes the labeller knows least, and which labels it doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt4image.core.files import atomic_write
from gpt4image.core.format import counted, printable
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import LabelQuality, blocks
from gpt4image.probing.label_issues import find_label_issues
from gpt4image.soft_labels.labeller import label_by_vectors
from gpt4image.soft_labels.store import SoftLabels

SHOWN = 5


"""Classes that are named."""


COLUMNS = ("id", "path", "label", "probability", "likelier", "its_probability")


@dataclass(frozen=True)
class Doubt:
    """An image whose given label the labeller finds very unlikely.

    Attributes:
        image_id: the image, 32 hex digits.
        path: the image as the source names it; untrusted.
        label: its given class.
        probability: what the labeller gives that.
        likelier: the likeliest class.
        its_probability: what the labeller gives that.
    """

    image_id: str
    path: str
    label: str
    probability: float
    likelier: str
    its_probability: float

    def line(self) -> str:
        """One line, tab separated, with control characters shown."""
        cells = (self.image_id, self.path, self.label, f"{self.probability:.6f}", self.likelier)
        return "\t".join(map(printable, (*cells, f"{self.its_probability:.6f}")))


@dataclass(frozen=True)
class LabelAccount:
    """How soft labels and given ones agree.

    Attributes:
        labels: the soft labels.
        per_class: number of images and share right of each class that has any, by name; lowest share first.
        doubts: images whose given label is doubted, the least likely label first.
    """

    labels: SoftLabels
    per_class: dict[str, tuple[int, float]]
    doubts: list[Doubt]

    def lines(self) -> list[str]:
        """The account in words."""
        known, quality = self.labels.manifest, self.labels.manifest.quality
        judged = []
        if quality is not None:
            judged = [
                f"out of fold: {quality.accuracy:.1%} of {counted(quality.images, 'image')} right, mean of the classes "
                f"{quality.balanced_accuracy:.1%}",
                f"calibration: temperature {known.temperature:.2f}, error {quality.calibration_error:.3f}, "
                f"negative log-likelihood {quality.negative_log_likelihood:.3f}",
            ]
        worst = list(self.per_class.items())[:SHOWN]
        named = ", ".join(f"{name} {share:.0%} of {images:,}" for name, (images, share) in worst)
        return [
            *judged,
            f"least known: {named}",
            f"doubtful: the given label of {counted(len(self.doubts), 'image')}: {self.labels.layout.doubtful}",
            f"soft labels of {counted(len(self.labels), 'image')}: {self.labels.layout.folder}",
        ]


def account_for(labels: SoftLabels, images: ImageTable) -> LabelAccount:
    """Hold soft labels against the given labels of the training images.

    A given label is doubted where another class has at least a probability of 0.7 and is 20 times as likely. What is
    right is then often the given label: it is a list to look at.

    Args:
        labels: the soft labels.
        images: the images they were made for.

    Raises:
        StoreError: the labels are of other classes.
    """
    labels.check(images.classes)
    rows = images.split("train")
    rows = rows[(labels.find(images.ids[rows]) >= 0) & (images.labels[rows] >= 0)]
    given, doubts = images.labels[rows], []
    answers = np.empty(len(rows), dtype=np.int64)
    for places in blocks(np.arange(len(rows))):
        probabilities = labels.take(labels.find(images.ids[rows[places]]))
        answers[places] = probabilities.argmax(axis=1)
        doubts += find_doubts(probabilities, given[places], rows[places], images)
    shares = {
        images.classes[value]: (int((given == value).sum()), float((answers[given == value] == value).mean()))
        for value in np.unique(given).tolist()
    }
    per_class = dict(sorted(shares.items(), key=lambda item: item[1][1]))
    return LabelAccount(labels, per_class, sorted(doubts, key=lambda doubt: doubt.probability))


def find_doubts(probabilities: np.ndarray, given: np.ndarray, rows: np.ndarray, images: ImageTable) -> list[Doubt]:
    """The doubted labels among images at some rows [n], of probabilities [n, C] and given labels [n]."""
    likelier = find_label_issues(probabilities, given)
    ids = images.ids[rows]
    return [
        Doubt(
            image_id=ids[at].decode(),
            path=images.path(int(rows[at])),
            label=images.classes[given[at]],
            probability=float(probabilities[at, given[at]]),
            likelier=images.classes[likelier[at]],
            its_probability=float(probabilities[at, likelier[at]]),
        )
        for at in np.flatnonzero(likelier >= 0).tolist()
    ]


def write_doubts(path: Path, doubts: Iterable[Doubt]) -> None:
    """Write doubted labels as a tab-separated table with a heading."""
    with atomic_write(path) as file:
        for line in ("\t".join(COLUMNS), *(doubt.line() for doubt in doubts)):
            file.write(f"{line}\n".encode())


HEADING = f"{'encoder':40} {'width':>6} {'cut':>8} {'right':>9} {'balanced':>9} {'NLL':>8}"


"""What stands above the lines."""


@dataclass(frozen=True)
class ComparedEncoder:
    """What one text encoder, or all of them side by side, knows of the classes.

    Attributes:
        name: its name; several joined by +.
        width: length of a vector, or of several side by side.
        cut: texts of which the end was not read, and all texts.
        quality: of a classifier on its vectors, for images that it has not seen.
    """

    name: str
    width: int
    cut: tuple[int, int]
    quality: LabelQuality

    def line(self) -> str:
        """One line of a table."""
        found, (cut, texts) = self.quality, self.cut
        return (
            f"{self.name:40.40} {self.width:6,} {cut / max(texts, 1):8.1%} {found.accuracy:9.1%} "
            f"{found.balanced_accuracy:9.1%} {found.negative_log_likelihood:8.3f}"
        )


def judge_encoders(
    images: ImageTable, stores: Sequence[EmbeddingStore], folder_of: Callable[[str], Path]
) -> list[ComparedEncoder]:
    """Judge a cross-fitted classifier on the vectors of each encoder; several are also judged side by side.

    Args:
        images: the images.
        stores: each encoder's vectors.
        folder_of: where the labels are kept that vectors of that name give.

    Returns:
        The encoders, the lowest negative log-likelihood first; those left out that no image can judge.
    """
    found = []
    for chosen in [*((store,) for store in stores), *([tuple(stores)] if len(stores) > 1 else [])]:
        name = "+".join(store.manifest.encoder for store in chosen)
        quality = label_by_vectors(images, chosen, folder_of(f"compared-{name}")).manifest.quality
        if quality is None:
            continue
        cut, texts = (sum(getattr(s.manifest, key) for s in chosen) for key in ("truncated", "distinct_texts"))
        found.append(ComparedEncoder(name, sum(store.width for store in chosen), (cut, texts), quality))
    return sorted(found, key=lambda each: each.quality.negative_log_likelihood)
