"""The method inside other trainers: plain torch, Lightning, transformers and fastai.

`text_targets` joins descriptions to a dataset, `TextAlignment` adds their loss to a training step, `text_labels` makes
labels of them where labels are missing or wrong; the other modules attach these to one trainer each.
"""

from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.labels import TextLabels, soft_cross_entropy, text_labels
from gpt4image.integrations.targets import TextTargets, text_targets

__all__ = ["TextAlignment", "TextLabels", "TextTargets", "soft_cross_entropy", "text_labels", "text_targets"]
