"""Shared parts of the benchmarks: sides that take turns, ratios with their spread, and a record with the machine.

Sides that take turns meet the same load on a shared machine, so their ratio is reliable even if seconds are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "timm", "pillow", "datasets", "numpy")

Costs = dict[str, list[float]]


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> Costs:
    """Call each side once per round, in an order that rotates by one, and return the costs without the warm-up."""
    costs: Costs = {name: [] for name in sides}
    names = list(sides)
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            cost = sides[name]()
            if number >= warm_up:
                costs[name].append(cost)
    return costs


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with their interquartile range."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute median and quartiles of values."""
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the ratio of two sides' costs, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def processor_seconds() -> float:
    """Return the processor time of this process and its children, including those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + sum(times.user + times.system for times in running)


def processor_time(work: Callable[[], object]) -> float:
    """Return the processor time of a call in seconds."""
    started = processor_seconds()
    work()
    return processor_seconds() - started


def wall_time(work: Callable[[], object]) -> float:
    """Return the wall time of a call in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries."""
    import torch

    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options of every benchmark."""
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds in which the sides take turns")
    parser.add_argument("--save", type=Path, help="file of the record; default: benchmarks/results/NAME.json")


def save(name: str, asked: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the record of a benchmark: its options, the machine, and one row per measurement."""
    path = asked.save or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(asked).items()}
    record = {"benchmark": name, "options": options, "machine": machine(), "rows": list(rows)}
    path.write_text(json.dumps(record, indent=1, default=asdict) + "\n", "utf-8")
    print(f"saved: {path}")
