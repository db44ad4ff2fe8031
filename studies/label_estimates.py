"""How often the labeller's estimates hold: simulated sets whose true labels are known.

    python studies/label_estimates.py OUT.json --sets 200

Each set has 3 to 8 classes of normally distributed vectors whose centres lie at random distances, names near the
centres, and either few labels or wrong ones. An estimate holds if the truth lies within its 95% interval: of the share
of right labels among unlabelled rows (few labels), and of the share of wrong given labels (wrong labels).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gpt4image.core.files import write_json
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples

ROWS, WIDTH = 600, 32


def simulate(seed: int) -> dict[str, Any]:
    """Label one set and return what was estimated and what is true."""
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(3, 9))
    true = generator.choice(classes, ROWS, p=generator.dirichlet(np.full(classes, 8.0)))
    centres = generator.uniform(1.2, 3.5) * generator.normal(size=(classes, WIDTH)) / WIDTH**0.5
    vectors = centres[true] + generator.normal(size=(ROWS, WIDTH)) / 2
    scale = np.linalg.norm(vectors, axis=1).mean()
    examples = Examples((centres + generator.normal(size=centres.shape) / 2) / scale, np.arange(classes))
    if seed % 2 == 0:
        kind, count = "few", int(generator.integers(5, 21))
        labels = np.full(ROWS, -1)
        for value in range(classes):
            rows = generator.permutation(np.flatnonzero(true == value))[:count]
            labels[rows] = value
    else:
        kind, share = "wrong", generator.uniform(0.05, 0.4)
        step = generator.integers(1, classes, ROWS) if generator.random() < 0.5 else 1
        labels = np.where(generator.random(ROWS) < share, (true + step) % classes, true)
    found = label_rows(vectors / scale, labels, np.arange(ROWS), classes, examples, seed=seed)
    if kind == "few":
        truth = float((found.of_labels(labels).argmax(axis=1) == true)[labels < 0].mean())
        interval = found.accuracy
    else:
        truth, interval = float((labels != true).mean()), found.wrong
    assert interval is not None
    return {
        "seed": seed,
        "kind": kind,
        "truth": truth,
        "estimate": [interval.mean, interval.low, interval.high],
        "holds": bool(interval.low <= truth <= interval.high),
        "method": found.method,
    }


def main() -> None:
    """Parse the command line, run what the file lacks, and print how often the estimates hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", type=int, default=200)
    chosen = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in range(chosen.sets):
        results.append(simulate(seed))
        write_json(chosen.out, results)
    for kind in ("few", "wrong"):
        held = [each["holds"] for each in results if each["kind"] == kind]
        errors = [abs(each["estimate"][0] - each["truth"]) for each in results if each["kind"] == kind]
        print(
            f"{kind}: {np.mean(held):.1%} of {len(held)} intervals hold, mean error {100 * np.mean(errors):.1f} points"
        )


if __name__ == "__main__":
    main()
