"""Weights files, written by this or other code, for a backbone."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, first_line
from gpt4image.core.files import check_fetched
from gpt4image.core.format import counted

# Tensors that count steps or operations and hold no weights.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged|teacher)([._]|$)", re.IGNORECASE)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into a model; a classifier of another shape is skipped.

    Other code nests the weights (`state_dict`, `model`, `student`) and wraps the model (`module.`, `backbone.`). The
    prefix under which most tensors fit the model is taken; of equally good ones, that of an average of the weights.
    Tensors of modules that the model does not have, such as a projector, are left out with a note. Where the file does
    not fit, timm converts what it knows: position embeddings of another image size, DINOv2's names.

    Raises:
        ConfigError: the file cannot be read, or weights other than the classifier's do not fit.
    """
    wanted = model.state_dict()
    content = read_tensors(path)
    prefix = find_prefix(content, wanted)
    found = {name.removeprefix(prefix): tensor for name, tensor in content.items() if name.startswith(prefix)}
    heads = tuple(f"{name}." for name in classifier_names(model))
    body = {name: tensor for name, tensor in wanted.items() if not name.startswith(heads)}
    converted: list[str] = []
    if not fits(found, body) and fits(other := convert(model, found), body):
        converted = [name for name in body if name not in found or found[name].shape != body[name].shape]
        found = other
    head = {name: found.pop(name) for name in list(found) if name.startswith(heads)}
    if any(name not in wanted or tensor.shape != wanted[name].shape for name, tensor in head.items()):
        head = {}
    modules = {name for name, _ in model.named_children()}
    foreign = {name.partition(".")[0] for name in found.keys() - wanted.keys() if not name.endswith(COUNTERS)} - modules
    found = {name: tensor for name, tensor in found.items() if name in wanted or name.partition(".")[0] in modules}
    check_fit(model, found, body, path)
    model.load_state_dict(found | head, strict=False)
    if prefix or foreign or converted:
        under = f" under {prefix.removesuffix('.')}" if prefix else ""
        fitted = f"; {counted(len(converted), 'tensor')} converted, such as {converted[0]}" if converted else ""
        left_out = f"; left out: {', '.join(sorted(foreign))}" if foreign else ""
        say(f"{path}: read {counted(len(found | head), 'tensor')}{under}{fitted}{left_out}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a weights file under dotted names, without the wrapper of torch.compile.

    Raises:
        ConfigError: the file does not exist, or cannot be read without running code.
    """
    require_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts store their arguments
                content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ConfigError(
            f"{path} cannot be read as model weights: it is damaged, or holds Python objects, which could run code. "
            "Save the weights alone: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # many readers, many exceptions
        raise ConfigError(f"{path} cannot be read as model weights: {first_line(error)}") from None
    return flatten_tensors(content)


def require_file(path: Path) -> None:
    """Raise ConfigError if there is no weights file of this name."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the weights file in it, such as best.safetensors.")
    if not path.is_file():
        raise ConfigError(f"The weights file {path} does not exist.")
    check_fetched(path, ConfigError)


def flatten_tensors(content: object) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries under dotted names."""
    tensors: dict[str, Tensor] = {}
    left, opened = [("", content)], set()
    while left:
        name, part = left.pop()
        if isinstance(part, Tensor):
            tensors[name.replace("_orig_mod.", "")] = part
        elif isinstance(part, Mapping) and id(part) not in opened:
            opened.add(id(part))  # a dictionary may hold itself
            left += [(f"{name}.{key}" if name else str(key), inner) for key, inner in list(part.items())[::-1]]
    return tensors


def find_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return the prefix, empty or with a dot at its end, under which most of the wanted tensors are found."""
    votes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        parts = name.split(".")
        for at in range(len(parts)):
            inner = ".".join(parts[at:])
            if inner in wanted and wanted[inner].shape == tensor.shape:
                votes["".join(f"{part}." for part in parts[:at])] += 1
    return max(votes, key=lambda prefix: (votes[prefix], bool(AVERAGED.search(prefix))), default="")


def fits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether all wanted tensors, counters apart, are there and have their shapes."""
    return all(
        name in tensors and tensors[name].shape == tensor.shape
        for name, tensor in wanted.items()
        if not name.endswith(COUNTERS)
    )


def convert(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as timm converts those of the original code of a model; unchanged if it does not know them."""
    known = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(known(dict(tensors), model)) if known else dict(tensors)
    except Exception:  # a file of another kind can fail anywhere in it; `check_fit` says what does not fit
        return dict(tensors)


def classifier_names(model: nn.Module) -> list[str]:
    """Return the names of a timm model's classifiers; distilled models have two."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    heads = found if isinstance(found, tuple) else (find_classifier(model),)
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def check_fit(model: nn.Module, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Raise ConfigError with the first tensor that is misshapen, missing or surplus, counters apart."""
    reasons = {}
    for name, tensor in wanted.items():
        if name in found and found[name].shape != tensor.shape:
            reasons[name] = f"has the shape {list(found[name].shape)} instead of {list(tensor.shape)}"
        elif name not in found:
            reasons[name] = "is missing"
    fitting = len(wanted) - len(reasons)
    reasons |= {name: "is not part of the backbone" for name in found if name not in wanted}
    reasons = {name: reason for name, reason in reasons.items() if not name.endswith(COUNTERS)}
    if reasons:
        name, reason = next(iter(reasons.items()))
        raise ConfigError(
            f"{path} does not hold the weights of this backbone ({type(model).__name__}): {fitting} of "
            f"{counted(len(wanted), 'tensor')} fit, and {name!r} {reason}. Choose the backbone and the image size that "
            "the file was trained with."
        )
