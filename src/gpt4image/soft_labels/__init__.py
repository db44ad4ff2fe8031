"""Soft labels for training images: from a cross-fitted classifier on their texts, or from a stronger classifier."""

from gpt4image.soft_labels.labeller import existing_labels, label_by_vectors
from gpt4image.soft_labels.report import (
    ComparedEncoder,
    LabelIssue,
    LabelReport,
    compare_encoders,
    report_labels,
    write_label_issues,
)
from gpt4image.soft_labels.store import LabelManifest, LabelOrigin, LabelSource, SoftLabels, write_soft_labels

__all__ = [
    "ComparedEncoder",
    "LabelIssue",
    "LabelManifest",
    "LabelOrigin",
    "LabelReport",
    "LabelSource",
    "SoftLabels",
    "compare_encoders",
    "existing_labels",
    "label_by_vectors",
    "report_labels",
    "write_label_issues",
    "write_soft_labels",
]
