"""Taps: hooks that catch features inside any model, and the balance of the two gradients that meet there."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gpt4image.align.distributed import world
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

SHAPES = {
    "auto": "[B, F], [B, T, F] or [B, F, H, W]",
    "auto-last": "[B, F], [B, T, F] or [B, H, W, F]",
    "mean": "[B, F], [B, T, F] or [B, F, H, W]",
    "token": "[B, T, F]",
    "channels-last": "[B, H, W, F]",
}  # accepted by each pool


class FeatureTap(nn.Module):
    """Catches the input or output of a module and pools it to one vector per image. The model works as before.

    Args:
        module: any part of any model.
        before: catch the first input instead of the output.
        pool: `mean` over positions or tokens; the first `token`; `channels-last` for maps [B, H, W, F]; `auto` is
            `mean`, and `auto-last` the same for models whose maps are [B, H, W, F].
        balance: scale the gradient that comes back from the alignment to `share` times the norm of the gradient from
            the rest of the model (`BalancedSplit`).

    Raises:
        ConfigError: unknown pool.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    >>> tap = FeatureTap(model[1])
    >>> _ = model(torch.zeros(2, 3, 5, 5))
    >>> tap.take().shape
    torch.Size([2, 8])
    """

    share: Tensor

    def __init__(self, module: nn.Module, *, before: bool = False, pool: str = "auto", balance: bool = False) -> None:
        super().__init__()
        if pool not in SHAPES:
            raise ConfigError(unknown_name("pool", pool, SHAPES))
        self._pool, self._balance = pool, balance
        self.register_buffer("share", torch.ones(()), persistent=False)
        self._caught: Tensor | None = None
        hook = module.register_forward_pre_hook(self._before) if before else module.register_forward_hook(self._after)
        self._handle = hook

    def take(self) -> Tensor:
        """Return the feature of the last forward pass [B, F], once. ConfigError if there is none."""
        caught, self._caught = self._caught, None
        if caught is None:
            raise ConfigError("The tapped module was not run in the forward pass.")
        return caught

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_caught": None}  # a tensor with a gradient can be neither copied nor saved

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not inputs or not isinstance(inputs[0], Tensor):
            raise ConfigError(
                f"{type(module).__name__} does not get a tensor as its first argument: tap the module that produces "
                "the feature."
            )
        return (self._catch(inputs[0]), *inputs[1:])

    def _after(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401 - what modules return
        if isinstance(output, Tensor):
            return self._catch(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor) and not hasattr(output, "_fields"):
            return (self._catch(output[0]), *output[1:])
        raise ConfigError(
            f"{type(module).__name__} returns {type(output).__name__}, not a tensor: choose a module inside it."
        )

    def _catch(self, feature: Tensor) -> Tensor:
        """Keep the pooled feature; return the feature with which the model continues."""
        caught = feature
        if self._balance and feature.requires_grad:
            feature, caught = split_balanced(feature, self.share)
        self._caught = pool_feature(caught, self._pool)
        return feature


def pool_feature(feature: Tensor, pool: str) -> Tensor:
    """Pool a feature of one of the pool's shapes to a vector per image [B, F]. ConfigError for other shapes.

    The result is a new tensor, since the next module may change the feature in place.
    """
    match pool, feature.ndim:
        case "auto" | "auto-last" | "mean", 2:
            return feature.clone()
        case "auto" | "auto-last" | "mean", 3:
            return feature.mean(dim=1)
        case "token", 3:
            return feature[:, 0].clone()
        case "auto" | "mean", 4:
            return feature.mean(dim=(2, 3))
        case "auto-last" | "channels-last", 4:
            return feature.mean(dim=(1, 2))
    raise ConfigError(f"The feature is {list(feature.shape)}, pool {pool!r} takes {SHAPES[pool]}.")


class BalancedSplit(torch.autograd.Function):
    """Splits a feature in two; backwards, scales the second gradient to a share of the norm of the first.

    With g the gradient from the rest of the model, h that from the alignment, both over all processes, the feature's
    gradient is g + share ||g|| / ||h|| h.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's context
        """Return the feature twice: for the rest of the model, which may change it in place, and for the alignment.

        Args:
            ctx: torch's context.
            feature: any shape.
            share: scalar.
        """
        ctx.save_for_backward(share)
        return feature.clone(), feature.view_as(feature)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's context
        """Return the sum of the first gradient and the scaled second one."""
        of_classifier, of_alignment = gradients
        (share,) = ctx.saved_tensors
        exact = torch.promote_types(of_alignment.dtype, torch.float32)  # float16 overflows in the squares and the scale
        squares = torch.stack([g.to(exact).square().sum() for g in gradients])
        if world().size > 1:
            dist.all_reduce(squares)
        classifier, alignment = squares.sqrt()
        scale = torch.where(alignment > 0, share * classifier / alignment, 0)
        return of_classifier + (scale * of_alignment.to(exact)).to(of_alignment.dtype), None


def split_balanced(feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `BalancedSplit`."""
    pair: tuple[Tensor, Tensor] = BalancedSplit.apply(feature, share)
    return pair
