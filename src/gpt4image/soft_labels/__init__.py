"""Soft labels for training images: from the vectors of their texts, cross-fitted, or from a stronger classifier."""

from gpt4image.probing.calibration import LabelQuality
from gpt4image.probing.cross_fit import CrossFit, cross_fit
from gpt4image.soft_labels.labeller import label_by_vectors, labels_there
from gpt4image.soft_labels.report import ComparedEncoder, LabelAccount, account_for, judge_encoders, write_doubts
from gpt4image.soft_labels.store import LabelManifest, LabelOrigin, LabelSource, SoftLabels, write_soft_labels

__all__ = [
    "ComparedEncoder",
    "CrossFit",
    "LabelAccount",
    "LabelManifest",
    "LabelOrigin",
    "LabelQuality",
    "LabelSource",
    "SoftLabels",
    "account_for",
    "cross_fit",
    "judge_encoders",
    "label_by_vectors",
    "labels_there",
    "write_doubts",
    "write_soft_labels",
]
