"""A segmentation model: a timm backbone, and a head of torchvision or transformers on its maps.

Sizes: B images, C classes, M regions an image, S the side of an input in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from gpt4image.align.distributed import zero_loss
from gpt4image.images.masks import VOID
from gpt4image.train.maps import Level, Maps, OnBackbone

INNER = 128  # channels within the heads of LRASPP, as in torchvision
SEGFORMER_WIDTH = 256  # channels of SegFormer's decoder, as in its smallest model


class Segmenter(OnBackbone):
    """A segmentation model as it is trained and deployed.

    Args:
        body: a timm model without its classifier.
        levels: the maps of it that are used.
        kind: which head, a key of `BUILDERS`.
        classes: number of classes C.
        size: side of an input S.

    Attributes:
        stride: stride of the deepest map in pixels.
    """

    def __init__(self, body: nn.Module, levels: Sequence[Level], kind: str, classes: int, size: int) -> None:
        super().__init__(body, levels, size)
        self.stride, self.head = levels[-1].stride, BUILDERS[kind](levels, classes)

    def forward(self, images: Tensor, truth: Tensor | None = None) -> Tensor:
        """Return masks, or with the truth the loss.

        Args:
            images: [B, 3, S, S].
            truth: as `tasks.segmentation` packs it, [B, S * S + 5 * M].

        Returns:
            uint8 [B, S * S + 1]: the class of each pixel, and the mean of their probabilities in 255ths; or the
            cross-entropy [1, 1], a mean over the images whose masks are known of the means over their known pixels.
        """
        boxes = None if truth is None else truth[:, self.size**2 :].view(len(truth), -1, 5)
        maps = self.body_maps(images, boxes)
        if truth is None:
            sure, found = self.decode(maps).float().softmax(dim=1).max(dim=1)
            mean = (255 * sure.mean(dim=(1, 2))).round()[:, None]
            return torch.cat([found.flatten(1), mean], dim=1).to(torch.uint8)
        known = (~truth[:, 0].isnan()).nonzero()[:, 0]
        if not len(known):
            return zero_loss(self)[None, None]
        if len(known) == 1:
            known = known.repeat(2)  # normalisation of single-pixel maps needs two images; the mean does not change
        logits = self.decode(OrderedDict((name, level[known]) for name, level in maps.items()))
        masks = truth[known, : self.size**2].view(-1, self.size, self.size).long()
        losses = F.cross_entropy(logits.float(), masks, ignore_index=VOID, reduction="none").sum(dim=(1, 2))
        return (losses / (masks != VOID).sum(dim=(1, 2)).clamp(min=1)).mean()[None, None]

    def decode(self, maps: Maps) -> Tensor:
        """Return the logits of the pixels [B, C, S, S] from the maps."""
        coarse: Tensor = self.head(maps)
        return F.interpolate(coarse, size=(self.size, self.size), mode="bilinear", align_corners=False)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of the pixels [B, C, S, S] of images [B, 3, S, S]."""
        return self.decode(self.body_maps(images))


class OfDeepest(nn.Module):
    """A head that looks at the deepest map alone."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Maps) -> Tensor:
        """Return logits [B, C, h, w]."""
        found: Tensor = self.head(list(maps.values())[-1])
        return found


class OfTwo(nn.Module):
    """A head that looks at the largest map, and at the deepest."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Maps) -> Tensor:
        """Return logits [B, C, h, w] of the largest map's size."""
        first, *_, last = maps.values() if len(maps) > 1 else [*maps.values()] * 2
        found: Tensor = self.head({"low": first, "high": last})
        return found


class OfAll(nn.Module):
    """SegFormer's decoder, which looks at all maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Maps) -> Tensor:
        """Return logits [B, C, h, w] of the largest map's size."""
        found: Tensor = self.head([each.contiguous() for each in maps.values()])
        return found


def _build_deeplabv3(levels: Sequence[Level], classes: int) -> nn.Module:
    """Chen et al., "Rethinking Atrous Convolution", arXiv 1706.05587."""
    return OfDeepest(DeepLabHead(levels[-1].channels, classes))


def _build_fcn(levels: Sequence[Level], classes: int) -> nn.Module:
    """Long et al., "Fully Convolutional Networks", arXiv 1411.4038, with torchvision's head."""
    return OfDeepest(FCNHead(levels[-1].channels, classes))


def _build_lraspp(levels: Sequence[Level], classes: int) -> nn.Module:
    """Howard et al., "Searching for MobileNetV3", arXiv 1905.02244, section 6.4."""
    return OfTwo(LRASPPHead(levels[0].channels, levels[-1].channels, classes, INNER))


def _build_segformer(levels: Sequence[Level], classes: int) -> nn.Module:
    """Xie et al., "SegFormer", arXiv 2105.15203, the decoder of transformers."""
    from transformers import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    config = SegformerConfig(
        num_encoder_blocks=len(levels),
        hidden_sizes=[level.channels for level in levels],
        decoder_hidden_size=SEGFORMER_WIDTH,
        num_labels=classes,  # type: ignore[call-arg] # of its base class
    )
    return OfAll(SegformerDecodeHead(config))  # type: ignore[no-untyped-call]


BUILDERS: dict[str, Callable[[Sequence[Level], int], nn.Module]] = {
    "deeplabv3": _build_deeplabv3,
    "fcn": _build_fcn,
    "lraspp": _build_lraspp,
    "segformer": _build_segformer,
}

LARGEST_STRIDES = {"deeplabv3": 8, "fcn": 8, "lraspp": 16}
"""Stride to which a backbone that can is dilated, as torchvision dilates its own."""
