"""Soft labels from texts on clipart12: share, temperature, schedule, alignment, encoders, and controls.

    python studies/soft_labels.py run WORK --seeds 10              # every variant with every seed; resumes
    python studies/soft_labels.py run WORK --variants 'sharp-*'    # some of them
    python studies/soft_labels.py table WORK                       # each variant against its baseline, as Markdown

The recipe is the demo's: small heads on frozen ImageNet features, so a run takes seconds. All variants share seeds,
order and augmentation with their baseline. The controls are as soft as the soft labels, but carry no information about
the individual image: uniform label smoothing, the mean soft label of the image's class, and the soft labels of other
images of its class.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from gpt4image import EmbeddingStore, SoftLabels, embed_descriptions, load_descriptions, load_encoder, load_images
from gpt4image.compare.predictions import predict_test_images
from gpt4image.core.files import write_json
from gpt4image.descriptions import DescriptionSet
from gpt4image.images import ImageTable, drop_leaks
from gpt4image.probing.intervals import paired_interval
from gpt4image.soft_labels import LabelOrigin, label_by_vectors, write_soft_labels
from gpt4image.train.run import train_model
from gpt4image.workflows.demo import demo_recipe, example_images, packaged_weights

SOFT_LABELS_ONLY = {"weight": 0.0, "soft_temperature": 1.0}


@dataclass(frozen=True)
class Variant:
    """One way of training.

    Attributes:
        title: row heading of the table.
        changes: changes to the demo's recipe.
        labels: name of its soft labels.
        baseline: the variant it is compared with.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    labels: str = "minilm"
    baseline: str = "baseline"

    def sharpened(self) -> Variant:
        """Return the same without mixup and label smoothing, which soften labels too."""
        return replace(self, changes={"mixup": 0.0, "label_smoothing": 0.0, **self.changes}, baseline="sharp-baseline")


def soft(share: float, title: str, labels: str = "minilm", **changes: Any) -> Variant:  # noqa: ANN401 - recipe fields
    """Mix in soft labels, without alignment unless `changes` turn it on."""
    return Variant(title, {**SOFT_LABELS_ONLY, "soft_labels": share, **changes}, labels)


BASELINES = {"baseline": "The demo's recipe", "sharp-baseline": "The same without mixup and label smoothing"}
VARIANTS: dict[str, Variant] = {
    "baseline": Variant("labels alone", {"weight": 0.0}),
    "align": Variant("alignment"),
    "share-0.3": soft(0.3, "soft labels, share 0.3"),
    "share-0.5": soft(0.5, "soft labels, share 0.5"),
    "share-0.7": soft(0.7, "soft labels, share 0.7"),
    "share-0.9": soft(0.9, "soft labels, share 0.9"),
    "fitted": soft(0.5, "share 0.5, temperature fitted", soft_temperature=None),
    "softer": soft(0.5, "share 0.5, temperature 2", soft_temperature=2.0),
    "early": soft(0.5, "share 0.5, first half of training", soft_until=0.5),
    "late": soft(0.5, "share 0.5, second half of training", soft_from=0.5),
    "words": soft(0.5, "share 0.5, from word counts (TF-IDF)", "words"),
    "two-encoders": soft(0.5, "share 0.5, from both encoders", "both"),
    "both": soft(0.5, "share 0.5 and alignment", weight=0.3),
    "stages": soft(0.5, "alignment first, then share 0.5", weight=0.3, align_until=0.5, soft_from=0.5),
    "uniform": Variant("control: label smoothing 0.3", {"weight": 0.0, "label_smoothing": 0.3}),
    "class-mean": soft(0.5, "control: share 0.5, class mean", "class-mean"),
    "permuted": soft(0.5, "control: share 0.5, from another image of the class", "permuted"),
}
SHARPENED = ("baseline", "align", "share-0.3", "share-0.5", "share-0.7", "both", "uniform", "class-mean", "permuted")
VARIANTS |= {f"sharp-{name}": VARIANTS[name].sharpened() for name in SHARPENED}
WITHOUT_TEXT = (*BASELINES, "uniform", "sharp-uniform")


class WordEncoder:
    """A text encoder of words and word pairs: TF-IDF and its largest singular directions, fitted to some texts."""

    name, max_tokens, width = "words", 10_000, 256

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self._directions = TruncatedSVD(self.width, random_state=0).fit(self._words.fit_transform(texts))
        self.revision = f"{len(texts)} texts"

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the words of each text."""
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors [N, D]."""
        vectors = self._directions.transform(self._words.transform(texts)).astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def embed(images: ImageTable, texts: DescriptionSet, work: Path) -> dict[str, EmbeddingStore]:
    """Embed the texts with both encoders. The vocabulary comes from the training texts, without their labels."""
    training = images.split("train")
    known = [text for text in texts.texts_of(id_.decode() for id_ in images.ids[training].tolist()) if text]
    encoders = {"minilm": load_encoder("minilm"), "words": WordEncoder(known)}
    return {name: embed_descriptions(texts, encoder, work / name) for name, encoder in encoders.items()}


