"""Backbones: any timm model, with pretrained weights, from a local file, or from scratch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, WeightsError, first_line
from gpt4image.core.files import read_json
from gpt4image.core.format import counted, percent
from gpt4image.core.hub import HubError, described, hub_access, require_model
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe
from gpt4image.train.weights import load_weights

SOURCES = ("hf-hub:", "local-dir:")  # prefixes of models that are not timm's own
NO_SOURCE = "Name a timm model, or local-dir:FOLDER with its config.json and model.safetensors."
HUB_ADDRESS = "https://(?:huggingface[.]co|hf[.]co)/"
HUB_SOURCES = ("hf", "hf-hub", "hf_hub")
MOST_UNSEEN = 0.05  # largest share of the pixels that a backbone may ignore at the margins
POPULAR = ["resnet50", "convnext_tiny", "vit_small_patch16_224"]
VIDEO = "video:"  # prefix of the names of torchvision's video models
# First parts of names: of `DETECTOR:BACKBONE`, and of `HEAD:BACKBONE` for a segmentation model.
DETECTOR_NAMES = ("faster-rcnn", "retinanet", "fcos", "ssdlite", "detr", "rt-detr")
SEGMENTER_NAMES = ("deeplabv3", "fcn", "lraspp", "segformer")


def build_backbone(recipe: Recipe, classes: int, **messages: str) -> nn.Module:
    """Build the recipe's backbone with a new classifier, on the CPU.

    Args:
        recipe: its name, weights and image size.
        classes: number of classes.
        messages: the `remedy` of `create_model`.

    Raises:
        ConfigError: unknown model, or weights that do not fit.
        WeightsError: the pretrained weights cannot be downloaded.
    """
    model = create_model(
        recipe.backbone,
        pretrained=recipe.pretrained and recipe.checkpoint is None,
        num_classes=classes,
        **fitting_options(recipe),
        **messages,
    )
    if recipe.checkpoint is not None:
        load_weights(model, Path(recipe.checkpoint))
    return model


def fitting_options(recipe: Recipe) -> dict[str, Any]:
    """Return the options of `timm.create_model` that a recipe sets."""
    options: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    return model_options(recipe.backbone, recipe.image_size) | options


def model_options(name: str, image_size: int | None) -> dict[str, Any]:
    """Return the arguments in a model's configuration, and its image size if that is fixed."""
    import timm

    known = timm_name(name)
    source, _, place = known.partition(":")
    config: dict[str, Any] = {}
    options: dict[str, Any] | None = None
    try:
        if source == "local-dir":
            settings = read_json(Path(place) / "config.json")
            config, options = settings.get("pretrained_cfg", {}), settings.get("model_args")
        elif source == "hf-hub":
            with hub_access():
                config, _, options = timm.models.load_model_config_from_hf(place)
        else:
            config = {"fixed_input_size": timm.models.get_pretrained_cfg_value(known, "fixed_input_size")}
    except Exception:  # `create_model` says why
        return {}
    options = {key: value for key, value in (options or {}).items() if key not in ("num_classes", "pretrained")}
    if image_size is not None and (config.get("fixed_input_size") or "img_size" in options):
        options["img_size"] = image_size
    return options


def body_of(name: str) -> str:
    """Return the backbone in the model name of a recipe.

    >>> body_of("ssdlite:resnet18"), body_of("resnet18"), body_of("hf-hub:me/mine")
    ('resnet18', 'resnet18', 'hf-hub:me/mine')
    """
    kind, _, body = name.partition(":")
    return body if kind in (*DETECTOR_NAMES, *SEGMENTER_NAMES) else name


def kind_of(name: str, known: Sequence[str] = DETECTOR_NAMES) -> str:
    """Return which detector or segmentation head a recipe's backbone stands for.

    Args:
        name: `KIND:BACKBONE`, or a backbone alone, which stands for the first kind.
        known: the kinds.

    Raises:
        ConfigError: it names a kind of another task.

    >>> kind_of("ssdlite:resnet18"), kind_of("resnet18"), kind_of("resnet18", SEGMENTER_NAMES)
    ('ssdlite', 'faster-rcnn', 'deeplabv3')
    """
    kind = name.partition(":")[0]
    if kind in (*DETECTOR_NAMES, *SEGMENTER_NAMES) and kind not in known:
        raise ConfigError(f"{name} is a model for another task: begin it with {', '.join(known)} (--backbone).")
    return kind if kind in known else known[0]


def timm_name(name: str) -> str:
    """Return timm's name of a model: the hub's `timm/NAME` is timm's NAME.

    >>> timm_name("hf_hub:timm/resnet10t.c3_in1k"), timm_name("hf:me/mine"), timm_name("resnet50")
    ('resnet10t.c3_in1k', 'hf-hub:me/mine', 'resnet50')
    >>> timm_name("https://huggingface.co/timm/resnet10t.c3_in1k")
    'resnet10t.c3_in1k'
    """
    import timm

    name = re.sub(rf"^{HUB_ADDRESS}(.*?)/?$", r"hf-hub:\1", name)
    source, _, place = name.partition(":")
    on_hub = source in HUB_SOURCES and bool(place)
    plain = (place if on_hub else name).removeprefix("timm/")
    if timm.is_model(plain):
        return plain
    return f"hf-hub:{place}" if on_hub else name


