"""Load a vision-language model from the hub or a folder onto a device, without running code that comes with it."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

from gpt4image.core.errors import DescribeError, first_line
from gpt4image.core.format import printable
from gpt4image.core.hub import hub_access

if TYPE_CHECKING:
    import torch

LoadPrecision = Literal["auto", "float32", "bf16", "fp16"]

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
REASON_LENGTH = 300

# How out-of-memory errors are worded, by torch on GPUs and CPUs and by the libraries underneath.
MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class LoadedModel:
    """A model as transformers loads it.

    Attributes:
        processor: turns texts and pictures into model inputs.
        model: the model, in evaluation mode.
        device: its device.
        dtype: dtype of its weights.
        commit: hub commit that was loaded; None for a folder.
    """

    processor: Any
    model: Any
    device: torch.device
    dtype: torch.dtype
    commit: str | None


def load(location: str, device: str | None, precision: LoadPrecision) -> LoadedModel:
    """Load a model.

    Args:
        location: hub name or folder.
        device: torch device; this machine's accelerator if None, or the CPU if there is none.
        precision: dtype of the weights.

    Raises:
        DescribeError: the model cannot be loaded. The message names the fix.
    """
    try:
        with nullcontext() if Path(location).is_dir() else hub_access():
            return load_from(location, choose_device(device), precision)
    except Exception as error:  # transformers, the hub's client and torch share no base class
        reason = shorten(printable(first_line(error)), REASON_LENGTH)
        raise DescribeError(
            f"Model {printable(location)} cannot be loaded: {reason.rstrip('.')}. {loading_advice(location, error)}"
        ) from None


def load_from(location: str, device: torch.device, precision: LoadPrecision) -> LoadedModel:
    """Load processor and weights of one commit; raise whatever the libraries raise."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    commit, dtype = find_commit(location), choose_dtype(precision, device)
    settings: dict[str, Any] = {"trust_remote_code": False, **({"revision": commit} if commit else {})}
    processor = AutoProcessor.from_pretrained(location, **settings)  # type: ignore[no-untyped-call]
    if not hasattr(processor, "tokenizer"):  # AutoProcessor falls back to a bare tokenizer or image processor
        raise ValueError("The files of its processor are missing.")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        location, use_safetensors=True, device_map={"": device}, **{dtype_keyword(): dtype}, **settings
    )
    return LoadedModel(processor, model.eval(), device, dtype, commit)


def find_commit(location: str) -> str | None:
    """Return the commit of the hub's main branch; None for a folder. Raise FileNotFoundError if there is neither."""
    from transformers.utils.hub import cached_file

    if Path(location).is_dir():
        return None
    if not HUB_NAME.fullmatch(location):
        raise FileNotFoundError("there is no such folder, and hub names have the form OWNER/NAME.")
    return Path(str(cached_file(location, "config.json"))).parent.name


def dtype_keyword() -> str:
    """Return the name of `from_pretrained`'s dtype argument, which transformers 4.56 changed."""
    import transformers

    major, minor = transformers.__version__.split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype"


def choose_device(name: str | None) -> torch.device:
    """Return the named device, else this machine's accelerator, else the CPU."""
    import torch

    if name is not None:
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def choose_dtype(precision: LoadPrecision, device: torch.device) -> torch.dtype:
    """Return the dtype of the weights. `auto` is bf16 on an accelerator that supports it, fp16 on others.

    On a CPU `auto` is float32: few CPUs are faster in bf16, and torch has no public way to tell which.
    """
    import torch

    named = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_bf16(device) else torch.float16


def has_bf16(device: torch.device) -> bool:
    """Return whether an accelerator supports bf16 natively."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        torch.ones(1, dtype=torch.bfloat16, device=device).add_(1)
    except (RuntimeError, TypeError):
        return False
    return True


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a device ran out of memory."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in MEMORY_SIGNS)
    return isinstance(error, MemoryError)


def loading_advice(location: str, error: Exception) -> str:
    """Return the fix for a model that cannot be loaded."""
    if is_out_of_memory(error):
        return "Choose a smaller model, or a device with more memory."
    if isinstance(error, ImportError):
        return "Install the packages that it needs besides transformers."
    if "trust_remote_code" in str(error):
        return "The model needs its own code, which is not run here: choose a model that transformers itself supports."
    if Path(location).is_dir():
        return (
            "The folder must contain a vision-language model as save_pretrained writes it: config.json, weights in "
            "*.safetensors, and the files of its processor."
        )
    return (
        "Check the name and the network (and that HF_HUB_OFFLINE is not set), or pass a folder with the model. For a "
        "gated model, accept its terms on its page and set HF_TOKEN."
    )
