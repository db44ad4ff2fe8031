"""DETR and RT-DETR of transformers, with the interface that torchvision's detectors have.

Both answer a fixed number of queries. B images, Q queries, C classes, S the side of an input in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from gpt4image.core.errors import ConfigError

WIDTH = 256  # channels within their transformers
MOST_QUERIES = 300  # as published for RT-DETR, but at most the number of positions
LEAST_LEVELS = 2  # maps that RT-DETR's encoder joins


class Paired(nn.Module):
    """Takes the place of their backbone: returns the given maps, each with a mask of the area without padding.

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


class FromQueries(nn.Module, ABC):
    """A detector of transformers without its backbone.

    Args:
        given: returns the maps of the images that are seen; `backbone` here.
        model: the detector, which has its own small backbone in `model.backbone`.
        size: side of an input S.
        detections: most detections an image.
    """

    def __init__(self, given: nn.Module, model: Any, size: int, detections: int) -> None:  # noqa: ANN401
        super().__init__()
        model.model.backbone = Paired(given)
        self.backbone, self.model = given, model
        self._size, self._detections = size, detections

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
            scores, queries, classes = self.best(found.logits.float())
            corners = box_convert(found.pred_boxes.float(), "cxcywh", "xyxy") * self._size
            boxes = corners.gather(1, queries[:, :, None].expand(-1, -1, 4))
            triples = zip(boxes, classes, scores, strict=True)
            return [{"boxes": box, "labels": label, "scores": score} for box, label, score in triples]
        labels = [
            {
                "class_labels": each["labels"],
                "boxes": box_convert(each["boxes"] / self._size, "xyxy", "cxcywh"),
            }
            for each in targets
        ]
        return {"loss": self.loss(pixels, labels)}

    def loss(self, pixels: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
        """Return the loss of images [B, 3, S, S] with labels as transformers has them."""
        loss: Tensor = self.model(pixel_values=pixels, labels=labels).loss
        return loss

    @abstractmethod
    def best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, queries and classes [B, K] of the surest answers, in their order, from logits [B, Q, ...]."""


class Detr(FromQueries):
    """DETR (Carion et al., "End-to-End Object Detection with Transformers", arXiv 2005.12872), on the deepest map.

    Each query answers one class or that there is nothing; the loss is that of every layer of the decoder (section 3).

    Args:
        given: as above.
        channels: channels of the maps, the largest map first.
        classes: number of classes C.
        size: side of an input S.
        detections: most detections an image, and the number of queries.
    """

    def __init__(self, given: nn.Module, channels: Sequence[int], classes: int, size: int, detections: int) -> None:
        from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

        smallest = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")  # replaced
        options: dict[str, Any] = {"num_labels": classes}  # of the base class
        config = DetrConfig(backbone_config=smallest, num_queries=detections, **options)
        super().__init__(given, DetrForObjectDetection(config), size, detections)
        self.model.model.input_projection = nn.Conv2d(channels[-1], WIDTH, kernel_size=1)
        self._every_layer = DetrConfig(backbone_config=smallest, auxiliary_loss=True, **options)  # only for the loss

    def loss(self, pixels: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
        """Return the sum of the losses of the decoder's layers.

        With `auxiliary_loss` the model of transformers would pass on what each layer answers after normalisation, which
        is not what the published weights were trained with.
        """
        inner = self.model.model
        *layers, last = inner(pixels, output_hidden_states=True).decoder_hidden_states[1:]
        answers = torch.stack([*map(inner.decoder.layernorm, layers), last])  # [layers, B, Q, WIDTH]
        logits, boxes = self.model.class_labels_classifier(answers), self.model.bbox_predictor(answers).sigmoid()
        loss: Tensor = self.model.loss_function(
            logits[-1], labels, pixels.device, boxes[-1], self._every_layer, logits, boxes
        )[0]
        return loss

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each query's likeliest class, as `DetrImageProcessor.post_process_object_detection` does."""
        scores, labels = logits.softmax(dim=2)[..., :-1].max(dim=2)
        scores, queries = scores.sort(dim=1, descending=True)
        return scores, queries, labels.gather(1, queries)


class RtDetr(FromQueries):
    """RT-DETR (Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", arXiv 2304.08069).

    Args:
        given: as above.
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

        count = len(channels)
        if count < LEAST_LEVELS:
            raise ConfigError(
                "rt-detr needs maps of several sizes, but this backbone has only one: choose a convolutional one, "
                "such as resnet50, or another detector, such as detr (--backbone)."
            )
        positions = sum((size // stride) ** 2 for stride in strides)
        smallest: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8] * count, "depths": [1] * count}
        options: dict[str, Any] = {"num_labels": classes}  # of the base class
        config = RTDetrConfig(
            backbone_config=RTDetrResNetConfig(**smallest, layer_type="basic"),  # replaced
            encoder_in_channels=[WIDTH] * count,
            feat_strides=list(strides),
            encode_proj_layers=[count - 1],
            decoder_in_channels=[WIDTH] * count,
            num_feature_levels=count,
            num_queries=min(MOST_QUERIES, positions),
            **options,
        )
        super().__init__(given, RTDetrForObjectDetection(config), size, detections)
        self.model.model.encoder_input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, WIDTH, kernel_size=1, bias=False), nn.BatchNorm2d(WIDTH))
            for width in channels
        )

    def loss(self, pixels: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
        """Return the loss, also of images without boxes, for which there is nothing to denoise."""
        unused: Tensor = self.model.model.denoising_class_embed.weight  # needs a gradient in every process
        return super().loss(pixels, labels) + 0 * unused.sum()

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the surest pairs of query and class."""
        classes = logits.shape[2]
        most = min(self._detections, logits.shape[1] * classes)
        scores, at = logits.sigmoid().flatten(1).topk(most, dim=1)
        return scores, at // classes, at % classes
