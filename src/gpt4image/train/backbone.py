"""Backbones: any timm model, from pretrained weights, a local file, or scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.core.errors import ConfigError, first_line
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe


def build_backbone(recipe: Recipe, classes: int) -> nn.Module:
    """The recipe's backbone with a new classifier for that many classes, on the CPU.

    Raises:
        ConfigError: unknown model, weights that cannot be fetched, or a weights file that does not fit.
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
    """Options of `timm.create_model` that the recipe sets; transformers are built for one image size."""
    options: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if takes_image_size(recipe.backbone):
        options["img_size"] = recipe.image_size
    return options


def takes_image_size(name: str) -> bool:
    """Whether a timm model is built for one image size: those whose pretrained settings fix it."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return False
    return bool(cfg and cfg.fixed_input_size)


def create_model(name: str, pretrained: bool, **options: Any) -> nn.Module:  # noqa: ANN401 - passed on to timm
    """`timm.create_model` with errors that name the fix."""
    import timm

    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise ConfigError(unknown_name("backbone", name, near_models(name)) + " All names: timm.list_models().")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Backbone {name} cannot be built with {options}: {error}") from None
    except Exception as error:  # what a hub raises depends on the hub's client
        if not pretrained:
            raise
        raise ConfigError(
            f"The pretrained weights of {name} cannot be fetched ({type(error).__name__}). Without "
            "network: give a weights file "
            "with --checkpoint FILE, or start from scratch with --no-pretrained."
        ) from None
    return model


def near_models(name: str) -> list[str]:
    """A few timm models of a like name."""
    from difflib import get_close_matches

    import timm

    return get_close_matches(name, timm.list_models(), n=5, cutoff=0.3) or [
        "resnet50",
        "convnext_tiny",
        "vit_small_patch16_224",
    ]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into a model; the classifier stays new where the file's has another shape.

    Raises:
        ConfigError: the file cannot be read, or other parts than the classifier do not fit.
    """
    from timm.models import clean_state_dict, load_state_dict

    if not path.is_file():
        raise ConfigError(f"Weights file {path} does not exist.")
    try:
        found: dict[str, Tensor] = clean_state_dict(load_state_dict(str(path), use_ema=True, weights_only=True))
    except Exception as error:  # many readers, many exceptions
        raise ConfigError(f"{path} cannot be read as model weights: {first_line(error)}") from None
    wanted = model.state_dict()
    head = classifier_keys(model)
    if any(key in found and found[key].shape != wanted[key].shape for key in head):
        found = {key: value for key, value in found.items() if key not in head}
    missing = set(wanted) - set(found) - head
    misfits = {key for key in wanted.keys() & found.keys() if wanted[key].shape != found[key].shape}
    if missing or misfits or set(found) - set(wanted):
        example = sorted(missing | misfits | (set(found) - set(wanted)))[0]
        raise ConfigError(
            f"{path} does not hold the weights of this backbone: {example!r} is missing, surplus or of another shape."
        )
    model.load_state_dict(found, strict=False)


def classifier_keys(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors in the model's state dict."""
    classifier = find_classifier(model)
    prefix = next(name for name, module in model.named_modules() if module is classifier)
    return {f"{prefix}.{key}" for key in classifier.state_dict()}


def whole_state(backbone: nn.Module, trained: nn.Module) -> dict[str, Tensor]:
    """Weights of the whole backbone, those that were trained taken from the trained part; on the CPU."""
    state = {**backbone.state_dict(), **trained.state_dict()}
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
