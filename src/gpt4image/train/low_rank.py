"""Low-rank adapters, trained instead of the pretrained weights and merged into them at the end.

LoRA (Hu et al., arXiv 2106.09685, section 4.1) as `peft` has it: a layer W x becomes W x + B A x with A [r, in] and
B [out, r], which begins at 0. W + B A is a layer like any other, so what is deployed is the model without adapters.
"""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError
from gpt4image.core.format import counted, percent
from gpt4image.train.libraries import require_library
from gpt4image.train.transforms import seed_everything
from gpt4image.train.weights import classifier_names

ADAPTER_STREAM = 3  # separates the initial draws of the adapters: all arms start from the same ones
ADAPTED = (nn.Linear, nn.Conv2d)  # subclasses pad or normalise in ways that adapters do not reproduce


def add_adapters(model: nn.Module, rank: int, seed: int, sample: Tensor) -> None:
    """Freeze the pretrained weights of a model and put adapters beside them, in place; say how much is trained.

    Linear layers and convolutions get one, except grouped convolutions, frozen modules and layers whose weights the
    model uses without running them. What is new stays as it was: the classifier, and in a model with a `body` all that
    follows it.

    Args:
        model: a timm model, or one whose part `body` is.
        rank: rank r.
        seed: seed of the initial A.
        sample: an input of the model [1, ...].

    Raises:
        ConfigError: no layer can be adapted.
        MissingExtraError: peft is not installed.
    """
    require_library("peft")
    from peft import LoraConfig, inject_adapter_in_model

    part = getattr(model, "body", None)
    body = part if isinstance(part, nn.Module) else model
    names = adaptable(model, body, sample)
    if not names and any(isinstance(part, nn.Conv3d) for part in body.modules()):
        raise ConfigError(
            f"lora (--lora) adapts linear layers and convolutions of images, and {type(body).__name__} convolves over "
            "time as well, which peft cannot merge: set lora to 0, or choose a backbone that sees single frames, such "
            "as resnet50, or a transformer of clips, such as video:mvit_v2_s or video:swin3d_t."
        )
    if not names:
        raise ConfigError(
            f"{type(body).__name__} has no trained layer that can be adapted: set lora to 0, or freeze less."
        )
    seed_everything(seed, ADAPTER_STREAM)
    inside = {id(parameter) for parameter in body.parameters()}
    new = classifier_parameters(model) if body is model else set()
    trained = {
        id(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad and (id(parameter) not in inside or id(parameter) in new)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft warns of models that it cannot save
        # a pattern, because peft matches each name of a list with the ends of module names
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(map(re.escape, names)))
        inject_adapter_in_model(config, body)
    for parameter in model.parameters():
        if id(parameter) in trained:
            parameter.requires_grad_(True)
    learned, everything = count_parameters(model)
    say(
        f"LoRA of rank {rank} on {counted(len(names), 'layer')}: {learned:,} of {everything:,} parameters are trained "
        f"({percent(learned / everything, 1)})."
    )


def adaptable(model: nn.Module, body: nn.Module, sample: Tensor) -> list[str]:
    """Return the names in `body` of the layers that adapters can stand beside: those that run on an input [1, ...]."""
    ran: set[nn.Module] = set()
    layers = {name: part for name, part in body.named_modules() if type(part) in ADAPTED}
    handles = [part.register_forward_hook(lambda layer, *_: ran.add(layer)) for part in layers.values()]
    training = [part for part in model.modules() if part.training]
    try:
        with torch.no_grad():
            model.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
        for part in training:
            part.training = True
    heads = set(classifier_names(body)) if body is model else set()
    return [
        name
        for name, part in layers.items()
        if part in ran and name not in heads and getattr(part, "groups", 1) == 1 and part.weight.requires_grad
    ]


def classifier_parameters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters of a timm model's classifiers."""
    names = set(classifier_names(model))
    parts = (part for name, part in model.named_modules() if name in names)
    return {id(parameter) for part in parts for parameter in part.parameters()}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of parameters that are trained, and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learned in sizes if learned), sum(size for size, _ in sizes)


def merge_adapters(model: nn.Module) -> None:
    """Add what the adapters have learned to the weights, and take the adapters out, in place.

    Raises:
        ValueError: the result is not finite.
    """
    if find_spec("peft") is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, part in list(model.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge(safe_merge=True)
            model.set_submodule(name, part.get_base_layer())
