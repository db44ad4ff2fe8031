"""How well the label audit finds wrong labels: clipart12 with planted errors and with its own, beside cleanlab.

    python studies/label_audit.py WORK [--draws 5]

Each draw gives a share of the training and validation labels another class, chosen uniformly. Precision is the share of
wrong labels among the first 20, 50 and N of the list, where N is the number of wrong ones. Labels that were wrong
before count as right, so the figures are slightly too low. Without planted errors, those count that a multimodal model
called wrong when it was shown the first 50 of both lists, mixed: picture, file name and given label, but no suggestion
(`label_audit_judged.csv`; a picture of no class has a wrong label, and one of several a right one). cleanlab ranks the
same out-of-fold probabilities by label quality (`self_confidence` of `cleanlab.filter.find_label_issues`).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
from cleanlab.filter import find_label_issues

from gpt4image import embed_descriptions, load_descriptions, load_encoder, load_images
from gpt4image.images.table import ImageTable
from gpt4image.quality.audit import judge_labels
from gpt4image.soft_labels.labeller import TrainingVectors
from gpt4image.workflows.demo import example_images

SHARES = (0.0, 0.05, 0.2, 0.4)
JUDGED = Path(__file__).with_name("label_audit_judged.csv")
FIRST = (20, 50)


def plant(images: ImageTable, share: float, seed: int) -> tuple[ImageTable, dict[str, int]]:
    """Return the images with some labels wrong, and the true label of each image id; copies are left out."""
    _, first = np.unique(images.ids, return_index=True)
    images = replace(images, rows=images.rows.take(np.sort(first)))
    generator, labels = np.random.default_rng(seed), images.labels.copy()
    rows = np.concatenate([images.split("train"), images.split("validation")])
    wrong = generator.choice(rows, round(share * len(rows)), replace=False)
    labels[wrong] = (labels[wrong] + generator.integers(1, len(images.classes), len(wrong))) % len(images.classes)
    true = dict(zip(images.rows["id"].to_pylist(), images.labels.tolist(), strict=True))
    at = images.rows.schema.get_field_index("label")
    rows_of = images.rows.set_column(at, images.rows.schema.field(at), pa.array(labels, pa.int32()))
    return replace(images, rows=rows_of), true


def precision(ranked: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Return the share of wrong labels [n] among the first of a ranking, by how many are taken."""
    return {str(count): float(wrong[ranked[:count]].mean()) for count in FIRST if len(ranked)} | {
        "all planted": float(wrong[ranked[: int(wrong.sum())]].sum() / max(wrong.sum(), 1))
    }


def find_known_errors(known: TrainingVectors, rankings: Sequence[np.ndarray], images: ImageTable) -> np.ndarray:
    """Return which labels were found wrong by looking, bool [n], and print what nobody has looked at yet."""
    with JUDGED.open(newline="") as file:
        judged = {(row["id"], row["given"]): row["wrong"] == "yes" for row in csv.DictReader(file)}
    path_of = dict(zip(images.rows["id"].to_pylist(), images.rows["path"].to_pylist(), strict=True))
    keys = [
        (name.decode(), images.classes[label]) for name, label in zip(known.ids.tolist(), known.labels, strict=True)
    ]
    first = {keys[row] for ranked in rankings for row in ranked[: max(FIRST)].tolist()}
    for name, given in sorted(first - judged.keys()):
        print(f"not judged: {name},{path_of[name]},{given}", flush=True)
    return np.asarray([judged.get(key, False) for key in keys])


def main() -> None:
    """Run the study, save WORK/label_audit.json and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    images, encoder = load_images(example_images()), load_encoder("minilm")
    store = embed_descriptions(load_descriptions(images, "description"), encoder, options.work / "minilm")
    found = []
    for share in SHARES:
        for seed in range(options.draws if share else 1):
            noisy, true = plant(images, share, seed)
            judgement = judge_labels(noisy, [store], encoders=[encoder])
            known = judgement.known
            wrong = np.asarray([true[name.decode()] for name in known.ids.tolist()]) != known.labels
            theirs = find_label_issues(
                known.labels.astype(int), judgement.probabilities, return_indices_ranked_by="self_confidence"
            )
            if not share:
                wrong = find_known_errors(known, [judgement.doubtful(), theirs], images)
            estimate = judgement.labelling.wrong
            found.append(
                {
                    "share": share,
                    "seed": seed,
                    "planted": int(wrong.sum()),
                    "estimated": None if estimate is None else [estimate.mean, estimate.low, estimate.high],
                    "listed": {"audit": len(judgement.doubtful()), "cleanlab": len(theirs)},
                    "audit": precision(judgement.doubtful(), wrong),
                    "cleanlab": precision(theirs, wrong),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    (options.work / "label_audit.json").write_text(json.dumps(found, indent=1))
    for share in SHARES:
        rows = [row for row in found if row["share"] == share]
        for tool in ("audit", "cleanlab"):
            means = {
                name: fmean(row[tool].get(name, float("nan")) for row in rows) for name in ("20", "50", "all planted")
            }
            print(f"{share:.0%} wrong, {tool:8}", {name: round(value, 3) for name, value in means.items()})


if __name__ == "__main__":
    main()
