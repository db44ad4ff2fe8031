"""Features caught on their way through a model, any model, by a hook."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gpt4image.align.distributed import world
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name


class BalancedSplit(torch.autograd.Function):
    """Two copies of a feature; the gradient of the second is scaled to a share of the norm of the first's."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's context
        """The feature twice, for the classifier and for the alignment; the first may be changed in place.

        Args:
            ctx: torch's.
            feature: any shape.
            share: scalar; the norm of the second gradient, as a share of that of the first, over all processes.
        """
        ctx.save_for_backward(share)
        return feature.clone(), feature.view_as(feature)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's context
        """Sum of the first gradient and the scaled second one."""
        of_classifier, of_alignment = gradients
        (share,) = ctx.saved_tensors
        exact = torch.promote_types(of_alignment.dtype, torch.float32)
        squares = torch.stack([g.to(exact).square().sum() for g in gradients])
        if world().size > 1:
            dist.all_reduce(squares)
        classifier, alignment = squares.sqrt()
        scale = torch.where(alignment > 0, share * classifier / alignment, 0)
        return of_classifier + (scale * of_alignment.to(exact)).to(of_alignment.dtype), None


def split_balanced(feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The feature for the classifier and for the alignment, as `BalancedSplit` makes them."""
    pair: tuple[Tensor, Tensor] = BalancedSplit.apply(feature, share)
    return pair


PoolName = Literal["auto", "auto-last", "mean", "token", "channels-last"]


SHAPES = {
    "auto": "[B, F], [B, T, F] or [B, F, H, W]",
    "auto-last": "[B, F], [B, T, F] or [B, H, W, F]",
    "mean": "[B, F], [B, T, F] or [B, F, H, W]",
    "token": "[B, T, F]",
    "channels-last": "[B, H, W, F]",
}


class FeatureTap(nn.Module):
    """Catches what goes into a module or comes out of it, and makes one vector an image of it.

    The model stays as it is, and its answers too.

    Args:
        module: where to listen: any part of any model.
        before: catch its first input in place of its output.
        pool: `mean` over positions or tokens; the first `token`; `channels-last` for maps [B, H, W, F]; `auto` is
            `mean`, `auto-last` the same for models whose maps are [B, H, W, F].
        balance: scale the gradient that comes back from the alignment to `share` times the norm of the one that comes
            from the rest of the model (`gpt4image.align.taps`).

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
        if pool not in get_args(PoolName):
            raise ConfigError(unknown_name("pool", pool, list(get_args(PoolName))))
        self._pool = pool
        self._balance = balance
        self.register_buffer("share", torch.ones(()), persistent=False)
        self._caught: Tensor | None = None
        hook = module.register_forward_pre_hook(self._before) if before else module.register_forward_hook(self._after)
        self._handle = hook

    def remove(self) -> None:
        """Listen no longer."""
        self._handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files hold no feature of a pass."""
        return {**self.__dict__, "_caught": None}

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not inputs or not isinstance(inputs[0], Tensor):
            raise ConfigError(f"{type(module).__name__} is given no tensor as its first argument: tap what makes it.")
        return (self._catch(inputs[0]), *inputs[1:])

    def _after(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401 - what modules return
        if isinstance(output, Tensor):
            return self._catch(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor) and not hasattr(output, "_fields"):
            return (self._catch(output[0]), *output[1:])
        raise ConfigError(
            f"{type(module).__name__} answers {type(output).__name__}, not a tensor: choose a module inside it."
        )

    def _catch(self, feature: Tensor) -> Tensor:
        if self._balance and feature.requires_grad:
            feature, caught = split_balanced(feature, self.share)
        else:
            caught = feature
        self._caught = pool_feature(caught, self._pool)
        return feature

    def take(self) -> Tensor:
        """The feature of the last forward pass [B, F], once. ConfigError when there is none or it is of no use."""
        caught, self._caught = self._caught, None
        if caught is None:
            raise ConfigError("The module to take features from was not run in the forward pass.")
        return caught


def pool_feature(feature: Tensor, pool: str) -> Tensor:
    """A vector an image [B, F] of a feature in one of the shapes that the pool takes. ConfigError for others.

    It is a tensor of its own: what comes next in the model may work in place.
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
