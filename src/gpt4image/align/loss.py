"""The alignment loss as a module, for any training loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gpt4image.align.distributed import largest, world
from gpt4image.align.losses import Loss, check_targets, find_loss
from gpt4image.align.pairs import TINY, Pairs, at_least_float32, only_known, unit_length
from gpt4image.align.queue import TextQueue
from gpt4image.align.targets import TargetRule, Texts
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import resolve

LOWEST_TEMPERATURE = 0.01  # a learned temperature never falls below it (arXiv 2103.00020, section 2.5)


class AlignmentLoss(nn.Module):
    """Pulls projected image features towards the vectors of their descriptions (arXiv 2306.00693, section 3).

    Args:
        loss: `clip`, `infonce`, `cosine`, `sigmoid`, `dot`, `relational` or `anchored` (formulas in
            `gpt4image.align.functional`), the name of a registered loss, a `Loss`, or a function of `Pairs` and
            temperature.
        temperature: divides the similarities; `cosine` has none.
        learn_temperature: learn the temperature, starting there, as CLIP does.
        targets: which texts match an image: a name, or a `TargetRule` with its settings; `cosine`, `dot` and
            `relational` use only an image's own texts.
        bias: initial value of the offset that `sigmoid` learns from its balanced bias.
        queue: texts of earlier batches as further negatives, for `clip`, `infonce` and `sigmoid`.
        slots: largest number of images of a process in a batch. By default several processes agree on the largest of
            their first batches, for which they wait for each other once.
        anchors: vectors of the classes [C, D] in the space of the texts, of any length, for `anchored`.

    Raises:
        ConfigError: unknown loss or targets, missing anchors, or settings that exclude each other.

    >>> z = torch.eye(4, requires_grad=True)
    >>> AlignmentLoss("cosine")(z, torch.eye(4)).item()
    0.0
    """

    anchors: Tensor | None  # [C, D], of length 1

    def __init__(
        self,
        loss: str | Loss | Callable[..., Tensor] = "clip",
        temperature: float = 0.2,
        *,
        learn_temperature: bool = False,
        targets: str | TargetRule = "same",
        bias: float = 0.0,
        queue: TextQueue | None = None,
        slots: int | None = None,
        anchors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.name, self.entry = find_loss(loss)
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, not {temperature}.")
        if learn_temperature and not self.entry.has_temperature:
            raise ConfigError(f"The loss {self.name!r} has no temperature to learn.")
        if queue is not None and not self.entry.uses_queue:
            raise ConfigError(f"The loss {self.name!r} compares no image with other texts: a queue is of no use to it.")
        if self.entry.has_anchors != (anchors is not None):
            needs = "compares with vectors of the classes: pass" if self.entry.has_anchors else "takes no"
            raise ConfigError(f"The loss {self.name!r} {needs} anchors.")
        self.rule = TargetRule(targets) if isinstance(targets, str) else targets
        check_targets(loss, self.rule.name)
        if self.entry.mixes_vectors:  # a mixture of texts belongs only to its own image
            self.rule = TargetRule("identity")
        self.queue = queue
        self._function: Callable[..., Tensor] = resolve(self.entry.function)
        self._slots = None if slots is None else (slots, slots)
        self._fixed = temperature
        # the logarithm of the inverse is learned: steps are relative, and the temperature stays above 0
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.bias = nn.Parameter(torch.tensor(bias)) if self.entry.has_bias else None
        unit = None if anchors is None else unit_length(anchors)
        self.register_buffer("anchors", unit, persistent=False)  # an input, not learned

    @property
    def temperature(self) -> Tensor | float:
        """The temperature; where it is learned, a scalar with gradient."""
        return self._fixed if self.log_scale is None else (-self.log_scale).exp()

    def forward(
        self,
        projected: Tensor,
        text: Tensor,
        has_text: Tensor | None = None,
        *,
        mixing: Tensor | None = None,
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        total: Tensor | float | None = None,
    ) -> Tensor:
        """Return the loss of this process's part of the batch, computed in float32 or better.

        The mean over the processes is the loss of the joined batch. The same holds for gradients, whose mean
        `DistributedDataParallel` takes; where the loss learns something, it must be inside the wrapped module.

        Args:
            projected: image features in the text space [B, D], of any length, with gradient.
            text: text vectors of the sources [S, D], of any length; rows without text are ignored.
            has_text: which sources have a text, bool [S]; default all.
            mixing: share of each source in each image [B, S] (`gpt4image.align.mixing`); by default S = B, unmixed.
            ids: a number for each source's image, int64 [S], by which copies of an image are recognised.
            labels: class of each source, int64 [S], -1 for none; or several, integers [S, C]: 1 present, 0 absent, -1
                unknown; for the targets `label`.
            total: divisor of the sum over all images of the joined batch; default their number, each counted by its
                share that has a text. With gradient accumulation: that number over all parts, divided by the number
                of parts.

        Returns:
            A scalar; 0 where there is no text.

        Raises:
            ConfigError: the shapes do not match.
        """
        device = projected.device
        known = torch.ones(len(text), dtype=torch.bool, device=device) if has_text is None else has_text.to(device)
        ids, labels = (None if numbers is None else numbers.to(device) for numbers in (ids, labels))
        texts = Texts(text.to(device), known, ids, labels)
        check_shapes(projected, texts, mixing)
        self._bound_temperature()
        with torch.autocast(device_type=device.type, enabled=False):
            pairs = self._pair(projected, texts, mixing)
            more = [part for part in (self.bias, self.anchors) if part is not None]
            loss: Tensor = self._function(pairs, self.temperature, *more)
            count = pairs.all_shares.sum().clamp(min=1e-6) if total is None else total
            if self.queue is not None and self.training:
                self.queue.push(pairs.all_texts)
        return loss * world().size / count

    @torch.no_grad()
    def _bound_temperature(self) -> None:
        """Lift a learned temperature to the lowest allowed. Unlike a clamp in the loss, this keeps its gradient."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=-math.log(LOWEST_TEMPERATURE))

    def _pair(self, projected: Tensor, texts: Texts, mixing: Tensor | None) -> Pairs:
        scale = unit_length if self.entry.unit_length else at_least_float32
        z, t = scale(projected), scale(only_known(texts.vectors, texts.known))  # [B, D], [S, D]
        z, t = (vectors.to(torch.promote_types(z.dtype, t.dtype)) for vectors in (z, t))
        if mixing is not None and self.entry.mixes_vectors:
            t, shares = mix_texts(t, texts.known, mixing.to(z))  # [B, D], [B]
            slots = self._agree_on_slots(len(z), len(t), z.device)
            pairs = Pairs(z, Texts(t, shares > 0, None, None), None, self.rule, slots)
            pairs.shares = pairs.source_shares = shares
            return pairs
        texts = Texts(t, texts.known, texts.ids, texts.labels)  # `_replace` breaks the graph of torch 2.6
        mixing = None if mixing is None else mixing.to(z)
        queued = None if self.queue is None else self.queue.texts(texts)
        return Pairs(z, texts, mixing, self.rule, self._agree_on_slots(len(z), len(t), z.device), queued)

    def _agree_on_slots(self, images: int, texts: int, device: torch.device) -> tuple[int, int]:
        if world().size == 1:
            return images, texts
        if self._slots is None:
            images, texts = largest(images, texts, device=device)
            self._slots = images, texts
        return self._slots

    def extra_repr(self) -> str:
        """Show the settings in `print`."""
        learned = ", learned" if self.log_scale is not None else ""
        return f"{self.name!r}, temperature={self._fixed}{learned}, targets={self.rule.name!r}"


