"""Frozen modules: excluded from training, and if they come first in a model, run once and their output cached.

A model whose first modules are frozen is split into a stem and the rest, rest(stem(x)) = model(x). The output of the
stem is stored for some augmented views of each image, and training runs the rest alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import digest, exclusive, fill_array
from gpt4image.core.registry import unknown_name
from gpt4image.embed.encoders import hash_weights
from gpt4image.images.table import ImageTable
from gpt4image.train.data import ImageInputs, Inputs, Key
from gpt4image.train.guidance import CropTeacher
from gpt4image.train.processes import fold_batch_norms, order_channels, same_output
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.transforms import Normalization, StrongView, augmented_view, evaluated_view, preprocessing

CACHED_AUGMENTATION = ("crop_scale", "flip", "color_jitter", "auto_augment", "random_erase", "image_size")


def frozen_modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return modules by name. ConfigError if one does not exist."""
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            shallow = [module for module in known if module and module.count(".") < 2]
            raise ConfigError(f"freeze: {unknown_name('module', name, shallow)}")
    return [known[name] for name in names]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Exclude modules from training, the running statistics of their normalisation layers included."""
    for module in modules:
        module.requires_grad_(False).eval()


class Shown(nn.Module):
    """A teacher's vectors of its student's inputs.

    Args:
        teacher: the teacher. It is no part of this module: its weights are neither trained nor saved.
        normalize: what has prepared the inputs.
    """

    def __init__(self, teacher: CropTeacher, normalize: Normalization) -> None:
        super().__init__()
        self._embed, self._normalize = teacher.embed_crops, normalize

    def forward(self, inputs: Tensor) -> Tensor:
        """Return unit vectors [B, D] of normalised inputs [B, 3, H, W]; of clips [B, T, 3, H, W] the frames' mean."""
        if inputs.ndim == 5:
            frames: Tensor = self(inputs.flatten(0, 1))
            return F.normalize(frames.view(*inputs.shape[:2], -1).mean(dim=1), dim=1)
        return self._embed(self._normalize.colours(inputs))


@dataclass(frozen=True)
class InputSource:
    """A backbone together with the inputs of its trained part.

    Attributes:
        trained: the part of the backbone that is trained: all of it, or what follows the cached stem.
        cache: cache of the stem's output; None if the inputs are images.
        augmentation: version of the augmentation.
    """

    trained: nn.Module
    images: ImageTable
    recipe: Recipe
    config: dict[str, Any]
    cache: FeatureCache | None
    augmentation: int = AUGMENTATION

    @property
    def normalize(self) -> Normalization:
        """What prepares the inputs on their device."""
        return Normalization.of(self.config)

    def training(self, rows: np.ndarray, seed: int) -> Inputs:
        """Return augmented inputs of the images at some table positions [N]."""
        view = augmented_view(self.recipe, self.config, self.augmentation)
        if self.cache is None:
            return ImageInputs(self.images, rows, view, seed)
        images = ImageInputs(self.images, rows, view)  # without the seed: all runs share the cached views
        name = f"train-{images.identity[:8]}"  # arms may train on different images
        return self.cache.fill(name, images, self.recipe.cached_views)

    def strong(self, rows: np.ndarray, seed: int) -> Inputs:
        """Return strongly augmented inputs of the same images, drawn independently.

        A cache holds as many of these views as of the others: the stem is frozen, so its output for them can be stored
        as well. Fresh ones at every step would make the stem the larger part of the work.
        """
        view = StrongView(augmented_view(self.recipe, self.config, self.augmentation, strong=True))
        if self.cache is None:
            return ImageInputs(self.images, rows, view, seed)
        images = ImageInputs(self.images, rows, view)
        name = f"strong-{digest(images.identity, self.recipe.strong_augment)[:8]}"
        return self.cache.fill(name, images, self.recipe.cached_views)

    def second(self, inputs: Inputs, rows: np.ndarray, seed: int) -> Inputs:
        """Return second views of the same images, drawn independently; of a cache the next of its views.

        Args:
            inputs: the first views.
            rows: table positions of the images [N].
            seed: seed of the run.
        """
        if self.cache is not None:
            return NextView(inputs)
        view = StrongView(augmented_view(self.recipe, self.config, self.augmentation))
        return ImageInputs(self.images, rows, view, seed)

    def shown_to(self, teacher: CropTeacher, rows: np.ndarray) -> Inputs | None:
        """Return a teacher's vectors of the cached views; None without a cache, where it sees the inputs themselves."""
        if self.cache is None:
            return None
        images = ImageInputs(self.images, rows, augmented_view(self.recipe, self.config, self.augmentation))
        identity = digest(self.cache.identity, teacher.revision)
        cache = replace(self.cache, stem=Shown(teacher, self.normalize), identity=identity)
        return cache.fill(f"teacher-{digest(images.identity, identity)[:8]}", images, self.recipe.cached_views)

    def evaluation(self, rows: np.ndarray, name: str) -> Inputs:
        """Return inputs of the images at some table positions [N], resized and cropped deterministically."""
        images = ImageInputs(self.images, rows, evaluated_view(self.config))
        return images if self.cache is None else self.cache.fill(name, images)


