"""Boxes of which a tenth have a class, and all a text: labels alone against classes that the texts tell.

    python studies/box_labels.py train CLIPART WORK [--images 600] [--size 96] [--share 0.1] [--seeds 3] [--epochs 20]
    python studies/box_labels.py table studies/box_labels.json

Builds scenes of CLIPART (`built_scenes.py`) in WORK/scenes, takes the classes of all training boxes but a share away,
anew with each seed, and compares the arms `baseline` and `text-labels`. Prints the difference of the average precision
per image with its 95% interval over seeds and test images. `--results FILE` adds the scores of every test image to a
file, from which `table` prints the tables of `docs/evidence.md`. Further options of `gpt4image compare` come after
`--more`, in place of ImageNet weights from the extra `demo`, such as `--backbone ssdlite:resnet18 --no-pretrained`.
What was done is not done again, also after `kill -9`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from built_scenes import build

from gpt4image import load_images, open_run
from gpt4image.__main__ import main as gpt4image
from gpt4image.compare.predictions import predict_test_images
from gpt4image.compare.records import Comparison
from gpt4image.core.files import atomic_write
from gpt4image.probing.intervals import paired_interval
from gpt4image.soft_labels import SoftLabels
from gpt4image.workflows.demo import packaged_weights

MODEL = ("--backbone", "ssdlite:tf_efficientnet_lite0", "--batch-size", "16", "--lr", "2e-3")
FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")  # so that a run takes minutes
VIEWS = ("--crop-scale", "1.0", "1.0")  # torchvision's search for a crop takes longer than such a small step
MARGIN = "0.1"
ARM = "text-labels"


def compare(scenes: Path, work: Path, chosen: argparse.Namespace) -> Comparison:
    """Train both arms with every seed, and return the record."""
    words = ["compare", str(scenes), "--task", "detection", "--image-size", str(chosen.size), "--work", str(work)]
    words += ["--text", str(scenes / "descriptions.jsonl"), "--crops", MARGIN]
    words += ["--crop-text", str(scenes / "objects.jsonl"), "--arms", ARM, "--label-share", str(chosen.share)]
    words += ["--seeds", str(chosen.seeds), "--epochs", str(chosen.epochs), *MODEL, *VIEWS]
    words += ["--freeze", *(f"body.{name}" for name in FROZEN)]
    words += chosen.more or ["--checkpoint", str(packaged_weights(work.parent / "imagenet-weights.safetensors"))]
    if status := gpt4image(words):
        raise SystemExit(status)
    return Comparison.load(work / "comparison.json")


def train(chosen: argparse.Namespace) -> None:
    """Build, compare, and print what came out."""
    scenes, work = chosen.work / "scenes", chosen.work / "work"
    if not (scenes / "objects.jsonl").exists():
        build(load_images(chosen.clipart), scenes, chosen.images, chosen.size, 0)
    found = compare(scenes, work, chosen)
    images = load_images(scenes, task="detection")
    scores: dict[str, list[list[float]]] = {}
    for arm in found.arms:
        for run in arm.runs:
            predicted = predict_test_images(open_run(work / "runs" / found.run_folder(arm.name, run.seed)), images)
            scores.setdefault(arm.name, []).append([round(float(score), 4) for score in predicted.scores])
    right = []
    for folder in sorted((work / "labels").glob("*boxes*")):
        if (folder / "manifest.json").exists() and (told := SoftLabels(folder).manifest.estimate) and told.accuracy:
            right.append(round(told.accuracy.mean, 4))
    entry = {
        **{name: getattr(chosen, name) for name in ("images", "size", "share", "epochs")},
        "right": right,
        "versions": found.versions,
        "scores": scores,
    }
    if chosen.results:
        entries = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
        entries[f"{chosen.images} scenes of {chosen.size} pixels, {chosen.epochs} epochs"] = entry
        lines = (f"{json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries))
        with atomic_write(chosen.results) as file:
            file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())
    print("\n".join(table({"this": entry})))


def table(entries: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a table of recorded results."""
    lines = ["| scenes | epochs | classes given | draws | baseline | text-labels | classes from texts that are right |"]
    lines.append("| --- " * 7 + "|")
    for each in sorted(entries.values(), key=lambda each: each["epochs"]):
        ours, theirs = (np.array(each["scores"][arm]) for arm in (ARM, "baseline"))
        gap = paired_interval(ours - theirs)
        shown = f"{ours.mean():.1%}, {100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        row = (each["images"], each["epochs"], f"{each['share']:.0%}", len(ours), f"{theirs.mean():.1%}", shown)
        lines.append(f"| {' | '.join(map(str, row))} | {np.mean(each['right']):.1%} |")
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Train, or print the table of recorded results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("clipart", type=Path)
    training.add_argument("work", type=Path)
    training.add_argument("--images", type=int, default=600)
    training.add_argument("--size", type=int, default=96)
    training.add_argument("--share", type=float, default=0.1)
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--epochs", type=int, default=20)
    training.add_argument("--results", type=Path)
    training.add_argument("--more", nargs=argparse.REMAINDER, default=[])
    commands.add_parser("table").add_argument("results", type=Path)
    chosen = parser.parse_args(words)
    if chosen.command == "train":
        train(chosen)
    else:
        print("\n".join(table(json.loads(chosen.results.read_text()))))


if __name__ == "__main__":
    main()
