"""Loading a vision-language model: from the hub or a folder, onto a device, never running code that comes with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

from gpt4image.core.console import printable
from gpt4image.core.errors import DescribeError, first_line

if TYPE_CHECKING:
    import torch


Precision = Literal["auto", "float32", "bf16", "fp16"]


HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


REASON_CHARACTERS = 300


MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


"""What torch's errors say of memory on GPUs, CPUs and in the libraries beneath."""


@dataclass(frozen=True)
class Loaded:
    """A model as transformers loads it.

    Attributes:
        processor: makes model inputs of texts and pictures.
        model: the model, in evaluation mode.
        device: where it is.
        dtype: type of its weights.
        commit: commit of the hub that was loaded, None for a folder.
    """

    processor: Any
    model: Any
    device: torch.device
    dtype: torch.dtype
    commit: str | None


def load(location: str, device: str | None, precision: Precision) -> Loaded:
    """Load a model.

    Args:
        location: hub name, or folder.
        device: torch device; the accelerator of this machine when not given, the CPU where it has none.
        precision: of the weights.

    Raises:
        DescribeError: it cannot be loaded. The message names the fix.
    """
    try:
        return load_from(location, choose_device(device), precision)
    except Exception as error:  # transformers, the hub's client and torch have no common error
        reason = shorten(printable(first_line(error)), REASON_CHARACTERS)
        raise DescribeError(
            f"Model {printable(location)} cannot be loaded: {reason} {advice(location, error)}"
        ) from None


def load_from(location: str, device: torch.device, precision: Precision) -> Loaded:
    """Load processor and weights of one commit; raises whatever the libraries raise."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    commit, dtype = find_commit(location), choose_dtype(precision, device)
    settings: dict[str, Any] = {"trust_remote_code": False, **({"revision": commit} if commit else {})}
    processor = AutoProcessor.from_pretrained(location, **settings)  # type: ignore[no-untyped-call]
    if not hasattr(processor, "tokenizer"):  # what AutoProcessor makes of a folder without a processor
        raise ValueError("The files of its processor are missing.")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        location, use_safetensors=True, device_map={"": device}, **{dtype_keyword(): dtype}, **settings
    )
    return Loaded(processor, model.eval(), device, dtype, commit)


def find_commit(location: str) -> str | None:
    """Commit of the hub's main branch, None for a folder. FileNotFoundError where it can be neither."""
    from transformers.utils.hub import cached_file

    if Path(location).is_dir():
        return None
    if not HUB_NAME.fullmatch(location):
        raise FileNotFoundError("there is no such folder.")
    return Path(str(cached_file(location, "config.json"))).parent.name


def dtype_keyword() -> str:
    """What `from_pretrained` calls the type of the weights; transformers 4.56 gave it a new name."""
    import transformers

    major, minor = transformers.__version__.split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype"


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the accelerator of this machine, or the CPU."""
    import torch

    if name is not None:
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Type of the weights. `auto` is bf16 on an accelerator that has it, fp16 on others, float32 on a CPU.

    Few CPUs are faster in bf16, and torch does not say publicly which: there it is left to the user.
    """
    import torch

    named = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_bf16(device) else torch.float16


def has_bf16(device: torch.device) -> bool:
    """Whether an accelerator computes in bf16 by itself."""
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
    """Whether an error says that memory is out, on whatever device."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in MEMORY_SIGNS)
    return isinstance(error, MemoryError)


def advice(location: str, error: Exception) -> str:
    """What can be done about a model that cannot be loaded."""
    if is_out_of_memory(error):
        return "Take a smaller model, or a device with more memory."
    if isinstance(error, ImportError):
        return "Install what it needs beside transformers."
    if "trust_remote_code" in str(error):
        return "Code that comes with a model is not run here: choose a model that transformers itself knows."
    if Path(location).is_dir():
        return (
            "The folder must hold a vision-language model as save_pretrained writes it: config.json, weights in "
            "*.safetensors, and the files of its processor."
        )
    return (
        "Check the name and the network (and that HF_HUB_OFFLINE is not set), or give a folder that holds the model. "
        "For a model whose terms must be accepted, accept them on its page and set HF_TOKEN."
    )
