"""Segmentation: the class of each pixel.

Labels of some images are an object array [n] of `MaskLabel`, None where nothing is known, since pictures differ in
size. In a batch they are float32 [B, S * S + 5 * M]: the class of each pixel of the input, then its regions' boxes as
`tasks.detection` has them; NaN for pixels of which nothing is known of an image at all. What a model says of an image
is uint8 [S * S + 1]: the class of each pixel, and how sure it is of them on average, in 255ths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt4image.images.masks import VOID, decode_mask
from gpt4image.images.table import ImageTable
from gpt4image.tasks.detection import GIVEN, SHOWN, OfObjects, pad_boxes
from gpt4image.tasks.label_metrics import compare_groups
from gpt4image.tasks.mask_metrics import ClassSums, class_ious, image_ious, mean_iou, resampled_ious, sum_classes
from gpt4image.tasks.task import ClassComparison, Predictions

if TYPE_CHECKING:
    from PIL import Image

LEAST_SHOWN = 0.01  # smallest share of the known pixels for which a class is named
LEAST_IOU = 0.5  # smallest IoU of every class in an image that counts as right


class MaskLabel(NamedTuple):
    """What is known of an image: its mask as PNG, and its regions as `pad_boxes` returns boxes, float32 [m, 5]."""

    mask: bytes
    boxes: np.ndarray


def square_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Return a mask [H, W] padded at its right and bottom to a square and resized, uint8 [S, S]; padding is void."""
    from PIL import Image

    side = max(mask.shape)
    square = np.full((side, side), VOID, np.uint8)
    square[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.NEAREST))  # exactly as in torch


def true_masks(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the masks of labelled images as a model's input has them, uint8 [N, S * S].

    Args:
        labels: object array [N].
        logits: what the model says of them [N, S * S + 1].
    """
    size = math.isqrt(logits.shape[1])
    found = [square_mask(decode_mask(label.mask), size).ravel() for label in labels]
    return np.stack(found) if found else np.zeros((0, size * size), np.uint8)


@dataclass(frozen=True)
class MaskPredictions(Predictions):
    """Masks of some images: `logits` are uint8 [N, S * S + 1], `labels` an object array [N] of `MaskLabel`."""

    @cached_property
    def truth(self) -> np.ndarray:
        """The true masks, uint8 [N, S * S]."""
        return true_masks(self.labels, self.logits)

    @property
    def predicted(self) -> np.ndarray:
        """The predicted masks, uint8 [N, S * S]."""
        return self.logits[:, :-1]

    @property
    def classes(self) -> int:
        """One more than the largest class that occurs."""
        return 1 + int(max(self.predicted.max(initial=0), np.where(self.truth == VOID, 0, self.truth).max(initial=0)))

    def sums(self, classes: int) -> ClassSums:
        """Return the sums that intersections over unions are made of, for a number of classes."""
        return sum_classes(self.predicted, self.truth, classes)

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean IoU of each image, float64 [N]."""
        return image_ious(self.sums(self.classes))

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether every class of an image has an IoU of one half or more, bool [N]."""
        sums = self.sums(self.classes)
        return np.asarray(((sums.both >= LEAST_IOU * sums.unions) | (sums.given == 0)).all(axis=1))

    @property
    def plausibility(self) -> np.ndarray:
        """Mean IoU of each image."""
        return self.scores

    def answers(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return the classes of each image with their shares, and the mean probability of the pixels' classes."""
        known = self.truth != VOID
        shares = (in_shares(own[there], classes) for own, there in zip(self.predicted, known, strict=True))
        return [(words, sure / 255) for words, sure in zip(shares, self.logits[:, -1].tolist(), strict=True)]

    def truths(self, classes: Sequence[str]) -> list[str]:
        """Return the classes of each image with their shares of the known pixels."""
        return [in_shares(own[own != VOID], classes) for own in self.truth]

    def measure(self) -> dict[str, Any]:
        """Return the mean IoU over the classes and the share of right pixels beside the mean of the scores."""
        mean, right = mean_iou(self.sums(self.classes))
        return {"accuracy": float(self.scores.mean()), "mean_iou": mean, "pixel_accuracy": right}

    def drawn_on(self, picture: Image.Image, at: int) -> Image.Image:
        """Return a copy of a picture with the edges of the given mask in `GIVEN`, of the predicted one in `SHOWN`."""
        from PIL import Image, ImageColor
        from scipy.ndimage import maximum_filter

        size, longer = math.isqrt(self.logits.shape[1]), max(picture.size)
        drawn = picture.copy()
        for mask, colour in ((self.truth[at], GIVEN), (self.predicted[at], SHOWN)):
            square = Image.fromarray(mask.reshape(size, size)).resize((longer, longer), Image.Resampling.NEAREST)
            pixels = np.asarray(square)[: picture.height, : picture.width]
            edges = np.zeros(pixels.shape, dtype=bool)
            edges[:, 1:] |= pixels[:, 1:] != pixels[:, :-1]
            edges[1:] |= pixels[1:] != pixels[:-1]
            thick = maximum_filter(edges, 1 + 2 * (longer // 180))
            drawn.paste(ImageColor.getrgb(colour), (0, 0), Image.fromarray(thick.astype(np.uint8) * 255))
        return drawn


class Segmentation(OfObjects):
    """Masks, learned by the cross-entropy of their pixels and judged by the intersection over union."""

    name, score, class_score = "segmentation", "mean IoU per image", "IoU"
    family, objects = "segmenter", "masks"

    def labels(self, images: ImageTable, rows: np.ndarray) -> np.ndarray:
        """Return the masks and regions of some images, object [n]."""
        found = np.full(len(rows), None, dtype=object)
        for at, (mask, boxes, size) in enumerate(
            zip(images.masks(rows), images.boxes(rows), images.sizes(rows), strict=True)
        ):
            if mask is not None:
                found[at] = MaskLabel(mask, pad_boxes([boxes], size[None])[0])
        return found

    def validation_score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean IoU per image."""
        return float(self.predictions(np.arange(len(targets)), targets, logits).scores.mean())

    def predictions(
        self, rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, thresholds: Sequence[float] = ()
    ) -> MaskPredictions:
        """Return masks to be judged; there are no thresholds."""
        return MaskPredictions(rows, labels, logits)

    def compare_classes(
        self,
        predictions: Mapping[str, Sequence[Predictions]],
        candidate: str,
        reference: str,
        groups: Sequence[np.ndarray],
    ) -> list[ClassComparison]:
        """Compare the IoU of classes, or their means over groups, with bootstrap intervals."""
        classes = 1 + max((int(members.max()) for members in groups if len(members)), default=0)
        sums = {
            arm: [each.sums(classes) for each in runs if isinstance(each, MaskPredictions)]
            for arm, runs in predictions.items()
        }
        ious = {arm: np.mean([class_ious(run) for run in runs], axis=0) for arm, runs in sums.items()}
        return compare_groups(groups, sums[reference][0].given > 0, ious, resampled_ious(sums), candidate, reference)


SEGMENTATION = Segmentation()


def in_shares(pixels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the classes of pixels [n] in words, the largest first.

    >>> in_shares(np.array([1, 1, 1, 0]), ["background", "dog"])
    'dog 75%, background 25%'
    """
    counts = np.bincount(pixels, minlength=len(classes))[: len(classes)] / max(len(pixels), 1)
    order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label] >= LEAST_SHOWN]
    return ", ".join(f"{classes[label]} {counts[label]:.0%}" for label in order) or "none"
