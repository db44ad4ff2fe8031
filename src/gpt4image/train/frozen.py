"""Frozen modules: they stay as they are, and where they come first their output can be computed once and stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import exclusive, fill_array
from gpt4image.core.registry import unknown_name
from gpt4image.train.data import ImageInputs, Inputs, Key

TOLERANCE = 1e-3


"""Largest difference of logits, in units of their spread, at which the split model counts as the whole one."""


def frozen_modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of those names. ConfigError when one does not exist."""
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            shallow = [module for module in known if module and module.count(".") < 2]
            raise ConfigError(f"freeze: {unknown_name('module', name, shallow)}")
    return [known[name] for name in names]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Exclude modules from training; the statistics of their normalisation layers stay too."""
    for module in modules:
        module.requires_grad_(False).eval()


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """Carries the output of the last frozen module out of the forward pass."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class FrozenStem(nn.Module):
    """The part of a model up to the output of one of its modules.

    Args:
        model: the whole model; it is not changed.
        last: the module that comes last in the stem.
    """

    def __init__(self, model: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.model, self._last = model, last

    def forward(self, images: Tensor) -> Tensor:
        """Output of the last frozen module for images [B, 3, H, W]."""

        def stop(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            raise _Reached(output)

        handle = self._last.register_forward_hook(stop)
        try:
            self.model(images)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise ConfigError("freeze: the modules to store the output of are not run by the backbone.")


def split_model(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[FrozenStem, nn.Module]:
    """Split a model into its frozen stem and the rest, so that rest(stem(x)) is model(x).

    Args:
        model: the whole model, in evaluation mode.
        names: names of the frozen modules; together they must be all that comes first.
        images: a batch [B, 3, H, W] on which the two are compared.

    Returns:
        The stem, and a copy of the model in which the frozen modules pass their input on.

    Raises:
        ConfigError: the model cannot be split there: something else takes part before the last frozen module.
    """
    order = execution_order(model, images)
    positions = [order.index(name) for name in names if name in order]
    if not positions:
        raise ConfigError(f"cached_views: the backbone runs none of the modules {', '.join(names)}.")
    stem = FrozenStem(model, model.get_submodule(order[max(positions)]))
    rest = copy.deepcopy(model)
    for name in names:
        rest.set_submodule(name, nn.Identity())
    if not same_answers(model, stem, rest, images):
        between = [name for name in order[: max(positions)] if not covered(name, names)]
        raise ConfigError(
            f"cached_views: the modules frozen ({', '.join(names)}) are not all that this backbone runs before the "
            "last of them, so their output cannot stand in for the images. Freeze these as well: "
            f"{', '.join(between) or '-'}; or set cached_views to 0."
        )
    return stem, rest


def covered(name: str, frozen: Sequence[str]) -> bool:
    """Whether a module is frozen, lies inside a frozen one, or holds one.

    >>> covered("layer1.0", ["layer1"]), covered("layer1", ["layer1.0"]), covered("maxpool", ["layer1"])
    (True, True, False)
    """
    return any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in frozen)


@torch.no_grad()
def execution_order(model: nn.Module, images: Tensor) -> list[str]:
    """Names of a model's modules in the order in which a forward pass leaves them."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda _, __, ___, name=name: order.append(name))
        for name, module in model.named_modules()
        if name
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return order


@torch.no_grad()
def same_answers(model: nn.Module, stem: nn.Module, rest: nn.Module, images: Tensor) -> bool:
    """Whether the split model answers as the whole one does, up to rounding."""
    whole = model(images)
    try:
        split = rest(stem(images))
    except (RuntimeError, IndexError, ValueError):
        return False
    return split.shape == whole.shape and bool((split - whole).abs().max() <= TOLERANCE * (1e-6 + whole.std()))


@dataclass(frozen=True)
class FeatureCache:
    """Stored outputs of a frozen stem.

    Attributes:
        stem: computes them.
        folder: where they lie.
        identity: hash of all that they depend on, images aside.
        device: where they are computed.
        batch_size: images at a time.
    """

    stem: nn.Module
    folder: Path
    identity: str
    device: torch.device
    batch_size: int = 64

    def store(self, name: str, inputs: ImageInputs, views: int, images_hash: str) -> CachedInputs:
        """Compute what is missing, show progress, and open the result.

        Args:
            name: name of the file, such as the split's.
            inputs: the images; view v of an image is its draw of epoch v.
            views: draws of each image that are stored.
            images_hash: hash of the images' ids, in order.
        """
        path = self.folder / f"{name}.npy"
        shape = (views * len(inputs), *self._compute(inputs, slice(0, 1)).shape[1:])
        with exclusive(self.folder / f"{name}.lock", f"the features in {path}", wait=True):
            plan = f"{self.identity} {images_hash} {views}"
            steps = fill_array(path, shape, "float16", self.batch_size, plan, lambda rows: self._compute(inputs, rows))
            console.follow(f"Cache {name} features", shape[0], steps)
        return CachedInputs(path, len(inputs))

    @torch.no_grad()
    def _compute(self, inputs: ImageInputs, rows: slice) -> np.ndarray:
        keys = (divmod(row, len(inputs)) for row in range(rows.start, rows.stop))
        batch = torch.stack([inputs[key] for key in keys]).to(self.device, memory_format=torch.channels_last)
        return np.asarray(self.stem(batch).cpu().numpy())


class CachedInputs(Inputs):
    """Stored features in the place of images; epoch e sees view (e + position) modulo the number of views."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        try:
            self._features = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}). Delete it to compute the features again.") from None

    def __getstate__(self) -> tuple[Path, int]:
        return self._path, self._size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: Key) -> Tensor:
        epoch, position = key
        views = len(self._features) // self._size
        row = (epoch + position) % views * self._size + position
        return torch.from_numpy(self._features[row].astype(np.float32))
