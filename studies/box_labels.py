"""Boxes of which a tenth have a class, and all a text: labels alone against classes that the texts tell.

    python studies/box_labels.py CLIPART WORK [--images 600] [--size 160] [--share 0.1] [--seeds 5] [--more OPTIONS]

Builds scenes of CLIPART (`built_scenes.py`) in WORK/scenes, takes the classes of all training boxes but a share away,
anew with each seed, and compares the arms `baseline` and `text-labels`. Prints the difference of the average precision
per image with its 95% interval over seeds and test images, and the share of right classes among those that the texts
tell. OPTIONS are further ones of `gpt4image compare`, in place of ImageNet weights from the extra `demo`, such as
`--backbone ssdlite:resnet18 --no-pretrained`. What was done is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from built_scenes import build

from gpt4image import load_images
from gpt4image.__main__ import main as gpt4image
from gpt4image.compare.records import Comparison
from gpt4image.soft_labels import SoftLabels
from gpt4image.workflows.demo import packaged_weights

MODEL = ("--backbone", "ssdlite:tf_efficientnet_lite0", "--batch-size", "16", "--epochs", "30", "--lr", "2e-3")
MARGIN = "0.1"


def compare(scenes: Path, work: Path, share: float, size: int, seeds: int, more: list[str]) -> Comparison:
    """Train both arms with every seed, and return the record."""
    words = ["compare", str(scenes), "--task", "detection", "--image-size", str(size), "--work", str(work)]
    words += [
        "--text",
        str(scenes / "descriptions.jsonl"),
        "--crops",
        MARGIN,
        "--crop-text",
        str(scenes / "objects.jsonl"),
    ]
    words += ["--arms", "text-labels", "--label-share", str(share), "--seeds", str(seeds), *MODEL]
    words += more or ["--checkpoint", str(packaged_weights(work.parent / "imagenet-weights.safetensors"))]
    if status := gpt4image(words):
        raise SystemExit(status)
    return Comparison.load(work / "comparison.json")


def main() -> None:
    """Build, compare, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clipart", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[])
    chosen = parser.parse_args()
    scenes = chosen.work / "scenes"
    if not (scenes / "objects.jsonl").exists():
        build(load_images(chosen.clipart), scenes, chosen.images, chosen.size, 0)
    found = compare(scenes, chosen.work / "work", chosen.share, chosen.size, chosen.seeds, chosen.more)
    for arm in found.arms:
        scores = [run.test_accuracy for run in arm.runs]
        print(f"{arm.name}: {found.score} {100 * sum(scores) / len(scores):.1f}")
    for folder in sorted((chosen.work / "work" / "labels").glob("*boxes*")):
        if (folder / "manifest.json").exists() and (told := SoftLabels(folder).manifest.estimate) and told.accuracy:
            print(f"{folder.name}: {told.accuracy.mean:.1%} of the classes that texts tell are right, out of fold")
    each = found.difference
    above = "above zero" if each.low > 0 else "with zero in its interval or below"
    print(f"difference: {100 * each.mean:+.1f} points ({100 * each.low:+.1f} to {100 * each.high:+.1f}), {above}")


if __name__ == "__main__":
    main()
