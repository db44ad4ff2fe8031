"""Recipe settings for labels that are few, wrong or skewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from gpt4image.core.validation import NotNegative, Positive


@dataclass(frozen=True)
class LabelSettings:
    """Loss and sampling of labels, and learning without labels."""

    label_weight: Positive = 1.0
    """Weight of the label loss. It matters relative to the weight of the alignment, and for gradient clipping."""
    labels_from: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the training, at its start, in which the alignment trains the model without the labels. The labels then
    start with their own learning rate schedule."""
    self_supervised: Literal["none", "simsiam", "dino"] = "none"
    """Self-supervised loss between two views of each image. It trains the model before labels_from, alone or together
    with the alignment. Mixup and CutMix are off during this time."""
    self_supervised_weight: Positive = 1.0
    """Weight of the self-supervised loss."""
    label_loss: Literal["cross-entropy", "gce", "asymmetric"] = "cross-entropy"
    """Loss of the labels. cross-entropy (binary if images have several labels); gce: generalised cross-entropy, which
    is more robust to wrong labels; asymmetric: for several labels, ignores absent labels that are easy to recognise."""
    gce_q: Annotated[float, Interval(gt=0, le=1)] = 0.7
    """Exponent of the generalised cross-entropy. Near 0 the loss approaches the cross-entropy; at 1 it is the mean
    absolute error."""
    asymmetric_present: NotNegative = 0.0
    """Exponent of the asymmetric loss for labels that are present. Above 0, labels that are easy to recognise count
    less."""
    asymmetric_absent: NotNegative = 4.0
    """Exponent of the asymmetric loss for labels that are absent."""
    asymmetric_margin: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    """Probability up to which the asymmetric loss ignores absent labels."""
    logit_adjustment: Literal["none", "loss", "post-hoc"] = "none"
    """For skewed classes: adjust the logits by the logarithm of the classes' shares, in the loss or after training
    (post-hoc)."""
    adjustment_strength: NotNegative = 1.0
    """Factor of the logit adjustment."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight labels by the inverse share of their class, so that all classes have the same total weight."""
    class_sampling: Literal["natural", "balanced"] = "natural"
    """Sample labelled images as they occur, or equally many of each class."""
    consistency: NotNegative = 0.0
    """Weight of FixMatch's loss on images without a label; 0 disables it."""
    consistency_threshold: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    """Probability from which the model's prediction for an image serves as the label of its strongly augmented view."""
    strong_augment: str = "rand-m10-n2-mstd101-inc1"
    """Augmentation policy of the strong view in timm's notation. A rectangle is erased as well."""