def make_labels(images: ImageTable, stores: dict[str, EmbeddingStore], work: Path) -> dict[str, SoftLabels]:
    """Return the soft labels of each encoder and of both, and two controls derived from MiniLM's."""
    found = {name: label_by_vectors(images, [store], work / "labels" / name) for name, store in stores.items()}
    found["both"] = label_by_vectors(images, list(stores.values()), work / "labels" / "both")
    controls: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "class-mean": lambda rows: np.broadcast_to(softmax(rows, axis=1).mean(axis=0), rows.shape),
        "permuted": lambda rows: softmax(np.roll(rows, 1, axis=0), axis=1),
    }
    return found | {
        name: change_within_classes(images, found["minilm"], change, work / "labels" / name)
        for name, change in controls.items()
    }


def change_within_classes(
    images: ImageTable, labels: SoftLabels, change: Callable[[np.ndarray], np.ndarray], folder: Path
) -> SoftLabels:
    """Replace the soft labels of each class's training images: `change` maps their logits [n, C] to probabilities."""
    rows = images.split("train")
    _, first = np.unique(images.ids[rows], return_index=True)
    rows = rows[first]
    rows = rows[(labels.find(images.ids[rows]) >= 0) & (images.labels[rows] >= 0)]
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    logits = np.log(np.maximum(labels.take(labels.find(images.ids[rows]), temperature=1.0), 1e-12))
    changed = np.empty_like(logits)
    for value in np.unique(images.labels[rows]):
        of_class = images.labels[rows] == value
        changed[of_class] = np.log(np.maximum(change(logits[of_class]), 1e-12))
    origin = LabelOrigin(kind="text", sources=labels.manifest.origin.sources)
    return write_soft_labels(folder, images.ids[rows], changed, labels.classes, origin)


def run(work: Path, seeds: int, pattern: str = "*") -> None:
    """Train the variants whose names match a pattern, seed by seed; finished runs are skipped."""
    images = drop_leaks(load_images(str(example_images()), work=work))
    stores = embed(images, load_descriptions(images, "description"), work)
    labels = make_labels(images, stores, work)
    for name in ("minilm", "words", "both"):
        print(f"labeller {name}: {labels[name].manifest.quality}", flush=True)
    recipe = demo_recipe(packaged_weights(work / "imagenet-weights.safetensors"))
    for seed in range(seeds):
        for name in fnmatch.filter(VARIANTS, pattern):
            variant = VARIANTS[name]
            finished = work / "runs" / f"{name}-{seed}" / "right.json"
            if finished.exists():
                continue
            changed = replace(recipe, **variant.changes)
            trained = train_model(
                images,
                stores["minilm"],
                changed,
                finished.parent,
                arm="baseline" if name in WITHOUT_TEXT else "described",
                seed=seed,
                features=work / "features",
                soft_labels=[labels[variant.labels]],
            )
            right = predict_test_images(trained, images, features=work / "features").correct.astype(int)
            write_json(finished, right.tolist())
            print(f"seed {seed}  {name:14} {right.mean():.1%}", flush=True)


def read_right(work: Path, name: str, seeds: Sequence[int]) -> np.ndarray:
    """Return the correct predictions of each seed, [S, N] of 0 and 1."""
    return np.array([json.loads((work / "runs" / f"{name}-{seed}" / "right.json").read_text()) for seed in seeds])


def points(differences: np.ndarray) -> str:
    """Format a mean difference with its confidence interval, in percentage points."""
    found = paired_interval(differences)
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def table(work: Path) -> None:
    """Print each variant against its baseline, over all seeds that every variant has and over both halves of them."""
    for baseline, title in BASELINES.items():
        names = [name for name, variant in VARIANTS.items() if variant.baseline == baseline]
        seeds = range(min(len(list((work / "runs").glob(f"{name}-[0-9]*/right.json"))) for name in names))
        if not seeds:
            continue
        alone, half = read_right(work, baseline, seeds), len(seeds) // 2
        print(f"\n{title}, {len(seeds)} seeds, {alone.shape[1]} test images:\n")
        print("| | accuracy | difference to labels alone, points | first half of the seeds | second half |")
        print("| --- | --- | --- | --- | --- |")
        for name in names:
            right = read_right(work, name, seeds)
            difference = (right - alone).astype(float)
            halves = [f"{100 * part.mean():+.1f}" for part in (difference[:half], difference[half:])]
            cells = ["", "", ""] if name == baseline else [points(difference), *halves]
            print(f"| {' | '.join([VARIANTS[name].title, f'{right.mean():.1%}', *cells])} |")
        prefix = baseline.removesuffix("baseline")
        own = read_right(work, f"{prefix}share-0.5", seeds)
        for control in ("permuted", "uniform"):
            difference = (own - read_right(work, prefix + control, seeds)).astype(float)
            print(f"\nSoft labels, share 0.5, against {VARIANTS[control].title}: {points(difference)}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--variants", default="*", help="pattern of their names")
    chosen = parser.parse_args()
    if chosen.step == "run":
        run(chosen.work, chosen.seeds, chosen.variants)
    else:
        table(chosen.work)


if __name__ == "__main__":
    main()
