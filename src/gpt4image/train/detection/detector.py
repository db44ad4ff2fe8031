"""A detector: a timm backbone, a neck that makes maps of several sizes, and a detector of another library on these.

The detector of torchvision or transformers sees only the maps of images that it needs.

Sizes: B images, K detections an image, M boxes an image, S the side of an input in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import Conv2dNormActivation

from gpt4image.align.distributed import zero_loss
from gpt4image.train.maps import Level, Maps, OnBackbone

DETECTIONS = 100  # K, as in COCO's evaluation
COLUMNS = 6  # of a detection: class, left, top, right, bottom, score
WIDTH = 256  # channels of a feature pyramid, as in torchvision
LEAST_ANCHOR = 32  # side of an anchor on the largest map of Faster R-CNN (arXiv 1612.03144, section 4.1)
ANCHOR_STRIDES = 4  # side of a RetinaNet anchor in strides of its map (Lin et al., arXiv 1708.02002, section 4)
SSD_LEVELS = 6  # maps of an SSD; fewer where they would be smaller than a pixel


class GivenMaps(nn.Module):
    """Takes the place of the backbone in torchvision's detectors, and returns the given maps.

    Args:
        out_channels: channels of the maps.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.maps: Maps = OrderedDict()

    def forward(self, _: Tensor) -> Maps:
        """Return the maps."""
        return self.maps


