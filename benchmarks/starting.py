"""The cost of a command with nothing left to do: start-up, a finished comparison, and image sets seen before.

    python benchmarks/starting.py                    # tar of 50,000 samples, 100,000 files
    python benchmarks/starting.py --samples 500 --files 500 --rounds 2

Both sides take turns: the same command with and without the results in the work directory. The cost is processor time.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagenet_scale import pictures
from paired import Costs, Spread, add_options, processor_time, ratio, save, take_turns

from gpt4image import load_images
from gpt4image.compare.experiments import experiment_layouts
from gpt4image.core.workdir import WorkDir

CLIPART12 = Path(__file__).parents[1] / "examples" / "clipart12"
SMALL = "--backbone resnet10t --no-pretrained --image-size 32 --epochs 1 --warmup-epochs 0 --seeds 1 --leaks drop"


def gpt4image(*words: str) -> None:
    """Run a command in a process of its own."""
    answer = subprocess.run([sys.executable, "-m", "gpt4image", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr)


def start(asked: argparse.Namespace, folder: Path) -> Costs:
    """The overview of commands, compared with starting only Python."""
    alone = [sys.executable, "-c", "pass"]
    return take_turns(
        {
            "again": lambda: processor_time(lambda: gpt4image("--help")),
            "first": lambda: processor_time(lambda: subprocess.run(alone, check=True)),
        },
        asked.rounds,
    )


def comparison(asked: argparse.Namespace, folder: Path) -> Costs:
    """A finished comparison that is recognised by its record, and without the record, which takes opening its runs."""
    words = ["compare", str(asked.compared), "--text", asked.text, "--work", str(folder), *SMALL.split()]
    gpt4image(*words)

    def without() -> float:
        for layout in experiment_layouts(WorkDir(folder)):
            layout.comparison_inputs.unlink()
        return processor_time(lambda: gpt4image(*words))

    sides = {"again": lambda: processor_time(lambda: gpt4image(*words)), "first": without}
    return take_turns(sides, asked.rounds, warm_up=0)  # the comparison itself was the warm-up


def reload(source: Path, rounds: int, kept: Path) -> Costs:
    """Load an image set with its cache in the work directory, and with an empty work directory."""

    def with_cache() -> float:
        return processor_time(lambda: load_images(source, work=kept))

    def without() -> float:
        shutil.rmtree(kept, ignore_errors=True)
        return processor_time(lambda: load_images(source, work=kept))

    without()
    costs: Costs = {"again": [], "first": []}
    for _ in range(rounds):
        costs["first"].append(without())
        costs["again"].append(with_cache())
    return costs


def tar(asked: argparse.Namespace, folder: Path) -> Costs:
    """A WebDataset tar."""
    source = folder / "set"
    source.mkdir()
    with tarfile.open(source / "train.tar", "w") as archive:
        for number, data in enumerate(pictures(asked.samples)):
            for suffix, content in (("png", data), ("cls", b"%d" % (number % 10))):
                member = tarfile.TarInfo(f"{number:07}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return reload(source, asked.rounds, folder / "work")


def files(asked: argparse.Namespace, folder: Path) -> Costs:
    """A folder of class folders."""
    for number, data in enumerate(pictures(asked.files)):
        path = folder / "set" / f"class {number % 10}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return reload(folder / "set", asked.rounds, folder / "work")


CASES: dict[str, Callable[[argparse.Namespace, Path], Costs]] = {
    "help": start,
    "finished compare": comparison,
    "tar": tar,
    "files": files,
}


def main() -> None:
    """Print and save the costs and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--compared", type=Path, default=CLIPART12, help="image set of the comparison")
    parser.add_argument("--text", default="description", help="its descriptions")
    parser.add_argument("--samples", type=int, default=50_000, help="samples in the tar")
    parser.add_argument("--files", type=int, default=100_000, help="files in the folder")
    add_options(parser, rounds=3)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in asked.cases:
        with tempfile.TemporaryDirectory() as folder:
            costs = CASES[name](asked, Path(folder))
        again, first = (Spread.of(costs[side]) for side in ("again", "first"))
        share = ratio(costs["again"], costs["first"])
        other = "Python alone" if name == "help" else "without what is kept"
        print(f"{name}: {again} s; {other} {first} s; ratio {share}", flush=True)
        rows.append({"case": name, "seconds": again, "other": other, "other_seconds": first, "ratio": share})
    save("starting", asked, rows)


if __name__ == "__main__":
    main()
