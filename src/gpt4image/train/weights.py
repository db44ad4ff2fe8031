"""Loading weights files, written by this or other code, into a backbone."""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, first_line
from gpt4image.core.files import check_fetched
from gpt4image.core.format import counted

# Tensors that count steps or operations rather than hold weights.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
# Names added by wrappers, also in the middle of names: torch.compile, FSDP, activation checkpointing, Lightning.
WRAPPERS = re.compile(r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|forward_module)\.")
# DINOv2 divides blocks into chunks for FSDP (`block_chunks`), and counts them on from chunk to chunk.
CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
LEAST_BYTES = 2  # bytes of the smallest number type that holds a weight without quantisation
LONGEST_HEADER = 10**8  # bytes, in safetensors

# Files that do not contain only weights, by their first bytes.
OTHER_KINDS = (
    (b"\x89HDF", "HDF5, as Keras writes it"),
    (b"GGUF", "GGUF"),
    (b"\x1f\x8b", "packed by gzip"),
    (b"{", "JSON"),
)
# Heads of torchvision's detectors and segmentation models that perform a different task.
OTHER_TASKS = ("roi_heads.mask_", "roi_heads.keypoint_", "aux_classifier.")
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
    if misfits := count_misfits(found, body):
        other = convert(model, found)
        if count_misfits(other, body) < misfits:  # also of a file that does not fit, whose fault is then the real one
            converted = [name for name in body if name not in found or found[name].shape != body[name].shape]
            found = other
    head = {name: found.pop(name) for name in list(found) if name.startswith(heads)}
    if any(name not in wanted or tensor.shape != wanted[name].shape for name, tensor in head.items()):
        head = {}
    modules = {name for name, _ in model.named_children()}
    foreign = {name.partition(".")[0] for name in found.keys() - wanted.keys() if not name.endswith(COUNTERS)} - modules
    found = {name: tensor for name, tensor in found.items() if name in wanted or name.partition(".")[0] in modules}
    check_fit(model, found, body, path)
    check_values(found, wanted, path)
    model.load_state_dict(found | head, strict=False)
    if prefix or foreign or converted:
        under = f" under {prefix.removesuffix('.')}" if prefix else ""
        fitted = f"; {counted(len(converted), 'tensor')} converted, such as {converted[0]}" if converted else ""
        left_out = f"; left out: {', '.join(sorted(foreign))}" if foreign else ""
        say(f"{path}: read {counted(len(found | head), 'tensor')}{under}{fitted}{left_out}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a weights file under dotted names, without wrappers such as that of torch.compile.

    Raises:
        ConfigError: the file does not exist, or cannot be read without running code.
    """
    require_file(path)
    if kind := other_kind(path):
        raise ConfigError(
            f"{path} is {kind}, not a weights file. Save only the weights: torch.save(model.state_dict(), FILE)."
        )
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            # Training scripts store their arguments. An open file is recognised by its content, not its name.
            with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ConfigError(
            f"{path} cannot be read as model weights: it is damaged or contains Python objects, which could run code. "
            "Save only the weights: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # each reader raises its own exceptions
        # Without advice on the call itself, and without what a reader of pickles says of a text: one byte, as a number.
        reason = re.split(r"\. In PyTorch|\. This is an internal", first_line(error))[0]
        reason = "it is no archive of torch.save" if reason.isdecimal() else reason
        raise ConfigError(
            f"{path} cannot be read as model weights: {reason}. It may be truncated or have another format: save only "
            "the weights, torch.save(model.state_dict(), FILE)."
        ) from None
    if not (tensors := flatten_tensors(content)):
        raise ConfigError(f"{path} contains no tensors. Save the weights: torch.save(model.state_dict(), FILE).")
    return tensors


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name: with the length of a header, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER


def other_kind(path: Path) -> str:
    """Return what a file is if it cannot be a file of weights; empty if it may be one."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty (0 bytes)"
    if path.suffix.casefold() == ".onnx":
        return "an ONNX graph"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if not zipfile.is_zipfile(path):
        return next((kind for mark, kind in OTHER_KINDS if start.startswith(mark)), "")
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
    kinds = (("/constants.pkl", "a TorchScript program"), (".npy", "an archive of NumPy arrays"), ("/data.pkl", ""))
    return next((kind for end, kind in kinds if any(name.endswith(end) for name in inside)), "a ZIP archive")


def require_file(path: Path) -> None:
    """Raise ConfigError if there is no weights file of this name."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name the weights file in it, such as best.safetensors.")
    if not path.is_file():
        raise ConfigError(f"The weights file {path} does not exist.")
    check_fetched(path, ConfigError)


def flatten_tensors(content: object) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries and lists under dotted names."""
    tensors: dict[str, Tensor] = {}
    left, opened = [("", content)], set()
    while left:
        name, part = left.pop()
        if isinstance(part, Tensor):
            tensors[WRAPPERS.sub("", name)] = part
        elif isinstance(part, Mapping | list | tuple) and id(part) not in opened:
            opened.add(id(part))  # a dictionary may contain itself
            inner = list(part.items() if isinstance(part, Mapping) else enumerate(part))
            left += [(f"{name}.{key}" if name else str(key), each) for key, each in inner[::-1]]
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


def count_misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    """Return how many of the wanted tensors, counters apart, are missing or have another shape."""
    return sum(
        name not in tensors or tensors[name].shape != tensor.shape
        for name, tensor in wanted.items()
        if not name.endswith(COUNTERS)
    )


def convert(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as timm converts those of a model's original code; those that it does not know are unchanged."""
    if not any(CHUNK.match(name) for name in model.state_dict()):
        tensors = {CHUNK.sub(r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    known = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(known(dict(tensors), model)) if known else dict(tensors)
    except Exception:  # a file of another kind can fail anywhere; `check_fit` reports what does not fit
        return dict(tensors)


def classifier_names(model: nn.Module) -> list[str]:
    """Return the names of a timm model's classifiers; distilled models have two."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    heads = found if isinstance(found, tuple) else (find_classifier(model),)
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def check_fit(model: nn.Module, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Raise ConfigError with the first tensor that is misshapen, missing or surplus, counters apart."""
    if reason := misfit(found, wanted, "the backbone"):
        raise ConfigError(
            f"{path} does not contain the weights of this backbone ({type(model).__name__}): {reason}. Choose the "
            "backbone and image size with which the file was trained."
        )


def misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whole: str) -> str:
    """Return how many tensors fit, and the first that is misshapen, missing or surplus; empty if there is none.

    Args:
        found: tensors of a file.
        wanted: those of what they are loaded into, which `whole` names.
    """
    reasons = {}
    for name, tensor in wanted.items():
        if name in found and found[name].shape != tensor.shape:
            reasons[name] = f"has the shape {list(found[name].shape)} instead of {list(tensor.shape)}"
        elif name not in found:
            reasons[name] = "is missing"
    fitting = len(wanted) - len(reasons)
    reasons |= {name: f"is not part of {whole}" for name in found if name not in wanted}
    reasons = {name: reason for name, reason in reasons.items() if not name.endswith(COUNTERS)}
    if not reasons:
        return ""
    name, reason = next(iter(reasons.items()))
    return f"{fitting} of {counted(len(wanted), 'tensor')} fit, and {name!r} {reason}"


def load_whole(model: nn.Module, path: Path, name: str, of_classes: Callable[[], set[str]]) -> bool:
    """Load a file of a whole detector or segmentation model, of this library, of torchvision or of transformers.

    Layers whose width is that of the classes are left out with a note where the file has another number of classes.

    Args:
        model: a model on the maps of a timm backbone, which is its `body`.
        path: the file.
        name: what the recipe calls the model.
        of_classes: returns the names of the tensors whose shape depends on the number of classes.

    Returns:
        Whether the file holds more than a backbone; if not, nothing is loaded.

    Raises:
        ConfigError: the file cannot be read, or holds a model of another architecture.
    """
    wanted, content = model.state_dict(), read_tensors(path)
    found: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for naming in NAMINGS:
        own = {naming(each): each for each in wanted}
        prefix = find_prefix(content, {each: wanted[ours] for each, ours in own.items()})
        inner = {each.removeprefix(prefix): tensor for each, tensor in content.items() if each.startswith(prefix)}
        here = {own[each]: tensor for each, tensor in inner.items() if each in own}
        if len(here) > len(found):
            parts = {each.partition(".")[0] for each in own}
            found, other = here, {each: tensor for each, tensor in inner.items() if each not in own}
    if all(each.startswith("body.") for each in found):
        return False
    left_out = {each for each in other if each.startswith(OTHER_TASKS) or each.partition(".")[0] not in parts}
    foreign = {each: tensor for each, tensor in other.items() if each not in left_out}
    misshapen = {each for each, tensor in found.items() if tensor.shape != wanted[each].shape}
    anew = {each.rpartition(".")[0] for each in misshapen & of_classes()} if misshapen else set()
    fitting = {each: tensor for each, tensor in found.items() if each.rpartition(".")[0] not in anew}
    expected = {each: tensor for each, tensor in wanted.items() if each.rpartition(".")[0] not in anew}
    if reason := misfit(fitting | foreign, expected, name):
        raise ConfigError(
            f"{path} contains a model of another architecture than {name}: {reason}. Of torchvision's models, "
            "fasterrcnn_resnet50_fpn and maskrcnn_resnet50_fpn fit faster-rcnn:resnet50, and retinanet_resnet50_fpn, "
            "fcos_resnet50_fpn, deeplabv3_resnet50 and fcn_resnet50 fit retinanet:resnet50 and so on; those of *_v2, "
            "SSD, SSDlite and MobileNet are built differently. Choose what fits (--backbone), or save the file's "
            "backbone alone and start from that."
        )
    check_values(fitting, wanted, path)
    model.load_state_dict(fitting, strict=False)
    new = [f"{each} ({outputs(found, each)} outputs, {outputs(wanted, each)} here)" for each in sorted(anew)]
    notes = f"; begins anew, for another number of classes: {', '.join(new)}" if new else ""
    if tops := sorted({".".join(each.split(".")[:2]) for each in left_out if not each.endswith(COUNTERS)}):
        notes += f"; left out: {', '.join(tops)}"
    say(f"{path}: read {counted(len(fitting), 'tensor')} of {name}{notes}")
    return True


def outputs(tensors: Mapping[str, Tensor], module: str) -> int:
    """Return the width of a layer's output, of which the weight is among the tensors."""
    return tensors[f"{module}.weight"].shape[0]


def _as_torchvision(name: str) -> str:
    """Return what torchvision calls a tensor of a detector."""
    for own, other in (("body.", "backbone.body."), ("neck.", "backbone.fpn."), ("detector.", "")):
        if name.startswith(own):
            return other + name.removeprefix(own)
    return name


def _as_old_torchvision(name: str) -> str:
    """Return what torchvision called it before 0.14, as in its files of weights."""
    name = re.sub(r"((?:inner|layer)_blocks\.\d+)\.0\.", r"\1.", _as_torchvision(name))
    name = re.sub(r"^(rpn\.head\.conv)\.0\.0\.", r"\1.", name)
    return re.sub(r"^(head\.\w+_head\.conv)\.(\d+)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", name)


def _as_segmentation(name: str) -> str:
    """Return what torchvision calls a tensor of a segmentation model."""
    return re.sub(r"^head\.(head\.)?", "classifier.", name) if name.startswith("head.") else f"backbone.{name[5:]}"


def _as_transformers(name: str) -> str:
    """Return what files of transformers' DETR call a tensor of a detector; its classes have newer names."""
    name = re.sub(r"(layers\.\d+)\.mlp\.(fc\d)", r"\1.\2", name.replace("o_proj", "out_proj"))
    return re.sub("^body", "model.backbone.conv_encoder.model", name.removeprefix("detector.model."))


NAMINGS: tuple[Callable[[str], str], ...] = (
    str,
    _as_torchvision,
    _as_old_torchvision,
    _as_segmentation,
    _as_transformers,
)
"""What files call the tensors of models on a backbone's maps."""


def check_values(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Raise ConfigError for the first tensor that cannot be weights."""
    for name, tensor in found.items():
        if name.endswith(COUNTERS) or not wanted[name].is_floating_point():
            continue
        if not tensor.is_floating_point() or tensor.dtype.itemsize < LEAST_BYTES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(
                f"{path} holds quantised weights ({name!r} is {kind}), which mean nothing without their scales: take "
                "the file with the weights before they were quantised."
            )
        if not torch.isfinite(tensor.float()).all():
            raise ConfigError(
                f"{path} holds numbers that are not finite, first in {name!r}: the training that wrote it has failed. "
                "Take an earlier file of it."
            )
