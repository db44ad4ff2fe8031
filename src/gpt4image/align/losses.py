"""The registry of alignment losses. It imports no torch, so a recipe can be checked without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import Registry, resolve


@dataclass(frozen=True)
class Loss:
    """An alignment loss: its function and the settings it supports.

    Attributes:
        function: takes `Pairs` and a temperature and returns a sum over this process's images
            (`gpt4image.align.functional`); the function itself, or its "module:attribute".
        uses_queue: compares images with other images' texts, so texts of earlier batches are further negatives.
        has_temperature: divides similarities by a temperature that can be learned.
        has_bias: takes a learned bias, which starts at 0, as third argument.
        may_collapse: nothing pushes different texts apart, so a text adapter would learn to make all texts one.
        uses_targets: texts other than the image's own may be positives; without it, targets are of no effect.
        version: number of its definition; runs of different versions are not the same.
        unit_length: compares vectors of length 1; without it, projections and texts keep their lengths.
        mixes_vectors: a mixed image has the mixture of its sources' texts as its text, instead of several texts.
        has_anchors: takes vectors of the classes as third argument.
    """

    function: Callable[..., Any] | str
    uses_queue: bool = False
    has_temperature: bool = True
    has_bias: bool = False
    may_collapse: bool = False
    uses_targets: bool = True
    version: int = 1
    unit_length: bool = True
    mixes_vectors: bool = False
    has_anchors: bool = False


LOSSES: Registry[Loss | Callable[..., Any]] = Registry(
    "loss",
    {
        "clip": Loss("gpt4image.align.functional:clip_loss", uses_queue=True),
        "infonce": Loss("gpt4image.align.functional:infonce_loss", uses_queue=True),
        "cosine": Loss(
            "gpt4image.align.functional:cosine_loss", has_temperature=False, may_collapse=True, uses_targets=False
        ),
        "sigmoid": Loss("gpt4image.align.functional:sigmoid_loss", uses_queue=True, has_bias=True, version=2),
        "dot": Loss(
            "gpt4image.align.functional:dot_loss",
            has_temperature=False,
            uses_targets=False,
            unit_length=False,
            mixes_vectors=True,
        ),
        "relational": Loss("gpt4image.align.functional:relational_loss", may_collapse=True, uses_targets=False),
        "anchored": Loss(
            "gpt4image.align.functional:anchored_loss",
            has_temperature=False,
            may_collapse=True,
            uses_targets=False,
            mixes_vectors=True,
            has_anchors=True,
        ),
    },
    group="gpt4image.losses",
)


def find_loss(loss: str | Loss | Callable[..., Any]) -> tuple[str, Loss]:
    """Return the name and the entry of a loss.

    Args:
        loss: a registered name, an entry, or a bare function, which may then use a queue and a temperature.

    Raises:
        ConfigError: unknown name.
    """
    entry = LOSSES.load(loss) if isinstance(loss, str) else loss
    entry = entry if isinstance(entry, Loss) else Loss(entry, uses_queue=True)
    if isinstance(loss, str):
        return loss, entry
    function = resolve(entry.function)
    return getattr(function, "__name__", type(function).__name__), entry


def check_targets(loss: str | Loss | Callable[..., Any], targets: str) -> None:
    """Raise ConfigError if a loss would ignore the targets."""
    name, entry = find_loss(loss)
    if targets in ("label", "similarity") and not entry.uses_targets:
        raise ConfigError(
            f"The {name} loss knows no targets, so {targets!r} would have no effect: set targets to same (--targets "
            "same), or use a contrastive loss such as clip."
        )
