"""Labels from texts or a stronger classifier: soft labels to mix in, and text labels in place of the given ones."""

from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.soft_labels.labeller import existing_labels, label_by_vectors
from gpt4image.soft_labels.report import (
    ComparedEncoder,
    LabelIssue,
    LabelReport,
    compare_encoders,
    describe_text_labels,
    report_labels,
    summarise_text_labels,
    write_label_issues,
)
from gpt4image.soft_labels.store import (
    LabelEstimate,
    LabelManifest,
    LabelOrigin,
    LabelSource,
    SoftLabels,
    write_soft_labels,
)
from gpt4image.soft_labels.text_labels import label_by_texts

__all__ = [
    "ClassTexts",
    "ComparedEncoder",
    "LabelEstimate",
    "LabelIssue",
    "LabelManifest",
    "LabelOrigin",
    "LabelReport",
    "LabelSource",
    "SoftLabels",
    "compare_encoders",
    "describe_text_labels",
    "existing_labels",
    "label_by_texts",
    "label_by_vectors",
    "report_labels",
    "summarise_text_labels",
    "write_label_issues",
    "write_soft_labels",
]