def prepare_inputs(
    backbone: nn.Module,
    images: ImageTable,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    augmentation: int = AUGMENTATION,
) -> InputSource:
    """Freeze modules as the recipe says and, if it caches their output, split the backbone.

    Args:
        backbone: whole backbone, on the CPU.
        folder: folder of cached features.
        device: device that computes them.
        augmentation: version of the augmentation.

    Raises:
        ConfigError: the backbone lacks a module to freeze, or cannot be split.
    """
    config = preprocessing(backbone, recipe.image_size)
    freeze(frozen_modules(backbone, recipe.freeze))
    if not recipe.cached_views:
        return InputSource(backbone, images, recipe, config, None, augmentation)
    shape = (2, *([images.frames.count] if images.frames else []), 3, recipe.image_size, recipe.image_size)
    sample = torch.linspace(-2, 2, math.prod(shape)).view(shape)
    stem, trained = split_model(backbone.eval(), recipe.freeze, sample)
    identity = stem_identity(backbone, recipe, config, augmentation)
    quick = order_channels(fold_batch_norms(stem, sample).to(device), torch.channels_last)  # faster on a CPU
    cache = FeatureCache(quick, folder / identity[:16], identity, device, Normalization.of(config))
    return InputSource(trained, images, recipe, config, cache, augmentation)


def stem_identity(backbone: nn.Module, recipe: Recipe, config: dict[str, Any], augmentation: int = AUGMENTATION) -> str:
    """Hash everything that cached features depend on, except the images."""
    weights = {
        f"{name}.{key}": value
        for name, module in zip(recipe.freeze, frozen_modules(backbone, recipe.freeze), strict=True)
        for key, value in module.state_dict().items()
    }
    settings = {key: getattr(recipe, key) for key in CACHED_AUGMENTATION}
    version = () if augmentation == 1 else (f"augmentation {augmentation}",)
    known = (repr(sorted(part.items())) for part in (settings, config))
    return digest(recipe.backbone, hash_weights(weights), *known, *version)


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """Ends the forward pass with the output of the last frozen module."""

    def __init__(self, output: Tensor) -> None:
        self.output = output


