"""Several labels an image: each class is present, absent or unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from gpt4image.core.errors import ConfigError
from gpt4image.images.table import ImageTable
from gpt4image.tasks.label_metrics import (
    choose,
    class_precisions,
    compare_groups,
    f1_scores,
    fit_thresholds,
    image_precision,
    label_likelihood,
    resampled_precisions,
)
from gpt4image.tasks.settings import LabelSettings
from gpt4image.tasks.task import ClassComparison, Predictions, Task

TINY = 1e-8


@dataclass(frozen=True)
class LabelSetPredictions(Predictions):
    """Predictions of any number of labels; `labels` are int8 [N, C]: 1 present, 0 absent, -1 unknown.

    Attributes:
        thresholds: probability from which each class is predicted, float64 [C].
    """

    thresholds: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """Predicted labels, bool [N, C]."""
        return choose(self.logits, self.thresholds)

    @property
    def scores(self) -> np.ndarray:
        """Average precision of each image, float64 [N]."""
        return image_precision(self.logits, self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether exactly the labels of an image are predicted, as far as they are known, bool [N]."""
        return np.asarray(((self.chosen == (self.labels > 0)) | (self.labels < 0)).all(axis=1))

    @property
    def plausibility(self) -> np.ndarray:
        """Mean probability of what is true of the known classes, float64 [N]."""
        probabilities, known = expit(self.logits.astype(np.float64)), self.labels >= 0
        true = np.where(self.labels > 0, probabilities, 1 - probabilities) * known
        return np.asarray(true.sum(axis=1) / np.maximum(known.sum(axis=1), 1))

    def answers(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """Return the predicted labels of each image, and their mean probability, or that of having none."""
        probabilities, found = expit(self.logits.astype(np.float64)), []
        for row, chosen in zip(probabilities, self.chosen, strict=True):
            names = [classes[at] for at in np.flatnonzero(chosen).tolist()]
            found.append((", ".join(names) or "none", float(row[chosen].mean() if names else 1 - row.max())))
        return found

    def truths(self, classes: Sequence[str]) -> list[str]:
        """Return the labels of each image."""
        return [", ".join(classes[at] for at in np.flatnonzero(row > 0).tolist()) or "none" for row in self.labels]

    def measure(self) -> dict[str, Any]:
        """Return the mean average precision (mAP), F1 scores and likelihood beside the mean of the scores."""
        precisions = class_precisions(self.logits, self.labels)
        micro, macro = f1_scores(self.logits, self.labels, self.thresholds)
        return {
            "accuracy": float(self.scores.mean()),
            "mean_average_precision": float(np.nanmean(precisions)) if not np.isnan(precisions).all() else None,
            "micro_f1": micro,
            "macro_f1": macro,
            "negative_log_likelihood": label_likelihood(self.logits, self.labels),
        }


class MultiLabel(Task):
    """Any number of labels an image, learned by one binary loss a class and judged by the average precision."""

    name, score, class_score = "multi-label", "average precision per image", "average precision"

    def check(self, settings: LabelSettings, smoothing: float) -> None:
        """Raise ConfigError for settings that need one class an image."""
        for setting, idle in (
            ("logit_adjustment", "none"),
            ("class_weights", "none"),
            ("class_sampling", "natural"),
            ("consistency", 0.0),
        ):
            if getattr(settings, setting) != idle:
                option = f"--{setting.replace('_', '-')}"
                fix = idle if isinstance(idle, str) else f"{idle:g}"
                raise ConfigError(
                    f"{setting} ({option}) needs one class per image, but these have several labels: set it to {fix}."
                )
        if settings.label_loss == "gce":
            raise ConfigError(
                "label_loss gce (and the arm gce) needs one class per image: with several labels, set label_loss to "
                "cross-entropy or asymmetric (--label-loss)."
            )
        if settings.label_loss == "asymmetric" and smoothing:
            raise ConfigError(
                "label_loss (--label-loss) asymmetric ignores absent classes that are easy to recognise, but label "
                "smoothing would bring them back: set label_smoothing (--label-smoothing) to 0."
            )

    def labels(self, images: ImageTable, rows: np.ndarray) -> np.ndarray:
        """Return the labels of some images, int8 [n, C]: 1 present, 0 absent, -1 unknown."""
        return np.asarray(images.label_matrix[rows])

    def truth(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return 1 for labels that are present, 0 for absent and NaN for unknown ones, float64 [N, C]."""
        return np.where(labels < 0, np.nan, labels).astype(np.float64)

    def targets(self, labels: Tensor, soft: Tensor, classes: int, smoothing: float, soft_share: float) -> Tensor:
        """Return how much each class is present, then how much it is absent, [B, 2C]; zero where it is unknown.

        Both are smoothed as Szegedy et al., arXiv 1512.00567, section 7, do it for two classes.
        """
        known = (labels >= 0).float()
        present = (labels > 0).float() * (1 - smoothing) + smoothing / 2
        return torch.cat([present * known, (1 - present) * known], dim=1)

    def loss(self, logits: Tensor, targets: Tensor, settings: LabelSettings, prior: Tensor | None) -> Tensor:
        """Return the binary cross-entropy or the asymmetric loss, summed over known labels and images."""
        if settings.label_loss == "asymmetric":
            gammas = settings.asymmetric_present, settings.asymmetric_absent
            return asymmetric_loss(logits, targets, *gammas, settings.asymmetric_margin)
        return binary_entropy(logits, targets)

    def validation_score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean average precision per image."""
        return float(image_precision(logits, np.where(np.isnan(targets), -1, targets)).mean())

    def fit_thresholds(self, logits: np.ndarray, targets: np.ndarray) -> list[float]:
        """Return the probability from which predicting a class gives the highest F1 score, of each class."""
        return fit_thresholds(logits, np.where(np.isnan(targets), -1, targets))

    def predictions(
        self, rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, thresholds: Sequence[float] = ()
    ) -> LabelSetPredictions:
        """Return predictions of several labels; without thresholds those that are more probable than not."""
        return LabelSetPredictions(rows, labels, logits, np.array(thresholds or [0.5] * logits.shape[1]))

    def compare_classes(
        self,
        predictions: Mapping[str, Sequence[Predictions]],
        candidate: str,
        reference: str,
        groups: Sequence[np.ndarray],
    ) -> list[ClassComparison]:
        """Compare the average precisions of classes, or their means over groups, with bootstrap intervals."""
        marks = predictions[reference][0].labels
        logits = {arm: [each.logits for each in runs] for arm, runs in predictions.items()}
        precisions = {arm: np.mean([class_precisions(each, marks) for each in runs], 0) for arm, runs in logits.items()}
        drawn = resampled_precisions(logits, marks)
        return compare_groups(groups, marks > 0, precisions, drawn, candidate, reference)


MULTI_LABEL = MultiLabel()


def binary_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -sum_ik (t+_ik log p_ik + t-_ik log (1 - p_ik)), a scalar.

    Args:
        logits: [B, C].
        targets: how much each class is present, t+, then how much it is absent, t-, [B, 2C].
    """
    present, absent = targets.chunk(2, dim=1)
    return -(present * F.logsigmoid(logits) + absent * F.logsigmoid(-logits)).sum()


def asymmetric_loss(logits: Tensor, targets: Tensor, present: float, absent: float, margin: float) -> Tensor:
    """Return the asymmetric loss, a sum over images and classes (Ridnik et al., arXiv 2009.14119, equations 1, 5, 7).

    -(t+ (1 - p)^g+ log p + t- p_m^g- log (1 - p_m)) with p_m = max(p - m, 0).

    Args:
        logits: [B, C].
        targets: as for `binary_entropy`, [B, 2C].
        present: exponent g+ by which easy labels that are present count less.
        absent: exponent g- likewise of absent ones.
        margin: probability m up to which absent labels do not count at all.
    """
    there, away = targets.chunk(2, dim=1)
    probability = logits.sigmoid()
    shifted = (probability - margin).clamp(min=TINY)  # above 0: a power of 0 may have no gradient
    gained = (1 - probability).clamp(min=TINY) ** present * F.logsigmoid(logits)
    spared = shifted**absent * (1 - shifted).clamp(min=TINY).log()
    return -(there * gained + away * spared).sum()