class SsdMaps(nn.Module):
    """Makes the maps of an SSD (Liu et al., arXiv 1512.02325): the backbone's, and smaller ones after the deepest.

    The further ones are depthwise separable as in SSDLite (Sandler et al., arXiv 1801.04381, section 6.2).

    Args:
        levels: the backbone's maps.
        size: side of an input S.
    """

    def __init__(self, levels: Sequence[Level], size: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        block = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
        self.channels, side = [level.channels for level in levels], size // levels[-1].stride
        self.extra = nn.ModuleList()
        for width in (512, 256, 256, 128)[: SSD_LEVELS - len(levels)]:
            if side == 1:
                break
            inner = width // 2
            self.extra.append(
                nn.Sequential(
                    block(self.channels[-1], inner, kernel_size=1),
                    block(inner, inner, kernel_size=3, stride=2, groups=inner),
                    block(inner, width, kernel_size=1),
                )
            )
            self.channels.append(width)
            side = -(-side // 2)

    def forward(self, maps: Maps) -> Maps:
        """Return all maps, the largest first."""
        found = list(maps.values())
        for layer in self.extra:
            found.append(layer(found[-1]))
        return OrderedDict((str(number), each) for number, each in enumerate(found))


class Detector(OnBackbone):
    """A detector in the form that is trained and deployed.

    Args:
        body: a timm model without its classifier.
        levels: the maps of it that are used.
        kind: which of torchvision's detectors, a key of `BUILDERS`.
        classes: number of classes C.
        size: side of an input S.
    """

    def __init__(self, body: nn.Module, levels: Sequence[Level], kind: str, classes: int, size: int) -> None:
        super().__init__(body, levels, size)
        self.neck, self.detector, self._first_class = BUILDERS[kind](levels, classes, size)

    def forward(self, images: Tensor, truth: Tensor | None = None) -> Tensor:
        """Return detections, or with the truth the parts of the loss.

        Args:
            images: [B, 3, S, S].
            truth: boxes [B, M, 5]: class, -1 for none, and corners in shares of S; NaN where boxes are not known.

        Returns:
            Detections float [B, K * 6], the surest first: class (-1 fills up), corners in shares of S, and score; or
            the parts of the loss [1, P], means over the images whose boxes are known.
        """
        maps = self.features(images, truth)
        if truth is None:
            return torch.stack([self._packed(found) for found in self._run(images, maps)]).flatten(1)
        known = (~truth[:, 0, 0].isnan()).nonzero()[:, 0]
        if not len(known):
            return zero_loss(self)[None, None]
        if len(known) == 1:
            known = known.repeat(2)  # normalisation of single-pixel maps needs two images; the mean does not change
        targets = [self._target(boxes) for boxes in truth[known]]
        losses = self._run(images[known], OrderedDict((name, level[known]) for name, level in maps.items()), targets)
        return torch.stack(list(losses.values()))[None]

    def features(self, images: Tensor, truth: Tensor | None = None) -> Maps:
        """Return the detector's input maps, the largest first; for the arguments see `forward`."""
        maps: Maps = self.neck(self.body_maps(images, truth))
        return maps

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return torchvision's own output for images [B, 3, S, S]: boxes in pixels, labels and scores of each."""
        found: list[dict[str, Tensor]] = self._run(images, self.features(images))
        return [each | {"labels": each["labels"] - self._first_class} for each in found]

    def _run(self, images: Tensor, maps: Maps, targets: list[dict[str, Tensor]] | None = None) -> Any:  # noqa: ANN401
        given = self.detector.backbone
        assert isinstance(given, GivenMaps)
        given.maps = maps
        try:
            return self.detector(list(images)) if targets is None else self.detector(list(images), targets)
        finally:
            given.maps = OrderedDict()  # a tensor with a gradient cannot be copied along with the model

    def _target(self, boxes: Tensor) -> dict[str, Tensor]:
        """Return boxes [M, 5] in the form of torchvision's detectors."""
        own = boxes[boxes[:, 0] >= 0]
        return {"boxes": own[:, 1:] * self.size, "labels": own[:, 0].long() + self._first_class}

    def _packed(self, found: dict[str, Tensor]) -> Tensor:
        """Return an image's detections as [K, 6]."""
        count = min(len(found["scores"]), DETECTIONS)
        labels = (found["labels"][:count] - self._first_class).float()
        rows = torch.cat([labels[:, None], found["boxes"][:count] / self.size, found["scores"][:count, None]], dim=1)
        filler = rows.new_tensor([-1.0, 0, 0, 0, 0, 0]).expand(DETECTIONS - count, COLUMNS)
        return torch.cat([rows, filler]).float()


Built = tuple[nn.Module, nn.Module, int]
"""Neck, torchvision's detector, and the number that it has for the first class."""

AS_GIVEN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
"""Inputs come normalised, and of one size."""


def _build_faster_rcnn(levels: Sequence[Level], classes: int, size: int) -> Built:
    """Ren et al., "Faster R-CNN", arXiv 1506.01497, on a feature pyramid (Lin et al., arXiv 1612.03144)."""
    neck = FeaturePyramidNetwork([level.channels for level in levels], WIDTH, LastLevelMaxPool())
    strides = [*(level.stride for level in levels), 2 * levels[-1].stride]
    sizes = tuple((LEAST_ANCHOR * stride // strides[0],) for stride in strides)
    detector = FasterRCNN(
        GivenMaps(WIDTH),
        classes + 1,
        size,
        size,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign([str(number) for number in range(len(levels))], 7, 2),
        box_detections_per_img=DETECTIONS,
        **AS_GIVEN,
    )
    return neck, detector, 1


def _pyramid(levels: Sequence[Level]) -> tuple[nn.Module, list[int]]:
    """Return a feature pyramid with two further levels, and the strides of all."""
    neck = FeaturePyramidNetwork([level.channels for level in levels], WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    last = levels[-1].stride
    return neck, [*(level.stride for level in levels), 2 * last, 4 * last]


def _build_retinanet(levels: Sequence[Level], classes: int, size: int) -> Built:
    """Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002."""
    neck, strides = _pyramid(levels)
    sizes = tuple(tuple(int(ANCHOR_STRIDES * stride * 2 ** (n / 3)) for n in range(3)) for stride in strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    given = GivenMaps(WIDTH)
    detector = RetinaNet(
        given, classes, size, size, anchor_generator=anchors, detections_per_img=DETECTIONS, **AS_GIVEN
    )
    return neck, detector, 0


def _build_fcos(levels: Sequence[Level], classes: int, size: int) -> Built:
    """Tian et al., "FCOS", arXiv 1904.01355."""
    neck, strides = _pyramid(levels)
    anchors = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
    shown = {"score_thresh": 0.05, "detections_per_img": DETECTIONS}  # the default shows far fewer than COCO evaluates
    detector = FCOS(GivenMaps(WIDTH), classes, size, size, anchor_generator=anchors, **shown, **AS_GIVEN)
    return neck, detector, 0


def _build_ssdlite(levels: Sequence[Level], classes: int, size: int) -> Built:
    """SSD with depthwise separable convolutions, with the settings of torchvision's `ssdlite320_mobilenet_v3_large`."""
    neck = SsdMaps(levels, size)
    anchors = DefaultBoxGenerator([[2, 3]] * len(neck.channels), min_ratio=0.2, max_ratio=0.95)
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    detector = SSD(
        GivenMaps(neck.channels[-1]),
        anchors,
        (size, size),
        classes + 1,
        head=SSDLiteHead(neck.channels, anchors.num_anchors_per_location(), classes + 1, norm),
        score_thresh=0.001,
        nms_thresh=0.55,
        detections_per_img=DETECTIONS,
        topk_candidates=300,
        **AS_GIVEN,
    )
    return neck, detector, 1


def _build_detr(levels: Sequence[Level], classes: int, size: int) -> Built:
    """Carion et al., "End-to-End Object Detection with Transformers", arXiv 2005.12872, of transformers."""
    from gpt4image.train.detection.from_queries import Detr

    return nn.Identity(), Detr(GivenMaps(WIDTH), [level.channels for level in levels], classes, size, DETECTIONS), 0


def _build_rt_detr(levels: Sequence[Level], classes: int, size: int) -> Built:
    """Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", arXiv 2304.08069, of transformers."""
    from gpt4image.train.detection.from_queries import RtDetr

    channels, strides = [level.channels for level in levels], [level.stride for level in levels]
    return nn.Identity(), RtDetr(GivenMaps(WIDTH), channels, strides, classes, size, DETECTIONS), 0


BUILDERS: dict[str, Callable[[Sequence[Level], int, int], Built]] = {
    "faster-rcnn": _build_faster_rcnn,
    "retinanet": _build_retinanet,
    "fcos": _build_fcos,
    "ssdlite": _build_ssdlite,
    "detr": _build_detr,
    "rt-detr": _build_rt_detr,
}
