"""Recipe settings for labels that are few, wrong or skewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from gpt4image.core.validation import NotNegative, Positive


@dataclass(frozen=True)
class LabelSettings:
    """Loss and sampling for wrong labels and skewed classes, and consistency on images without a label."""

    label_weight: Positive = 1.0
    """Weight of the label loss; it matters beside a weight of the alignment and to gradient clipping."""
    labels_from: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the training in which the alignment trains the model without the labels, before these take part with a
    learning rate schedule of their own."""
    self_supervised: Literal["none", "simsiam", "dino"] = "none"
    """Self-supervised loss between two views of each image that trains the model before labels_from, beside the
    alignment or alone. Images are not mixed meanwhile."""
    self_supervised_weight: Positive = 1.0
    """Weight of that loss."""
    label_loss: Literal["cross-entropy", "gce", "asymmetric"] = "cross-entropy"
    """Loss of the labels: cross-entropy (binary where images have several labels), generalised cross-entropy, which
    wrong labels disturb less, or for several labels the asymmetric loss, which ignores easy absent ones."""
    gce_q: Annotated[float, Interval(gt=0, le=1)] = 0.7
    """Exponent of the generalised cross-entropy: near 0 it is the cross-entropy, at 1 the mean absolute error."""
    asymmetric_present: NotNegative = 0.0
    """Exponent of the asymmetric loss for labels that are present; above 0, those that are easily seen count less."""
    asymmetric_absent: NotNegative = 4.0
    """The same for labels that are absent."""
    asymmetric_margin: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    """Probability up to which the asymmetric loss takes no notice of absent labels."""
    logit_adjustment: Literal["none", "loss", "post-hoc"] = "none"
    """For skewed classes: adjust the logits by the logarithm of the classes' shares, in the loss or after training."""
    adjustment_strength: NotNegative = 1.0
    """Factor of that logarithm."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight labels by the inverse share of their class, so that all classes weigh as much."""
    class_sampling: Literal["natural", "balanced"] = "natural"
    """Sample labelled images as they are, or as many of each class."""
    consistency: NotNegative = 0.0
    """Weight of FixMatch's loss on images without a label; 0 disables it."""
    consistency_threshold: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    """Probability from which the model's own answer for an image is a label for its strongly augmented view."""
    strong_augment: str = "rand-m10-n2-mstd101-inc1"
    """Policy of that view in timm's notation; a rectangle is erased as well."""