def create_model(
    name: str,
    pretrained: bool,
    *,
    remedy: str = "set checkpoint (--checkpoint FILE), or train from scratch with pretrained off (--no-pretrained)",
    **options: Any,  # noqa: ANN401 - passed on to timm
) -> nn.Module:
    """Call `timm.create_model`, with errors that name the fix.

    Args:
        name: name of the model, see `timm_name`.
        pretrained: load pretrained weights.
        remedy: what to do where there are none.
        options: the options of `timm.create_model`.
    """
    import timm

    known = timm_name(name)
    check_backbone_name(known)
    local = not (pretrained or known.startswith("hf-hub:")) or known.startswith("local-dir:")
    try:
        with nullcontext() if local else hub_access():
            model: nn.Module = timm.create_model(known, pretrained=pretrained, **options)
    except Exception as error:  # models and the hub's client raise many kinds of errors
        if pretrained:
            create_model(name, pretrained=False, **options)  # raises if the weights are not the reason
            raise WeightsError(
                f"The pretrained weights of {name} are not available ({described(error)}). "
                f"Without network access, {remedy}."
            ) from None
        if known.startswith(SOURCES):
            raise ConfigError(f"{name} cannot be loaded: {described(error).rstrip('.')}. {NO_SOURCE}") from None
        raise ConfigError(
            f"timm cannot build {name} with {options} ({first_line(error)}). Choose another image size or backbone."
        ) from None
    return model


def can_build(name: str, options: Mapping[str, Any]) -> bool:
    """Whether timm can build a model with some options; nothing is allocated."""
    import timm

    try:
        with torch.device("meta"):
            timm.create_model(timm_name(name), pretrained=False, **options)
    except Exception:  # each architecture raises its own errors
        return False
    return True


def require_backbone(name: str) -> None:
    """Raise ConfigError if there is no model of a name: in timm, in a folder, or in the hub and its cache."""
    known = timm_name(name)
    check_backbone_name(known)
    source, _, place = known.partition(":")
    fault = "" if source != "local-dir" or Path(place).is_dir() else "the folder does not exist"
    if source == "hf-hub":
        try:
            require_model(place)
        except (HubError, ValueError) as error:
            fault = first_line(error)
    if fault:
        raise ConfigError(f"{name} cannot be loaded: {fault.rstrip('.')}. {NO_SOURCE}")


def check_backbone_name(name: str) -> None:
    """Raise ConfigError if timm has no model of a name, or no pretrained weights of its tag."""
    import timm
    from timm.models import get_arch_pretrained_cfgs

    if name.startswith(SOURCES):
        return
    if not timm.is_model(name):
        kind = name.partition(":")[0]
        tasks = {"detection": DETECTOR_NAMES, "segmentation": SEGMENTER_NAMES}
        task = next((task for task, kinds in tasks.items() if kind in kinds), None)
        if name.startswith(VIDEO):
            raise ConfigError(f"{name} is a model for clips (--frames): name a backbone for still images.")
        if ":" in name and task is not None:
            raise ConfigError(f"{name} is a model for {task}: set task to {task} (--task), or name another backbone.")
        on_hub = re.fullmatch(r"[\w.-]*\w/\w[\w.-]*", name)
        hub = f" For a model on the Hugging Face hub, write hf-hub:{name}." if on_hub else ""
        raise ConfigError(unknown_name("timm model", name, near_models(name)) + f"{hub} All names: timm.list_models().")
    architecture, _, tag = name.partition(".")
    weights = get_arch_pretrained_cfgs(architecture)
    if tag and name not in weights:
        tags = [known.partition(".")[2] for known in weights]
        raise ConfigError(unknown_name(f"pretrained weights of {architecture}", tag, tags))


@torch.no_grad()
def check_image_size(model: nn.Module, name: str, size: int) -> None:
    """Try a backbone on one image, and check that it sees the margins.

    Raises:
        ConfigError: the backbone does not accept images of this size, or misses many of their pixels.
    """
    training = model.training
    try:
        lost = unseen_margin(model.eval(), size)
    except Exception as error:  # asserts, shapes, divisions by zero: each architecture raises its own errors
        own = model.pretrained_cfg["input_size"][-1]  # type: ignore[index]
        raise ConfigError(
            f"{name} does not accept images of {size} x {size} pixels ({first_line(error)}). Choose another image "
            f"size, such as its own, {own} (--image-size)."
        ) from None
    finally:
        model.train(training)
    share = 1 - (1 - lost / size) ** 2
    if share > MOST_UNSEEN:
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        better = f"{size - lost} or {size - lost + patch[0]}" if patch else f"{size - lost}"
        raise ConfigError(
            f"{name} cannot see the last {counted(lost, 'row')} and {counted(lost, 'column')} of {size} x {size} "
            f"pixels, {percent(share, 0)} of the image. Choose another image size: {better} (--image-size)."
        )


def unseen_margin(model: nn.Module, size: int) -> int:
    """Return how many of an image's last rows do not affect a model's output, found by setting pixels to NaN."""
    seen, unseen = size, 0  # counts of last rows: the output depends on the former, not on the latter
    while seen - unseen > 1:
        rows = (seen + unseen) // 2 if unseen else 1
        image = torch.zeros(1, 3, size, size)
        image[:, :, size - rows :] = torch.nan
        if model(image).isnan().any():
            seen = rows
        else:
            unseen = rows
    return unseen


def near_models(name: str) -> list[str]:
    """Return a few timm models with similar names."""
    from difflib import get_close_matches

    import timm

    return get_close_matches(name, timm.list_models(), n=5, cutoff=0.3) or POPULAR


def whole_state(backbone: nn.Module, trained: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the whole backbone, with those of its trained part replaced, on the CPU."""
    return apart({**backbone.state_dict(), **trained.state_dict()})


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that do not share memory, as safetensors requires.

    Some models use one module in several places, and list its weights under the name of each.
    """
    found, seen = {}, set[int]()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found
