"""A training step with OpenMP's default wait policy and with the library's, and with freed memory kept or returned.

    python benchmarks/waiting.py                  # a small step, for which waiting matters most
    python benchmarks/waiting.py --skip-default   # for machines on which the default takes minutes

Three processes take turns with the same step. Two of them import gpt4image first and, like training, use no more
threads than the step benefits from; one of these keeps the memory of freed tensors, as training also does, and the
other returns it. On an idle machine, the ratio of the first to the default shows the cost of sleeping, and its ratio to
the second shows what keeping memory saves. Beside a process that is always busy, N processors have N + 1 busy threads:
a step with its fair share takes (N + 1) / N of its time on an idle machine, and the ratio to that shows the cost of
waiting. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from paired import Spread, add_options, ratio, save, take_turns

from gpt4image.core.waiting import CHOICES

STEPS = """
import sys, time
if sys.argv[1] != "default":
    import gpt4image
import resource, timm, torch
backbone, size, batch = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = timm.create_model(backbone, num_classes=10)
optimizer = torch.optim.AdamW(model.parameters())
if sys.argv[1] == "gpt4image":
    from gpt4image.core.memory import keep_freed_memory
    keep_freed_memory()
if sys.argv[1] != "default":
    from gpt4image.train.processes import worthwhile_threads
    torch.set_num_threads(worthwhile_threads(model, torch.zeros(1, 3, size, size), batch))
images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
for line in sys.stdin:
    started = time.perf_counter()
    for _ in range(int(line)):
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    print((time.perf_counter() - started) / int(line), flush=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""
SIDES = ("gpt4image", "memory handed back", "default")


@contextmanager
def trained(side: str, asked: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Start a process that runs steps on request."""
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    options = [side, asked.backbone, str(asked.image_size), str(asked.batch_size)]
    command = [sys.executable, "-c", STEPS, *options]
    with subprocess.Popen(command, env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one processor busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_steps(process: subprocess.Popen[str], count: int) -> float:
    """Return the seconds per step."""
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def largest_memory(process: subprocess.Popen[str]) -> float:
    """End the steps and return their peak memory in MiB."""
    process.stdin.close()
    return float(process.stdout.read())


def main() -> None:
    """Print and save the seconds of a step and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    parser.add_argument("--skip-default", action="store_true", help="time the library's way only")
    add_options(parser, rounds=15)
    asked = parser.parse_args()
    names = [name for name in SIDES if name != "default" or not asked.skip_default]
    with ExitStack() as stack:
        processes = {name: stack.enter_context(trained(name, asked)) for name in names}
        sides = {name: partial(run_steps, process, asked.steps) for name, process in processes.items()}
        alone = take_turns(sides, asked.rounds)
        with busy_process():
            beside = take_turns(sides, asked.rounds)
        memory = {name: round(largest_memory(process)) for name, process in processes.items()}
    processors = len(os.sched_getaffinity(0))
    fair = [seconds * (processors + 1) / processors for seconds in alone["gpt4image"]]
    row: dict[str, Spread | dict[str, Any]] = {
        "alone, seconds": {name: Spread.of(costs) for name, costs in alone.items()},
        "beside, seconds": {name: Spread.of(costs) for name, costs in beside.items()},
        "largest memory, MiB": memory,
        "beside_over_fair_share": ratio(beside["gpt4image"], fair),
    }
    for other in names[1:]:
        for place, costs in (("alone", alone), ("beside", beside)):
            row[f"{place}_over_{other.replace(' ', '_')}"] = ratio(costs["gpt4image"], costs[other])
    for name, value in row.items():
        print(f"{name}: {value if isinstance(value, Spread) else ', '.join(f'{k} {v}' for k, v in value.items())}")
    save("waiting", asked, [row])


if __name__ == "__main__":
    main()
