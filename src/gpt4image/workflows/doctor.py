"""Examine an installation: versions, devices, keys, servers, disk space, and missing optional parts."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from gpt4image.core.format import counted
from gpt4image.core.invocation import install_command
from gpt4image.describe.clients import PROGRAMS, is_listening
from gpt4image.images.scan import available_processors

PACKAGE = "gpt4image"
SHOWN_VERSIONS = ("torch", "torchvision", "timm", "transformers", "sentence-transformers", "accelerate", "datasets")
KEYS = ("OPENAI_API_KEY", "HF_TOKEN")
FOR_DEVELOPERS = ("dev", "docs", "test")  # extras that a user does not need
GIGABYTE = 1e9
LOW_DISK = 5 * GIGABYTE

State = Literal["ok", "missing", "warning"]


class DoctorLine(NamedTuple):
    """One line of the examination.

    Attributes:
        section: what it is about.
        name: the item examined.
        state: `ok`, `missing` (nothing is wrong, but an optional feature cannot be used) or `warning`.
        detail: what was found, or what to do.
    """

    section: str
    name: str
    state: State
    detail: str


def examine_installation(work: Path) -> list[DoctorLine]:
    """Examine this installation. Starts nothing, sends nothing, and shows no secret.

    Args:
        work: the work directory, which need not exist.
    """
    return [
        *versions(),
        *devices(),
        *extras(),
        *keys(),
        *asyncio.run(servers()),
        *disk(work),
    ]


def versions() -> Iterator[DoctorLine]:
    """Yield the versions of the package, of Python and of the most important libraries."""
    yield DoctorLine("versions", PACKAGE, "ok", metadata.version(PACKAGE))
    yield DoctorLine(
        "versions", "Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    for name in SHOWN_VERSIONS:
        yield DoctorLine("versions", name, "ok", metadata.version(name))
    required = (Requirement(text) for text in metadata.requires(PACKAGE) or ())
    for problem in (found for each in required if is_always(each) and (found := unsatisfied(each))):
        yield DoctorLine("versions", problem.name, "warning", f"{problem} is required: reinstall {PACKAGE}")


def devices() -> Iterator[DoctorLine]:
    """Yield the devices that can compute."""
    import torch

    memory = f", {memory_bytes() / GIGABYTE:.0f} GB of memory" if memory_bytes() else ""
    threads = counted(torch.get_num_threads(), "thread")
    yield DoctorLine("devices", "CPU", "ok", f"{counted(available_processors(), 'core')}{memory}; torch uses {threads}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            detail = f"{found.name}, {found.total_memory / GIGABYTE:.0f} GB"
            yield DoctorLine("devices", f"cuda:{number}", "ok", detail)
    elif torch.backends.mps.is_available():
        yield DoctorLine("devices", "mps", "ok", "Apple GPU")
    else:
        yield DoctorLine(
            "devices", "GPU", "missing", "none that torch can use: small models and frozen stages train on the CPU"
        )


def training_memory(
    backbone: str, *, image_size: int, batch_size: int, processes: int, width: int, lora: int, optimizer: str
) -> Iterator[DoctorLine]:
    """Yield the memory that a process needs to train a classifier of 1000 classes (`train.memory`).

    Args:
        backbone: any timm model.
        image_size: side of its input in pixels.
        batch_size: images per step, over all processes.
        processes: processes that share the batch.
        width: length of the text vectors.
        lora: rank of low-rank adapters, 0 for none.
        optimizer: name of the optimiser.
    """
    from gpt4image.train.memory import described, estimate_memory
    from gpt4image.train.recipe import Recipe

    recipe = Recipe(
        backbone=backbone,
        pretrained=False,
        image_size=image_size,
        batch_size=batch_size,
        lora=lora,
        optimizer=optimizer,
    )
    memory = estimate_memory(recipe, 1000, width, processes)
    for name, detail in described(memory, recipe, width, processes):
        yield DoctorLine("memory of a training process", name, "ok", detail)


def extras() -> Iterator[DoctorLine]:
    """Yield which optional parts are installed, and the command for those that are not."""
    required = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    for extra in metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
        if extra in FOR_DEVELOPERS:
            continue
        own = [
            each for each in required if each.marker and not is_always(each) and each.marker.evaluate({"extra": extra})
        ]
        lacking = [each.name for each in own if each.name != PACKAGE and unsatisfied(each)]
        if lacking:
            detail = f"needs {', '.join(lacking)}: {install_command(f'{PACKAGE}[{extra}]')}"
            yield DoctorLine("optional", extra, "missing", detail)
        else:
            yield DoctorLine("optional", extra, "ok", ", ".join(each.name for each in own if each.name != PACKAGE))


def is_always(requirement: Requirement) -> bool:
    """Whether a requirement holds without any extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def unsatisfied(requirement: Requirement) -> Requirement | None:
    """Return the requirement if the installed packages do not satisfy it."""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return requirement
    return None if requirement.specifier.contains(found, prereleases=True) else requirement


def keys() -> Iterator[DoctorLine]:
    """Yield which environment variables hold a key, but never the key itself."""
    for name in KEYS:
        present = bool(os.environ.get(name, "").strip())
        yield DoctorLine(
            "keys", name, "ok" if present else "missing", "set" if present else f"not set: export {name}=..."
        )


async def servers() -> list[DoctorLine]:
    """Return which programs serve a multimodal model on this machine."""
    listening = await asyncio.gather(*(is_listening(program.url) for program in PROGRAMS))
    found = []
    for program, answers in zip(PROGRAMS, listening, strict=True):
        installed = "installed, not running" if shutil.which(program.command) else "not found"
        detail = f"running at {program.url}" if answers else f"{installed}; start it: {program.start}"
        found.append(DoctorLine("servers", program.name, "ok" if answers else "missing", detail))
    return found


def disk(work: Path) -> Iterator[DoctorLine]:
    """Yield the free disk space for the work directory and for downloaded models."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, folder in (("work directory", work), ("model cache", Path(HF_HUB_CACHE))):
        there = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            yield DoctorLine("disk", name, "warning", f"{folder}: {there} is not writable")
        else:
            state: State = "warning" if free < LOW_DISK else "ok"
            yield DoctorLine("disk", name, state, f"{folder}: {free / GIGABYTE:.0f} GB free")


def memory_bytes() -> int:
    """Return the size of the main memory in bytes; 0 where the system does not report it."""
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
