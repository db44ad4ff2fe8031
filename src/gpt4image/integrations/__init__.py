"""Descriptions in other trainers: plain torch, Lightning, transformers and fastai.

`text_targets` joins descriptions to a dataset, `TextAlignment` adds the alignment loss to a training step, and
`text_labels` makes labels from descriptions where labels are missing or wrong. Each of the other modules attaches these
to one trainer.
"""

from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.labels import TextLabels, soft_cross_entropy, text_labels
from gpt4image.integrations.targets import TextTargets, text_targets

__all__ = ["TextAlignment", "TextLabels", "TextTargets", "soft_cross_entropy", "text_labels", "text_targets"]
