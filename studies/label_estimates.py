"""How often the labeller's estimates hold: simulated sets, and clipart12, whose true labels are known.

    python studies/label_estimates.py OUT.json --sets 200
    python studies/label_estimates.py OUT.json --sets 0 --clipart12 WORK --draws 4

Each set has 3 to 8 classes of normally distributed vectors whose centres lie at random distances, names near the
centres, and either few labels or wrong ones. An estimate holds if the truth lies within its 95% interval: of the share
of right labels (few labels: among unlabelled rows; wrong ones: among all rows, where given labels are replaced), and of
the share of wrong given labels. clipart12's training labels are made wrong at random, 20% and 40% of them. Those that
are wrong from the start count as right, and then as wrong in two ways: those that one person called wrong by eye
(`label_estimates_judged.csv`), and these with all but one class of each image that is filed under several. OUT.json is
written after every set, and sets that it holds are skipped: after a change of the labeller, name another file.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpt4image.core.files import read_json, write_json
from gpt4image.probing.intervals import Interval
from gpt4image.soft_labels.labelling import label_rows
from gpt4image.soft_labels.methods import Examples

ROWS, WIDTH = 600, 32
CLIPART12 = ("20% wrong", "40% wrong")
JUDGED = Path(__file__).with_name("label_estimates_judged.csv")


@dataclass(frozen=True)
class SimulatedSet:
    """Vectors, their true classes, and the labels that are given.

    Attributes:
        vectors: float [N, D].
        true: int [N].
        given: int [N], -1 for none.
        names: vectors of the classes' names.
        noise: which class a wrong label names: any other one, or always the next one; None if labels are few.
        groups: leakage groups, int [N].
        wrong_before: labels that were wrong before any was made wrong, bool [N], by the way they are counted.
    """

    vectors: np.ndarray
    true: np.ndarray
    given: np.ndarray
    names: Examples
    noise: Literal["symmetric", "pairwise"] | None
    groups: np.ndarray
    wrong_before: dict[str, np.ndarray] = field(default_factory=dict)


def simulate(seed: int) -> SimulatedSet:
    """Draw a set: few labels with even seeds, wrong ones with odd."""
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(3, 9))
    true = generator.choice(classes, ROWS, p=generator.dirichlet(np.full(classes, 8.0)))
    centres = generator.uniform(1.2, 3.5) * generator.normal(size=(classes, WIDTH)) / WIDTH**0.5
    vectors = centres[true] + generator.normal(size=(ROWS, WIDTH)) / 2
    scale = np.linalg.norm(vectors, axis=1).mean()
    names = Examples((centres + generator.normal(size=centres.shape) / 2) / scale, np.arange(classes))
    noise: Literal["symmetric", "pairwise"] | None = None
    if seed % 2 == 0:
        count = int(generator.integers(5, 21))
        given = np.full(ROWS, -1)
        for value in range(classes):
            rows = generator.permutation(np.flatnonzero(true == value))[:count]
            given[rows] = value
    else:
        share = generator.uniform(0.05, 0.4)
        noise = "symmetric" if generator.random() < 0.5 else "pairwise"
        step = generator.integers(1, classes, ROWS) if noise == "symmetric" else 1
        given = np.where(generator.random(ROWS) < share, (true + step) % classes, true)
    return SimulatedSet(vectors / scale, true, given, names, noise, np.arange(ROWS))


def spoil_clipart12(work: Path, case: str, draw: int) -> SimulatedSet:
    """Make labels of clipart12's training images wrong, as the study of scarce labels does."""
    from scarce_labels import CASES, Study, open_images

    from gpt4image import load_encoder
    from gpt4image.images.simulate import simulate_labels
    from gpt4image.soft_labels import ClassTexts

    images, _, store = open_images(Study(work))
    train = images.split("train")
    true, copies = images.labels[train], np.unique(images.ids[train], return_inverse=True)[1]
    keys = [(name.decode(), images.classes[label]) for name, label in zip(images.ids[train], true, strict=True)]
    return SimulatedSet(
        store.take(store.find(images.ids[train])),
        true,
        simulate_labels(images, CASES[case], draw).labels[train],
        Examples(*ClassTexts.of_names(images.classes).embed([load_encoder("minilm")])),
        "symmetric",
        copies,
        find_wrong(keys, copies, true),
    )


