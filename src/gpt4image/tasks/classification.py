"""Classification: an image has one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor

from gpt4image.align.mixing import label_targets
from gpt4image.core.errors import ConfigError
from gpt4image.images.table import ImageTable
from gpt4image.probing.calibration import ReliabilityBin, measure_classifier, reliability_bins
from gpt4image.probing.intervals import exact_paired_test, small_sample_interval, wilson_interval
from gpt4image.tasks.settings import LabelSettings
from gpt4image.tasks.task import ClassComparison, Predictions, Task


@dataclass(frozen=True)
class ClassPredictions(Predictions):
    """Predictions of one class an image; `labels` are the true classes, int64 [N]."""

    @property
    def classes(self) -> np.ndarray:
        """Predicted classes, int64 [N]."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def correct(self) -> np.ndarray:
        """Which predictions are correct, bool [N]."""
        return np.asarray(self.classes == self.labels)

    @property
    def scores(self) -> np.ndarray:
        """1 for a correct prediction, 0 for a wrong one, float64 [N]."""
        return self.correct.astype(np.float64)

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each class, float64 [N, C]."""
        return np.asarray(softmax(self.logits.astype(np.float64), axis=1))

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted classes, float64 [N]."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def plausibility(self) -> np.ndarray:
        """Probability of the true classes, float64 [N]."""
        return np.asarray(self.probabilities[np.arange(len(self.labels)), self.labels])

    @property
    def confusion(self) -> np.ndarray:
        """Number of images of class i predicted as class j, int64 [C, C]."""
        from sklearn.metrics import confusion_matrix

        matrix: np.ndarray = confusion_matrix(self.labels, self.classes, labels=range(self.logits.shape[1]))
        return matrix

    def answers(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return the predicted class of each image and its probability."""
        pairs = zip(self.classes.tolist(), self.confidence.tolist(), strict=True)
        return [(classes[label], confidence) for label, confidence in pairs]

    def truths(self, classes: Sequence[str]) -> list[str]:
        """Return the true class of each image."""
        return [classes[label] for label in self.labels.tolist()]

    def measure(self) -> dict[str, Any]:
        """Return the metrics of `probing.calibration.ClassifierMetrics`."""
        return measure_classifier(self.logits, self.labels).model_dump()


