"""Feature maps of a timm backbone for detectors and segmentation heads, and their alignment.

Sizes: B images, M boxes an image, F channels of the deepest map, S the side of an input in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from gpt4image.core.errors import ConfigError, first_line

LEAST_STRIDE = {"faster-rcnn": 4, "ssdlite": 16, "segformer": 4}  # of the maps in use; 8 for the others
STEP = 32  # an input's side is a multiple of this many pixels: the largest stride of a backbone
REGION_CELLS = 3  # height and width of the grid by which a region is pooled

Maps = OrderedDict[str, Tensor]


class Level(NamedTuple):
    """One of a backbone's maps: its number among them, channels, and stride in pixels."""

    number: int
    channels: int
    stride: int


class Shared(nn.Module):
    """The deepest map [B, F, h, w] passes here unchanged: what the detector and the alignment share."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the map."""
        return features


class Regions(nn.Module):
    """Features of the boxes in images: means over the deepest map by RoIAlign (He et al., arXiv 1703.06870, section 3).

    Args:
        stride: stride of the map in pixels.
        size: side of an input S.
    """

    def __init__(self, stride: int, size: int) -> None:
        super().__init__()
        self.wanted = False  # whether a head reads them
        self._scale, self._size = 1 / stride, size

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """Return a feature for each row of the boxes [B * M, F], which means nothing where there is no box.

        Args:
            features: the map [B, F, h, w].
            boxes: [B, M, 5] as `tasks.detection` has them; None for whole images, M = 1.
        """
        if boxes is None:
            return features.mean(dim=(2, 3))
        count, most = boxes.shape[:2]
        images = torch.arange(count, device=boxes.device).repeat_interleave(most)
        corners = boxes[..., 1:].reshape(-1, 4).nan_to_num(0).clamp(min=0) * self._size
        rois = torch.cat([images[:, None].to(corners), corners], dim=1).to(features)
        cells: Tensor = roi_align(features, rois, REGION_CELLS, self._scale, sampling_ratio=2, aligned=True)
        return cells.mean(dim=(2, 3))


class OnBackbone(nn.Module):
    """A model on the maps of a timm model, whose deepest map can be aligned, as can boxes in it.

    The backbone comes first and alone, so that this is so for all images, also those of which no label is known.

    Args:
        body: a timm model without its classifier.
        levels: the maps of it that are used.
        size: side of an input S.
    """

    def __init__(self, body: nn.Module, levels: Sequence[Level], size: int) -> None:
        super().__init__()
        self.body, self.shared, self.regions = body, Shared(), Regions(levels[-1].stride, size)
        self.pretrained_cfg: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment] # its preprocessing
        self.size, self._indices = size, [level.number for level in levels]

    def body_maps(self, images: Tensor, boxes: Tensor | None = None) -> Maps:
        """Return the maps of images [B, 3, S, S], the largest first; the boxes in them are those of `Regions`."""
        found: list[Tensor] = self.body.forward_intermediates(  # type: ignore[operator] # timm's
            images, indices=self._indices, stop_early=True, intermediates_only=True
        )
        shared = [*found[:-1], self.shared(found[-1])]
        if self.regions.wanted:
            self.regions(shared[-1], boxes)  # a head captures them
        return OrderedDict((str(number), each) for number, each in enumerate(shared))

    def get_classifier(self) -> nn.Module:
        """Return the module whose input is aligned, under timm's name for it."""
        return self.shared

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are not decayed."""
        named: set[str] = getattr(self.body, "no_weight_decay", set)()
        return {f"body.{name}" for name in named}


@torch.no_grad()
def find_levels(body: nn.Module, name: str, kind: str, size: int) -> list[Level]:
    """Return the maps of a timm model that are used: the deepest of each stride.

    Args:
        body: the model.
        name: its name, for messages.
        kind: what looks at them, such as a detector.
        size: side of an input S.

    Raises:
        ConfigError: the model gives no maps of its stages, or takes no images of this size.
    """
    if size % STEP:
        down, up = size // STEP * STEP, -(-size // STEP) * STEP
        raise ConfigError(
            f"With {kind}, image_size must be a multiple of {STEP}, which {size} is not: choose {down or up} or {up} "
            "(--image-size)."
        )
    if not hasattr(body, "forward_intermediates"):
        raise ConfigError(
            f"{name} does not provide the maps of its stages (forward_intermediates) that {kind} needs. Choose "
            "another backbone, such as resnet50, mobilenetv3_large_100 or convnext_tiny."
        )
    training = body.training
    try:
        maps: list[Tensor] = body.eval().forward_intermediates(  # type: ignore[operator]
            torch.zeros(1, 3, size, size), intermediates_only=True
        )
    except Exception as error:  # asserts, shapes, divisions by zero: each architecture raises its own errors
        raise ConfigError(
            f"{name} does not accept images of {size} x {size} pixels ({first_line(error)}). Choose another image "
            "size or backbone (--image-size, --backbone)."
        ) from None
    finally:
        body.train(training)
    found: dict[int, Level] = {}
    for index, level in enumerate(maps):
        stride = size // max(1, level.shape[-1])
        if LEAST_STRIDE.get(kind, 8) <= stride <= STEP:
            found[stride] = Level(index, level.shape[1], stride)
    if not found:
        raise ConfigError(f"{name} has no map of a stride from {LEAST_STRIDE.get(kind, 8)} to {STEP} pixels.")
    return sorted(found.values())
