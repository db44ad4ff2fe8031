"""RT-DETR of transformers, with the interface that torchvision's detectors have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from gpt4image.core.errors import ConfigError

WIDTH = 256  # channels of its encoder
MOST_QUERIES = 300  # as published; no more than there are positions
LEAST_LEVELS = 2  # maps that its encoder joins


class Paired(nn.Module):
    """Takes the place of RT-DETR's backbone: returns the given maps, each with a mask of the area without padding.

    Args:
        given: returns the maps.
    """

    def __init__(self, given: nn.Module) -> None:
        super().__init__()
        self.given = given

    def forward(self, pixels: Tensor, _: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of the images [B, 3, S, S], and their masks."""
        maps: dict[str, Tensor] = self.given(pixels)
        return [(each, torch.ones_like(each[:, 0], dtype=torch.bool)) for each in maps.values()]


class RtDetr(nn.Module):
    """RT-DETR (Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", arXiv 2304.08069) without its backbone.

    Args:
        given: returns the maps of the images that are seen; `backbone` here.
        channels: channels of the maps, the largest map first.
        strides: their strides in pixels.
        classes: number of classes C.
        size: side of an input S.
        detections: most detections an image.

    Raises:
        ConfigError: there are too few maps.
    """

    def __init__(
        self,
        given: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        size: int,
        detections: int,
    ) -> None:
        from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

        super().__init__()
        count = len(channels)
        if count < LEAST_LEVELS:
            raise ConfigError(
                "rt-detr needs maps of several sizes, but this backbone has only one: choose a convolutional one, "
                "such as resnet50, or another detector (--backbone)."
            )
        positions = sum((size // stride) ** 2 for stride in strides)
        smallest: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8] * count, "depths": [1] * count}
        options: dict[str, Any] = {"num_labels": classes}  # of the base class
        config = RTDetrConfig(
            backbone_config=RTDetrResNetConfig(**smallest, layer_type="basic"),  # replaced below
            encoder_in_channels=[WIDTH] * count,
            feat_strides=list(strides),
            encode_proj_layers=[count - 1],
            decoder_in_channels=[WIDTH] * count,
            num_feature_levels=count,
            num_queries=min(MOST_QUERIES, positions),
            **options,
        )
        model = RTDetrForObjectDetection(config)
        model.model.backbone = Paired(given)
        model.model.encoder_input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, WIDTH, kernel_size=1, bias=False), nn.BatchNorm2d(WIDTH))
            for width in channels
        )
        self.backbone, self.model = given, model
        self._classes, self._size, self._detections = classes, size, detections

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:  # noqa: ANN401
        """Return the loss, or detections, as torchvision's detectors do.

        Args:
            images: B images [3, S, S].
            targets: `boxes` [m, 4] in pixels and `labels` int64 [m] of each.

        Returns:
            A dictionary of losses, each a mean over the images, or for each image `boxes`, `labels` and `scores`.
        """
        pixels = torch.stack(images)
        if targets is None:
            found = self.model(pixel_values=pixels)
            return self._best(found.logits.float(), found.pred_boxes.float())
        labels = [
            {
                "class_labels": each["labels"],
                "boxes": box_convert(each["boxes"] / self._size, "xyxy", "cxcywh"),
            }
            for each in targets
        ]
        return {"loss": self.model(pixel_values=pixels, labels=labels).loss}

    def _best(self, logits: Tensor, boxes: Tensor) -> list[dict[str, Tensor]]:
        """Return the surest pairs of query and class, from logits [B, Q, C] and boxes [B, Q, 4], centre and size."""
        most = min(self._detections, logits.shape[1] * self._classes)
        scores, at = logits.sigmoid().flatten(1).topk(most, dim=1)
        corners = box_convert(boxes, "cxcywh", "xyxy") * self._size
        queries = (at // self._classes)[:, :, None].expand(-1, -1, 4)
        chosen = corners.gather(1, queries)
        triples = zip(chosen, at % self._classes, scores, strict=True)
        return [{"boxes": box, "labels": label, "scores": score} for box, label, score in triples]