class FrozenStem(nn.Module):
    """The part of a model up to the output of one of its modules.

    Args:
        model: the whole model; it stays unchanged.
        last: last module of the stem.
    """

    def __init__(self, model: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.model, self._last = model, last

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the last frozen module for images [B, 3, H, W], or [B, T, ...] for frames of clips."""

        def stop(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            raise _Reached(output)

        handle = self._last.register_forward_hook(stop)
        try:
            self.model(images)
        except _Reached as reached:
            output = reached.output
            return output.view(*images.shape[:2], *output.shape[1:]) if images.ndim == 5 else output
        finally:
            handle.remove()
        raise ConfigError("freeze: the backbone never runs the modules whose output should be cached.")


def split_model(model: nn.Module, names: Sequence[str], images: Tensor) -> tuple[FrozenStem, nn.Module]:
    """Split a model into its frozen stem and the rest, so that rest(stem(x)) equals model(x).

    Args:
        model: the whole model, in evaluation mode.
        names: names of the frozen modules, which together must be everything that runs first.
        images: a batch [B, 3, H, W], or of clips [B, T, 3, H, W], on which to compare the two.

    Returns:
        The stem, and a copy of the model in which the frozen modules are identities.

    Raises:
        ConfigError: another module runs before the last frozen one.
    """
    order = _execution_order(model, images)
    positions = [order.index(name) for name in names if name in order]
    if not positions:
        raise ConfigError(f"cached_views (--cached-views): the backbone runs none of the modules {', '.join(names)}.")
    stem = FrozenStem(model, model.get_submodule(order[max(positions)]))
    rest = copy.deepcopy(model)
    for name in names:
        rest.set_submodule(name, nn.Identity())
    if not _same_output(model, stem, rest, images):
        between = [name for name in order[: max(positions)] if not _covered(name, names)]
        raise ConfigError(
            "cached_views (--cached-views): the backbone runs other modules before the last of the frozen ones "
            f"({', '.join(names)}), so their output cannot replace the images. Freeze these as well: "
            f"{', '.join(between) or '-'}; or set cached_views (--cached-views) to 0."
        )
    return stem, rest


@torch.no_grad()
def _execution_order(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of a model's modules in the order in which a forward pass leaves them."""
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
def _same_output(model: nn.Module, stem: nn.Module, rest: nn.Module, images: Tensor) -> bool:
    """Return whether the split model computes the same logits as the whole one, up to rounding."""
    whole = model(images)
    try:
        split = rest(stem(images))
    except (RuntimeError, IndexError, ValueError):
        return False
    return split.shape == whole.shape and same_output(split, whole)


def _covered(name: str, frozen: Sequence[str]) -> bool:
    """Return whether a module is frozen, lies inside a frozen one, or contains one.

    >>> _covered("layer1.0", ["layer1"]), _covered("layer1", ["layer1.0"]), _covered("maxpool", ["layer1"])
    (True, True, False)
    """
    return any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in frozen)


@dataclass(frozen=True)
class FeatureCache:
    """Cached outputs of a frozen module, in float16.

    Attributes:
        folder: folder of the `.npy` files.
        identity: hash of everything that the outputs depend on, except the images.
        normalize: what prepares the images on the device.
    """

    stem: nn.Module
    folder: Path
    identity: str
    device: torch.device
    normalize: Normalization
    batch_size: int = 64

    def fill(self, name: str, images: ImageInputs, views: int = 1) -> CachedInputs:
        """Compute what is missing, with a progress line, and open the result.

        Args:
            images: the images; draw v gives view v.
            views: number of views of each image.
        """
        path = self.folder / f"{name}.npy"
        shape = (views * len(images), *self._compute(images, slice(0, 1)).shape[1:])
        with exclusive(self.folder / f"{name}.lock", f"the features in {path}", wait=True):
            plan = f"{self.identity} {images.identity} {views}"
            steps = fill_array(path, shape, "float16", self.batch_size, plan, lambda rows: self._compute(images, rows))
            console.follow(f"Cache {name} features", shape[0], steps)
        return CachedInputs(path, len(images))

    @torch.no_grad()
    def _compute(self, images: ImageInputs, rows: slice) -> np.ndarray:
        keys = (divmod(row, len(images)) for row in range(rows.start, rows.stop))  # row = view x N + position
        batch = torch.stack([images[key] for key in keys]).to(self.device)
        batch = batch.to(memory_format=torch.channels_last) if batch.ndim == 4 else batch
        return np.asarray(self.stem(self.normalize(batch)).cpu().numpy())


class NextView(Inputs):
    """Cached inputs: for each image, the view after the requested one."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, key: Key) -> Tensor:
        draw, position = key
        return self._inputs[(draw + 1, position)]


class CachedInputs(Inputs):
    """Cached features instead of images. Draw d of an image is its view (d + position) modulo the number of views.

    Attributes:
        features: memory-mapped, float16 [views x N, ...].
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        try:
            self.features: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}). Delete it to compute the features again.") from None

    # a loader's worker maps the file again: a pickled memory map would be a copy
    def __getstate__(self) -> tuple[Path, int]:
        return self._path, self._size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: Key) -> Tensor:
        draw, position = key
        views = len(self.features) // self._size
        row = (draw + position) % views * self._size + position
        return torch.from_numpy(self.features[row].astype(np.float32))