def find_wrong(keys: list[tuple[str, str]], copies: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the labels that are wrong from the start, bool [N]: by eye, and with one class for each image.

    Args:
        keys: id and class of each row.
        copies: number of the image of each row, int [N].
        labels: class of each row, int [N].
    """
    with JUDGED.open(newline="") as file:
        wrong = {(row["id"], row["given"]) for row in csv.DictReader(file) if row["judged"] == "wrong"}
    by_eye = np.asarray([key in wrong for key in keys])
    counts = np.zeros((copies.max() + 1, labels.max() + 1), int)
    np.add.at(counts, (copies, labels), 1)
    return {"judged": by_eye, "one class": by_eye | (labels != counts.argmax(axis=1)[copies])}


def judge(seed: int) -> dict[str, Any]:
    """Label one simulated set and return what was estimated and what is true."""
    drawn = simulate(seed)
    return {"seed": seed, "kind": "few" if drawn.noise is None else "wrong", **estimate(drawn, seed)}


def estimate(drawn: SimulatedSet, seed: int) -> dict[str, Any]:
    """Label a set and return what was estimated and what is true."""
    classes = len(drawn.names.labels)
    found = label_rows(drawn.vectors, drawn.given, drawn.groups, classes, drawn.names, seed=seed)
    right = found.of_labels(drawn.given).argmax(axis=1) == drawn.true
    estimates: dict[str, Any] = {}
    if drawn.noise is None or found.replaced:
        judged = drawn.given < 0 if drawn.noise is None else np.ones(len(right), dtype=bool)
        estimates["right"] = compare(found.accuracy, float(right[judged].mean()))
    if drawn.noise is not None:
        estimates["wrong"] = compare(found.wrong, float((drawn.given != drawn.true).mean()))
    for name, before in drawn.wrong_before.items():
        estimates[f"wrong, {name}"] = compare(found.wrong, float(((drawn.given != drawn.true) | before).mean()))
    labelled = int((drawn.given >= 0).sum())
    return {
        "noise": drawn.noise,
        "classes": classes,
        "labelled": labelled,
        "method": found.method,
        **estimates,
    }


def compare(estimated: Interval | None, truth: float) -> dict[str, Any]:
    """Return an estimate beside the truth."""
    assert estimated is not None
    return {
        "truth": truth,
        "estimate": [estimated.mean, estimated.low, estimated.high],
        "holds": bool(estimated.low <= truth <= estimated.high),
    }


def summary(results: list[dict[str, Any]]) -> list[str]:
    """Say how often each kind of estimate holds, and how far it is off."""
    groups: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
        "right labels, few given": ("right", lambda each: each["kind"] == "few"),
        "right labels, some given wrong": ("right", lambda each: each["kind"] == "wrong"),
        "wrong labels": ("wrong", lambda each: each["kind"] == "wrong"),
        "wrong labels, symmetric": ("wrong", lambda each: (each["kind"], each["noise"]) == ("wrong", "symmetric")),
        "wrong labels, pairwise": ("wrong", lambda each: each["noise"] == "pairwise"),
        "wrong labels, pairwise, 25% or more": (
            "wrong",
            lambda each: each["noise"] == "pairwise" and each["wrong"]["truth"] >= 0.25,
        ),
    }
    for case in CLIPART12:
        for key in ("right", "wrong", "wrong, judged", "wrong, one class"):
            groups[f"{key}; clipart12, {case}"] = (key, lambda each, case=case: each["kind"] == case)
    lines = [
        "| estimate of | sets | intervals that hold | mean error, points | bias | width |",
        "| --- " * 6 + "|",
    ]
    for name, (key, chosen) in groups.items():
        found = [each[key] for each in results if key in each and chosen(each)]
        if not found:
            continue
        errors = 100 * np.array([each["estimate"][0] - each["truth"] for each in found])
        held, width = (
            np.mean([each["holds"] for each in found]),
            100 * np.mean([each["estimate"][2] - each["estimate"][1] for each in found]),
        )
        lines.append(
            f"| {name} | {len(found)} | {held:.1%} | {np.abs(errors).mean():.1f} | {errors.mean():+.1f} | {width:.1f} |"
        )
    return lines


def main() -> None:
    """Parse the command line, run what the file lacks, and print how often the estimates hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--clipart12", type=Path, metavar="WORK", help="folder for its images and vectors")
    parser.add_argument("--draws", type=int, default=4, help="draws of clipart12's labels for each share of wrong ones")
    chosen = parser.parse_args()
    results: list[dict[str, Any]] = read_json(chosen.out) if chosen.out.exists() else []
    done = {each["seed"] for each in results if each["kind"] not in CLIPART12}
    for seed in sorted(set(range(chosen.sets)) - done):
        results.append(judge(seed))
        write_json(chosen.out, results)
    for case, draw in product(CLIPART12, range(chosen.draws if chosen.clipart12 else 0)):
        if not any((each["seed"], each["kind"]) == (draw, case) for each in results):
            drawn = spoil_clipart12(chosen.clipart12, case, draw)
            results.append({"seed": draw, "kind": case, **estimate(drawn, draw)})
            write_json(chosen.out, results)
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
