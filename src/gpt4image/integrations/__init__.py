"""The method inside other trainers: plain torch, Lightning, transformers and fastai.

`text_targets` joins descriptions to a dataset, `TextAlignment` adds their loss to a training step; the other modules
attach the two to one trainer each.
"""

from gpt4image.integrations.alignment import TextAlignment
from gpt4image.integrations.targets import TextTargets, text_targets

__all__ = ["TextAlignment", "TextTargets", "text_targets"]