def mix_texts(vectors: Tensor, known: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Return one text for each image [B, D], the mixture of its sources' known ones, and the share that is known [B].

    Args:
        vectors: texts of the sources [S, D]; unknown ones are zero.
        known: which are known, bool [S].
        mixing: share of each source in each image [B, S].
    """
    shares = mixing @ known.to(mixing.dtype)
    return mixing @ vectors / shares.clamp(min=TINY)[:, None], shares


def check_shapes(projected: Tensor, texts: Texts, mixing: Tensor | None) -> None:
    """Raise ConfigError if the shapes of features [B, D], texts [S] and mixing [B, S] do not match."""
    text = texts.vectors
    if projected.ndim != 2 or text.ndim != 2 or projected.shape[1] != text.shape[1]:
        raise ConfigError(
            f"projected features {tuple(projected.shape)} and text vectors {tuple(text.shape)} must be [B, D] and "
            "[S, D]. Is the projector's out_features the width of the text vectors?"
        )
    if mixing is None and len(projected) != len(text):
        raise ConfigError(
            f"{len(projected)} projected features and {len(text)} text vectors: without mixing each image must have "
            "one."
        )
    if mixing is not None and mixing.shape != (len(projected), len(text)):
        raise ConfigError(f"mixing {tuple(mixing.shape)} must be [B, S] = [{len(projected)}, {len(text)}].")
    for name, numbers in (("has_text", texts.known), ("ids", texts.ids), ("labels", texts.labels)):
        several = name == "labels" and numbers is not None and numbers.ndim == 2
        if numbers is not None and (numbers.shape[:1] if several else numbers.shape) != text.shape[:1]:
            raise ConfigError(f"{name} {tuple(numbers.shape)} must be [S] = [{len(text)}].")
