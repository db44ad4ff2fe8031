"""Soft labels for training images: from the vectors of their texts, cross-fitted, or from a stronger classifier."""

from gpt4image.labelling.account import LabelAccount, account_for, write_doubts
from gpt4image.labelling.crossfit import CrossFit, cross_fit
from gpt4image.labelling.encoders import ComparedEncoder, judge_encoders
from gpt4image.labelling.labeller import label_by_vectors, labels_there
from gpt4image.labelling.records import LabelManifest, LabelOrigin, LabelQuality, LabelSource
from gpt4image.labelling.soft_labels import SoftLabels
from gpt4image.labelling.writing import write_soft_labels

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
