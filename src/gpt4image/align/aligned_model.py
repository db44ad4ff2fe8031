"""The model in training: the backbone that will be deployed, and heads beside it that align its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt4image.align.head import AlignmentHead, Targets
from gpt4image.align.taps import FeatureTap
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name


class TextAnswers(NamedTuple):
    """The classifier's answers for the texts of S sources.

    Attributes:
        logits: [S, C].
        known: which sources have a text, bool [S].
    """

    logits: Tensor
    known: Tensor


class AlignedOutput(NamedTuple):
    """Output of an `AlignedModel`.

    Attributes:
        logits: [B, C].
        features: the classifier's input [B, F].
        projected: for each head, its features in the space of its vectors [B, D].
        alignment: weighted sum of the heads' losses, a scalar; None without targets or heads.
        texts: the classifier's answers for the texts of a batch, for each head with a reader.
        self_supervised: loss of a self-supervised partner, a scalar; None without one.
    """

    logits: Tensor
    features: Tensor
    projected: tuple[Tensor, ...]
    alignment: Tensor | None
    texts: tuple[TextAnswers, ...] = ()
    self_supervised: Tensor | None = None


class AlignedModel(nn.Module):
    """A backbone with its classifier, unchanged, and heads that are discarded after training.

    A hook catches the input of the classifier layer: the pooled feature of a CNN, the class token of a ViT, dropout
    included. So any model works whose last layer is a module, and `backbone` stays as it was.

    Args:
        backbone: the model to deploy; maps images to logits, or to an output with `logits`.
        heads: heads or bare projectors; without any, only the backbone is trained.
        classifier: the backbone's last layer; default `backbone.get_classifier()` (timm).
        balance: scale the alignment's gradient at each feature to a share of the classifier's; see `set_share`.

    Raises:
        ConfigError: the backbone's classifier is not known, or it lacks a module that a head names.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: nn.Module | Sequence[nn.Module] = (),
        classifier: nn.Module | None = None,
        *,
        balance: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        heads = [heads] if isinstance(heads, nn.Module) else heads
        self.heads = nn.ModuleList(h if isinstance(h, AlignmentHead) else AlignmentHead(h) for h in heads)
        classifier = find_classifier(backbone, classifier)
        self._shared = (classifier,)  # in a tuple, because it is already a part of the backbone
        self.input_tap = FeatureTap(classifier, before=True, pool="auto", balance=balance)
        # heads that share a module and a pool share a tap, so that balancing sees their gradients together
        self._places = sorted({(head.tap, head.pool) for head in self._heads if head.tap is not None})
        self.taps = nn.ModuleList(
            FeatureTap(find_module(backbone, name), pool=pool_of(backbone, pool), balance=balance)
            for name, pool in self._places
        )

    @property
    def _heads(self) -> list[AlignmentHead]:
        return list(self.heads)  # type: ignore[arg-type]

    @property
    def _taps(self) -> list[FeatureTap]:
        return list(self.taps)  # type: ignore[arg-type]

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        mixing: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> AlignedOutput:
        """Return logits, features and projected features, and with targets the alignment loss.

        Args:
            images: [B, 3, H, W].
            targets: what the images are aligned with.
            mixing: share of each source in each image [B, S], if they are mixed.
            truth: the labels of the images [B, ...], for a backbone that computes its own loss; its parts then replace
                the logits.
        """
        output = self.backbone(images) if truth is None else self.backbone(images, truth)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits  # [B, C]
        features = self.input_tap.take()  # [B, F]
        caught = {place: tap.take() for place, tap in zip(self._places, self._taps, strict=True)}
        projected = tuple(head(features if head.tap is None else caught[head.tap, head.pool]) for head in self._heads)
        if targets is None or not projected:
            return AlignedOutput(logits, features, projected, None)
        losses = [head.weight * head.align(z, targets, mixing) for head, z in zip(self._heads, projected, strict=True)]
        # `forward`, not a call, so that the hook that captures features ignores these
        texts = tuple(
            TextAnswers(self._shared[0].forward(head.read(targets)), targets.known[head.source])
            for head in self._heads
            if head.reader is not None
        )
        return AlignedOutput(logits, features, projected, torch.stack(losses).sum(), texts)

    def set_share(self, share: float) -> None:
        """Set the share of the classifier's gradient norm that the alignment's is scaled to, if `balance` is on.

        Several places divide it evenly. At an earlier place, everything that comes back from the rest of the model
        counts as the classifier's gradient, including that of later alignments.
        """
        places = len({head.tap for head in self._heads})
        for tap in (self.input_tap, *self._taps):
            tap.share.fill_(share / max(1, places))

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that timm's optimisers must not decay, such as the backbone's position embedding."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in named}


def find_classifier(backbone: nn.Module, classifier: nn.Module | None = None) -> nn.Module:
    """Return the layer that turns features into logits. ConfigError if it is neither given nor known."""
    if classifier is None and hasattr(backbone, "get_classifier"):
        found = backbone.get_classifier()  # type: ignore[operator]
        classifier = found[0] if isinstance(found, tuple) else found  # distilled models have two
    if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.Identity):
        raise ConfigError(
            f"{type(backbone).__name__} does not declare its classifier layer. Pass it: AlignedModel(..., "
            "classifier=model.fc)."
        )
    return classifier


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return a module by name. ConfigError if there is none of that name."""
    known = dict(model.named_modules())
    if name not in known or not name:
        shallow = [module for module in known if module and module.count(".") < 2]
        raise ConfigError(f"align: {unknown_name('module', name, shallow)}")
    found: nn.Module = known[name]
    return found


def feature_width(backbone: nn.Module, images: Tensor, tap: str | None = None, pool: str = "auto") -> int:
    """Return the width F of the features at a place for images [B, 3, H, W]; B may be 1."""
    return int(probe_feature(backbone, images, tap, pool).shape[1])


def probe_feature(backbone: nn.Module, images: Tensor, tap: str | None = None, pool: str = "auto") -> Tensor:
    """Return the feature [B, F] that a head at a place receives for images [B, 3, H, W], in evaluation mode.

    It requires a gradient if anything before it is trained. The backbone is left as it was.
    """
    module = find_classifier(backbone) if tap is None else find_module(backbone, tap)
    probe = FeatureTap(module, before=tap is None, pool=pool_of(backbone, pool))
    training = [part for part in backbone.modules() if part.training]
    try:
        backbone.eval()(images)
    finally:
        probe.remove()
        for part in training:
            part.training = True
    return probe.take()


def pool_of(backbone: nn.Module, pool: str) -> str:
    """Return the pool that `auto` stands for, by the layout of the backbone's feature maps (timm's `output_fmt`)."""
    return "auto-last" if pool == "auto" and getattr(backbone, "output_fmt", "NCHW") == "NHWC" else pool
