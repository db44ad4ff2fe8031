"""Detection: the objects in an image, each with a box and a class.

Boxes are float [M, 5] an image: class, -1 where there are fewer than M, then left, top, right and bottom in shares of
the picture's longer side; NaN throughout where nothing is known of an image. Class -1 with corners is a box whose
class is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from gpt4image.core.errors import ConfigError, MissingExtraError
from gpt4image.images.table import ImageTable
from gpt4image.tasks.box_metrics import (
    ClassRanking,
    best_thresholds,
    image_precisions,
    match,
    mean_average_precision,
    rank_classes,
    ranked,
    resampled_precisions,
)
from gpt4image.tasks.label_metrics import compare_groups
from gpt4image.tasks.settings import LabelSettings
from gpt4image.tasks.task import ClassComparison, Predictions, Task

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 6  # of a detection: class, -1 for none, left, top, right, bottom, score
GIVEN, SHOWN = "#1a9850", "#2166ac"  # green and blue, as described in the report
IDLE: Mapping[str, Any] = {
    "label_loss": "cross-entropy",
    "logit_adjustment": "none",
    "class_weights": "none",
    "class_sampling": "natural",
    "consistency": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "auto_augment": None,
    "random_erase": 0.0,
    "cached_views": 0,
    "shared_head": 0.0,
    "self_supervised": "none",
}
"""Settings that mean nothing for boxes and masks, with the only value that they may have."""


@dataclass(frozen=True)
class BoxPredictions(Predictions):
    """Detections of some images: `logits` are float32 [N, K, 6], `labels` the boxes, float32 [N, M, 5].

    Attributes:
        thresholds: score of each class from which its detections are shown, float64 [C].
    """

    thresholds: np.ndarray

    @cached_property
    def scores(self) -> np.ndarray:
        """Average precision of each image, float64 [N]."""
        return image_precisions(self.logits, self.labels)

    @cached_property
    def rankings(self) -> list[ClassRanking]:
        """The detections of each class."""
        return rank_classes(self.logits, self.labels, len(self.thresholds))

    def shown(self, at: int) -> np.ndarray:
        """Return the detections of an image from the threshold of their class on [k, 6], the surest first."""
        own = ranked(self.logits[at])
        return np.asarray(own[own[:, 5] >= self.thresholds[own[:, 0].astype(np.int64)]])

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether exactly the boxes of an image are shown, with an overlap of one half or more, bool [N]."""
        found = np.zeros(len(self.labels), dtype=bool)
        for at, truth in enumerate(self.labels):
            shown, given = self.shown(at), truth[truth[:, 0] >= 0]
            found[at] = len(shown) == len(given) and bool(match(shown, given)[0].all())
        return found

    @property
    def plausibility(self) -> np.ndarray:
        """Average precision of each image: a detector gives no probability of what is true."""
        return self.scores

    def answers(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return what is shown of each image, and its mean score; 1 minus the highest score where that is nothing."""
        found = []
        for at in range(len(self.logits)):
            shown, own = self.shown(at), ranked(self.logits[at])
            surest = float(own[0, 5]) if len(own) else 0.0
            sure = float(shown[:, 5].mean()) if len(shown) else 1 - surest
            found.append((in_words(shown[:, 0], classes), sure))
        return found

    def truths(self, classes: Sequence[str]) -> list[str]:
        """Return the objects of each image."""
        return [in_words(boxes[boxes[:, 0] >= 0, 0], classes) for boxes in self.labels]

    def drawn_on(self, picture: Image.Image, at: int) -> Image.Image:
        """Return a copy of a picture with the given boxes in the colour `GIVEN`, those that are shown in `SHOWN`."""
        from PIL import ImageDraw

        drawn, truth, longer = picture.copy(), self.labels[at], max(picture.size)
        pen, width = ImageDraw.Draw(drawn), max(1, longer // 90)
        for boxes, colour in ((truth[truth[:, 0] >= 0], GIVEN), (self.shown(at), SHOWN)):
            for corners in (boxes[:, 1:5] * longer).tolist():
                pen.rectangle(corners, outline=colour, width=width)
        return drawn

    def measure(self) -> dict[str, Any]:
        """Return COCO's mean average precision beside the mean of the scores."""
        both, half = mean_average_precision(self.logits, self.labels)
        return {
            "accuracy": float(self.scores.mean()),
            "mean_average_precision": both,
            "mean_average_precision_50": half,
        }


class OfObjects(Task):
    """Tasks of objects in images, whose model computes its loss itself.

    Attributes:
        objects: what an image's labels are, for messages.
    """

    objects: ClassVar[str]
    loss_in_model = True

    def check(self, settings: LabelSettings, smoothing: float) -> None:
        """Raise ConfigError for settings that mean nothing for objects. Label smoothing is not used."""
        for name, idle in IDLE.items():
            if getattr(settings, name, idle) != idle:
                option = f"--{name.replace('_', '-')}"
                shown = "none" if idle is None else f"{idle:g}" if isinstance(idle, float) else idle
                raise ConfigError(f"{name} ({option}) does not work with {self.objects}: set it to {shown}.")
        if getattr(settings, "targets", "same") == "label":
            raise ConfigError(
                f"targets = label needs labels of whole images: with {self.objects} set targets to same (--targets)."
            )

    def truth(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return the labels themselves [N, ...]."""
        return labels

    def targets(self, labels: Tensor, soft: Tensor, classes: int, smoothing: float, soft_share: float) -> Tensor:
        """Return the labels of a batch themselves [B, ...]."""
        return labels

    def loss(self, logits: Tensor, targets: Tensor, settings: LabelSettings, prior: Tensor | None) -> Tensor:
        """Return the sum of the loss over images.

        Args:
            logits: parts of the loss, means over the images whose labels are known [1, P].
            targets: labels [B, ...], NaN where they are not known.
            settings: the recipe.
            prior: not used.
        """
        return logits.sum() * (~targets.flatten(1)[:, 0].isnan()).sum()


class Detection(OfObjects):
    """Boxes with classes, learned by the loss of the detector and judged by the average precision."""

    name, score, class_score = "detection", "average precision per image", "average precision"
    family, objects = "detector", "boxes"

    def check(self, settings: LabelSettings, smoothing: float) -> None:
        """Raise ConfigError for settings that mean nothing for boxes. Label smoothing is not used.

        Raises:
            MissingExtraError: the libraries that judge boxes are not installed.
        """
        super().check(settings, smoothing)
        for library in ("torchmetrics", "pycocotools"):
            if find_spec(library) is None:
                raise MissingExtraError(library, "detection", "Evaluating detections")

    def labels(self, images: ImageTable, rows: np.ndarray) -> np.ndarray:
        """Return the boxes of some images, float32 [n, M, 5]; M is at least 1."""
        return pad_boxes(images.boxes(rows), images.sizes(rows))

    def validation_score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean average precision per image."""
        return float(image_precisions(_unpacked(logits), targets).mean())

    def fit_thresholds(self, logits: np.ndarray, targets: np.ndarray) -> list[float]:
        """Return the score from which detections are shown, with the best F1 score of each class.

        A class that has neither a box nor a detection here, after the last that has, gets none.
        """
        detections = _unpacked(logits)
        classes = 1 + int(max(detections[..., 0].max(initial=-1), targets[..., 0].max(initial=-1)))
        return best_thresholds(rank_classes(detections, targets, classes))

    def predictions(
        self, rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, thresholds: Sequence[float] = ()
    ) -> BoxPredictions:
        """Return detections to be judged; without thresholds those are shown that have a score of one half or more."""
        detections = _unpacked(logits)
        classes = 1 + int(max(detections[..., 0].max(initial=-1), labels[..., 0].max(initial=-1), len(thresholds) - 1))
        limits = np.full(max(classes, 1), 0.5)
        limits[: len(thresholds)] = thresholds
        return BoxPredictions(rows, labels, detections, limits)

    def compare_classes(
        self,
        predictions: Mapping[str, Sequence[Predictions]],
        candidate: str,
        reference: str,
        groups: Sequence[np.ndarray],
    ) -> list[ClassComparison]:
        """Compare the average precisions of classes, or their means over groups, with bootstrap intervals."""
        classes = 1 + max((int(members.max()) for members in groups if len(members)), default=0)
        rankings = {
            arm: [rank_classes(each.logits, each.labels, classes) for each in runs] for arm, runs in predictions.items()
        }
        boxes = np.stack([ranking.counts for ranking in rankings[reference][0]]) > 0  # [C, N]
        precisions = {
            arm: np.mean([[each.precisions.mean() for each in run] for run in runs], axis=0)
            for arm, runs in rankings.items()
        }
        drawn = resampled_precisions(rankings, boxes.shape[1])
        return compare_groups(groups, boxes.T, precisions, drawn, candidate, reference)


DETECTION = Detection()


def pad_boxes(boxes: Sequence[np.ndarray | None], sizes: np.ndarray) -> np.ndarray:
    """Return boxes in shares of the longer side, float32 [n, M, 5], filled up with class -1.

    A box whose class is not known has class -1 too, and its corners. NaN where None, and where no class is known.

    Args:
        boxes: class and corners in pixels of each image, float32 [k, 5].
        sizes: width and height of each, int [n, 2].
    """
    most = max((len(each) for each in boxes if each is not None), default=0)
    padded = np.full((len(boxes), max(1, most), 5), -1, np.float32)
    for row, each, longer in zip(padded, boxes, sizes.max(axis=1, initial=1).tolist(), strict=True):
        if each is None or (len(each) and (each[:, 0] < 0).all()):
            row[:] = np.nan
        else:
            row[: len(each), 0] = each[:, 0]
            row[: len(each), 1:] = each[:, 1:] / longer
    return padded


def in_words(labels: Iterable[float], classes: Sequence[str]) -> str:
    """Return classes in words, with their numbers where there are several.

    >>> in_words([1, 0, 1], ["cat", "dog"]), in_words([], ["cat"])
    ('2 x dog, cat', 'none')
    """
    counts = Counter(int(label) for label in labels)
    named = [(classes[label], count) for label, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in named) or "none"


def _unpacked(logits: np.ndarray) -> np.ndarray:
    """Return what the model gives [N, K * 6] as detections [N, K, 6]."""
    return logits.reshape(len(logits), -1, COLUMNS)