class Classification(Task):
    """One class an image, learned by cross-entropy and judged by accuracy."""

    name, score, class_score, one_class = "classification", "accuracy", "accuracy", True

    def check(self, settings: LabelSettings, smoothing: float) -> None:
        """Raise ConfigError for a loss for several labels."""
        if settings.label_loss == "asymmetric":
            raise ConfigError(
                "label_loss asymmetric needs images with several labels, but these have one class each: set "
                "label_loss to cross-entropy or gce (--label-loss)."
            )

    def labels(self, images: ImageTable, rows: np.ndarray) -> np.ndarray:
        """Return the classes of some images, int64 [n]; -1 for none."""
        return np.asarray(images.labels[rows].astype(np.int64))

    def truth(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return 1 for the class of each image, float64 [N, C]; all have one."""
        return np.asarray(np.eye(classes)[labels])

    def targets(self, labels: Tensor, soft: Tensor, classes: int, smoothing: float, soft_share: float) -> Tensor:
        """Return the probability of each class [B, C], after Hinton et al., arXiv 1503.02531, section 2.

        An image with both labels gets (1 - share) x smoothed label + share x soft label, one without a soft label its
        smoothed label, and one without a label share x soft label. Rows of images with neither are zero.
        """
        hard = label_targets(labels, classes, smoothing)
        if not soft_share or not soft.shape[1]:
            return hard
        has_soft = (soft.sum(dim=1, keepdim=True) > 0).to(hard.dtype)
        return (1 - soft_share * has_soft) * hard + soft_share * soft

    def loss(self, logits: Tensor, targets: Tensor, settings: LabelSettings, prior: Tensor | None) -> Tensor:
        """Return the cross-entropy or its generalisation, weighted and adjusted for skewed classes if so set."""
        if prior is not None:
            prior = prior.to(logits.device)
            if settings.logit_adjustment == "loss":
                logits = adjust_logits(logits, prior, -settings.adjustment_strength)
            if settings.class_weights == "balanced":
                targets = targets / (len(prior) * prior)
        if settings.label_loss == "gce":
            return gce_loss(logits, targets, settings.gce_q)
        return target_entropy(logits, targets)

    def adjusted(self, logits: Tensor, prior: Tensor | None, settings: LabelSettings) -> Tensor:
        """Return logits [N, C], adjusted by the classes' shares if that is to happen after training."""
        if prior is None or settings.logit_adjustment != "post-hoc":
            return logits
        return adjust_logits(logits, prior.to(logits), settings.adjustment_strength)

    def validation_score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the accuracy, or the expected accuracy if the labels are probabilities."""
        predicted = torch.from_numpy(logits).argmax(dim=1)
        return float(torch.from_numpy(targets).gather(1, predicted[:, None]).mean())

    def predictions(
        self, rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, thresholds: Sequence[float] = ()
    ) -> ClassPredictions:
        """Return predictions of one class an image."""
        return ClassPredictions(rows, labels, logits)

    def compare_classes(
        self,
        predictions: Mapping[str, Sequence[Predictions]],
        candidate: str,
        reference: str,
        groups: Sequence[np.ndarray],
    ) -> list[ClassComparison]:
        """Compare the accuracies on the test images of each group of classes."""
        right = {arm: np.stack([each.scores for each in runs]) for arm, runs in predictions.items()}  # [S, N]
        differences = right[candidate] - right[reference]
        labels = predictions[reference][0].labels
        return [compare_images(np.isin(labels, members), right, differences) for members in groups]

    def reliability(self, predictions: Sequence[Predictions]) -> list[ReliabilityBin]:
        """Return how often predictions of similar confidence are correct."""
        found = [each for each in predictions if isinstance(each, ClassPredictions)]
        return reliability_bins(
            np.concatenate([each.confidence for each in found]), np.concatenate([each.correct for each in found])
        )


class ClipClassification(Classification):
    """One class a clip, learned by models that see several frames."""

    name, family = "clip-classification", "clips"


CLASSIFICATION, CLIP_CLASSIFICATION = Classification(), ClipClassification()


def compare_images(chosen: np.ndarray, right: Mapping[str, np.ndarray], differences: np.ndarray) -> ClassComparison:
    """Compare the arms' predictions for some test images.

    Args:
        chosen: the test images, bool [N].
        right: correct predictions of each arm, float [S, N].
        differences: of candidate and reference, float [S, N].
    """
    count = int(chosen.sum())
    accuracy = {arm: float(rows[:, chosen].mean()) if count else None for arm, rows in right.items()}
    intervals = {arm: wilson_interval(mean, count) for arm, mean in accuracy.items() if mean is not None}
    low, high = small_sample_interval(differences[:, chosen]) if count > 1 else (None, None)
    return ClassComparison(
        test_images=count,
        accuracy=accuracy,
        intervals={arm: (found.low, found.high) for arm, found in intervals.items()},
        difference=float(differences[:, chosen].mean()) if count else None,
        low=low,
        high=high,
        p_value=exact_paired_test(differences[:, chosen]) if count and is_binary(differences[:, chosen]) else None,
    )


def is_binary(differences: np.ndarray) -> bool:
    """Whether differences of scores are those of right and wrong predictions: -1, 0 or 1."""
    return bool((differences == np.rint(differences)).all())


def target_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return sum_i -sum_k t_ik log p_ik of logits and targets [B, C], a scalar."""
    return -(targets * logits.log_softmax(dim=1)).sum()


def gce_loss(logits: Tensor, targets: Tensor, q: float) -> Tensor:
    """Return the generalised cross-entropy sum_i sum_k t_ik (1 - p_ik^q) / q (Zhang and Sabuncu, arXiv 1805.07836).

    That is their equation 6, weighted by targets that may be mixed or soft. It is bounded, so a label that the model
    finds impossible has little influence.

    Args:
        logits: [B, C].
        targets: [B, C].
        q: exponent, above 0 and at most 1.
    """
    return (targets * (1 - (q * logits.log_softmax(dim=1)).exp()) / q).sum()


def adjust_logits(logits: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Return logits [B, C] - strength log prior [C] (Menon et al., arXiv 2007.07314).

    A strength of tau adjusts the answers after training (their equation 9); -tau inside the cross-entropy trains a
    model whose plain answers are balanced (equation 10).
    """
    return logits - strength * prior.log()


def consistency_loss(weak: Tensor, strong: Tensor, threshold: float) -> Tensor:
    """Return FixMatch's loss on unlabelled images, a sum (Sohn et al., arXiv 2001.07685, equation 4).

    A confident prediction for the weakly augmented view is the label of the strongly augmented one.

    Args:
        weak: logits [U, C]; no gradient flows through them.
        strong: logits of the same images [U, C].
        threshold: minimum probability of a prediction.
    """
    surest, labels = weak.detach().softmax(dim=1).max(dim=1)
    return (F.cross_entropy(strong, labels, reduction="none") * (surest >= threshold)).sum()
