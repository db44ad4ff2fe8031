"""Self-supervised partners of the alignment: losses of lightly between two views of each image, without any label.

They train the backbone with or without the alignment before the labels take part (`labels_from`), and are discarded
with the heads. B images, F numbers of a feature.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gpt4image.align.aligned_model import AlignedModel, AlignedOutput, find_classifier
from gpt4image.align.distributed import zero_loss
from gpt4image.align.taps import FeatureTap
from gpt4image.core.errors import ConfigError
from gpt4image.train.libraries import require_library

SIMSIAM_NARROW = 4  # the predictor's hidden width is that of the projections divided by this
DINO_HIDDEN, DINO_BOTTLENECK = 2048, 256
DINO_PROTOTYPES = 4096  # 65536 in the paper, for ImageNet
DINO_MOMENTUM = 0.996  # momentum of the teacher at the start; 1 at the end


class Partner(nn.Module):
    """A self-supervised loss between two views of the same images."""

    def forward(self, first: Tensor, second: Tensor, views: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss, a scalar.

        Args:
            first: features of the first view [B, F].
            second: those of the second view.
            views: the inputs that they are features of [B, ...].
        """
        raise NotImplementedError

    def follow(self, backbone: nn.Module, share: float) -> None:
        """Update after an optimiser step of the backbone.

        Args:
            backbone: the backbone after the step.
            share: how much of the training with this loss is over, from 0 to 1.
        """


class SimSiam(Partner):
    """Predicts the projection of one view from that of the other, whose gradient is stopped.

    Chen and He, "Exploring Simple Siamese Representation Learning", arXiv 2011.10566, equation 4, with the widths of a
    ResNet-50 (section 4) in proportion to F.
    """

    def __init__(self, width: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__()
        self.projector = SimSiamProjectionHead(width, width, width)
        self.predictor = SimSiamPredictionHead(width, max(1, width // SIMSIAM_NARROW), width)
        self.loss = NegativeCosineSimilarity()

    def forward(self, first: Tensor, second: Tensor, views: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss, from -1 to 1."""
        one, other = self.projector(first), self.projector(second)
        pairs = (self.predictor(one), other.detach()), (self.predictor(other), one.detach())
        return torch.stack([self.loss(a.float(), b.float()) for a, b in pairs]).mean()


class Dino(Partner):
    """Predicts what a teacher, the moving average of the model, answers to the other view.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294, algorithm 1, with two
    global views and no local ones. The teacher runs in evaluation mode, with the running statistics of the model.

    Args:
        width: width F of the features.
        backbone: the model in training, before anything is hooked to it; the teacher is a copy.
    """

    def __init__(self, width: int, backbone: nn.Module) -> None:
        from lightly.loss import DINOLoss

        super().__init__()
        self.head = make_dino_head(width)
        self.teacher, self.teacher_head = copy.deepcopy(backbone), copy.deepcopy(self.head)
        self.tap = FeatureTap(find_classifier(self.teacher), before=True)
        self.loss = DINOLoss(DINO_PROTOTYPES)
        for part in (self.teacher, self.teacher_head):
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Dino:
        """Put the head into training mode, and never the teacher."""
        super().train(mode)
        for part in (self.teacher, self.teacher_head):
            part.eval()
        return self

    def forward(self, first: Tensor, second: Tensor, views: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy between the answers of teacher and model."""
        answers = []
        with torch.no_grad():
            for view in views:
                self.teacher(view)
                answers.append(self.teacher_head(self.tap.take()).float())
        loss: Tensor = self.loss(answers, [self.head(first).float(), self.head(second).float()])
        return loss

    @torch.no_grad()
    def follow(self, backbone: nn.Module, share: float) -> None:
        """Move the teacher towards the model."""
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(round(1000 * share), 1001, DINO_MOMENTUM, 1.0)
        for model, teacher in ((backbone, self.teacher), (self.head, self.teacher_head)):
            update_momentum(model, teacher, momentum)
            for own, its in zip(model.buffers(), teacher.buffers(), strict=True):
                its.copy_(own)


def make_dino_head(width: int) -> nn.Module:
    """Return DINO's head for features of some width."""
    from lightly.models.modules import DINOProjectionHead

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the old weight normalisation, replaced below
        head: nn.Module = DINOProjectionHead(width, DINO_HIDDEN, DINO_BOTTLENECK, DINO_PROTOTYPES)
    last = nn.Linear(DINO_BOTTLENECK, DINO_PROTOTYPES, bias=False)
    head.last_layer = weight_norm(last)  # unlike the other form, it can be copied
    last.parametrizations.weight.original0.requires_grad_(False).fill_(1)  # type: ignore[union-attr, operator]
    return head


def make_partner(name: str, backbone: nn.Module, width: int) -> Partner:
    """Return the partner that a recipe names.

    Args:
        name: `simsiam` or `dino`.
        backbone: the model in training.
        width: width F of its features.

    Raises:
        ConfigError: the recipe names none that is known.
        MissingExtraError: lightly is not installed.
    """
    require_library("lightly")
    if name == "simsiam":
        return SimSiam(width)
    if name == "dino":
        return Dino(width, backbone)
    raise ConfigError(f"self_supervised (--self-supervised) must be simsiam or dino, not {name!r}.")


class PartneredModel(AlignedModel):
    """An `AlignedModel` with a self-supervised partner.

    Args:
        partner: the partner.
        backbone: the model to deploy.
        heads: alignment heads, or none.
        options: further arguments of `AlignedModel`.
    """

    def __init__(
        self,
        partner: Partner,
        backbone: nn.Module,
        heads: Sequence[nn.Module] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(backbone, heads, **options)
        self.partner = partner

    def forward(self, images: Tensor, *rest: Any, second: Tensor | None = None) -> AlignedOutput:  # noqa: ANN401
        """Return the result of `AlignedModel.forward` with the partner's loss.

        Args:
            images: the first view [B, ...].
            rest: further arguments of `AlignedModel.forward`.
            second: the second view [B, ...]; None once the partner takes no part.
        """
        output = super().forward(images, *rest)
        if second is None:
            return output._replace(self_supervised=zero_loss(self.partner))
        self.backbone(second)
        features = self.input_tap.take()
        for tap in self._taps:
            tap.take()
        return output._replace(self_supervised=self.partner(output.features, features, (images, second)))
