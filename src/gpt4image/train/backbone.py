"""Backbones: any timm model, with pretrained weights, from a local file, or from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.core.errors import ConfigError, first_line
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe

POPULAR = ["resnet50", "convnext_tiny", "vit_small_patch16_224"]


def build_backbone(recipe: Recipe, classes: int) -> nn.Module:
    """Build the recipe's backbone with a new classifier, on the CPU.

    Raises:
        ConfigError: unknown model, or weights that cannot be downloaded or do not fit.
    """
    model = create_model(
        recipe.backbone,
        pretrained=recipe.pretrained and recipe.checkpoint is None,
        num_classes=classes,
        **fitting_options(recipe),
    )
    if recipe.checkpoint is not None:
        load_weights(model, Path(recipe.checkpoint))
    return model


def fitting_options(recipe: Recipe) -> dict[str, Any]:
    """Return the options of `timm.create_model` that a recipe sets."""
    options: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if takes_image_size(recipe.backbone):
        options["img_size"] = recipe.image_size
    return options


def takes_image_size(name: str) -> bool:
    """Return whether a timm model, such as a transformer, is built for one image size."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return False
    return bool(cfg and cfg.fixed_input_size)


def create_model(name: str, pretrained: bool, **options: Any) -> nn.Module:  # noqa: ANN401 - passed on to timm
    """Call `timm.create_model`, with errors that name the fix."""
    import timm

    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise ConfigError(unknown_name("backbone", name, near_models(name)) + " All names: timm.list_models().")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"timm cannot build backbone {name} with {options}: {error}") from None
    except Exception as error:  # what a hub raises depends on the hub's client
        if not pretrained:
            raise
        raise ConfigError(
            f"Cannot download the pretrained weights of {name} ({type(error).__name__}). Without network access, "
            "set checkpoint (--checkpoint FILE), or train from scratch with pretrained off (--no-pretrained)."
        ) from None
    return model


def near_models(name: str) -> list[str]:
    """Return a few timm models with similar names."""
    from difflib import get_close_matches

    import timm

    return get_close_matches(name, timm.list_models(), n=5, cutoff=0.3) or POPULAR


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into a model; a classifier of another shape is skipped.

    Raises:
        ConfigError: the file cannot be read, or weights other than the classifier's do not fit.
    """
    from timm.models import clean_state_dict, load_state_dict

    if not path.is_file():
        raise ConfigError(f"Weights file {path} does not exist.")
    try:
        found: dict[str, Tensor] = clean_state_dict(load_state_dict(str(path), use_ema=True, weights_only=True))
    except Exception as error:  # many readers, many exceptions
        raise ConfigError(f"{path} cannot be read as model weights: {first_line(error)}") from None
    wanted = model.state_dict()
    classifier = find_classifier(model)
    prefix = next(name for name, module in model.named_modules() if module is classifier)
    head = {f"{prefix}.{key}" for key in classifier.state_dict()}
    if any(key in found and found[key].shape != wanted[key].shape for key in head):
        found = {key: value for key, value in found.items() if key not in head}
    misfits = {key for key in wanted.keys() & found.keys() if wanted[key].shape != found[key].shape}
    wrong = (wanted.keys() - found.keys() - head) | misfits | (found.keys() - wanted.keys())
    if wrong:
        raise ConfigError(
            f"{path} does not hold the weights of this backbone: {min(wrong)!r} is missing, unexpected or of another "
            "shape."
        )
    model.load_state_dict(found, strict=False)


def whole_state(backbone: nn.Module, trained: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the whole backbone, with those of its trained part replaced, on the CPU."""
    state = {**backbone.state_dict(), **trained.state_dict()}
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
